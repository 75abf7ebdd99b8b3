"""What every question can be told, beside the table of evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from neuneu.core.config import build_config
from neuneu.core.errors import UserError
from neuneu.data.load import Dataset, Table, load_dataset
from neuneu.forecasters.horizon import Horizon

_TABLES = ("losses", "tasks", "reference", "reference_losses", "token_losses")
_AVERAGE = ("task", "runs", "metric", "num_fewshot", "seed")


class Options(TypedDict, total=False):
    """Tables and the horizon.

    `losses`: validation losses; `tasks`: the task table (chance, base tasks, groups, items);
    `reference`, `reference_losses`: finished runs to compare with, beside those of the table that
    have reached their planned tokens or the end; `token_losses`: a store that
    has losses word by word. `until` (tokens), `until_flops` or `until_step`: the end, by default
    each run's planned tokens. `context`: take only this share of the checkpoints as seen;
    `context_step`: only those up to a step.
    """

    losses: Table | None
    tasks: Table | None
    reference: Table | None
    reference_losses: Table | None
    token_losses: str | Path | None
    until: float | None
    until_flops: float | None
    until_step: int | None
    context: float | None
    context_step: int | None


class AverageOptions(Options, total=False):
    """And what a question about an average of tasks is about.

    `task`: tasks, base tasks or task groups whose plain mean counts; by default all that every
    run has. `runs`: the runs asked about, by name, `suite/run` or `family/suite/run`; by default
    all. `metric`, `num_fewshot`: of the tasks, by default those that most runs have. `seed`: of
    the samples.
    """

    task: str | Sequence[str]
    runs: Sequence[str]
    metric: str | None
    num_fewshot: int | None
    seed: int


def read_options(
    accuracies: Table, options: Mapping[str, Any], *, points: int | None = None
) -> tuple[Dataset, Horizon]:
    """Reads the tables and the horizon of `Options`.

    Raises:
        UserError: an option that does not exist, tables that cannot be read, two ends.
    """
    tables = {key: value for key, value in options.items() if key in _TABLES}
    rest = {
        key: value
        for key, value in options.items()
        if key not in {*_TABLES, *_AVERAGE} and value is not None
    }
    horizon = build_config(Horizon, rest if points is None else {**rest, "points": points})
    horizon.check()
    return load_dataset(accuracies, **tables, log_notes=False), horizon


def named_tasks(options: Mapping[str, Any]) -> list[str]:
    """The `task` option as a list.

    Raises:
        UserError: an empty name.
    """
    task = options.get("task") or ()
    names = [task] if isinstance(task, str) else list(task)
    if not all(names):
        raise UserError("task: expected names of tasks, found an empty one.")
    return names


def plain_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that can stand in a record; tables from memory are left out."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in options.items()
        if isinstance(value, str | int | float | Path)
    }
