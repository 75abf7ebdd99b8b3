"""Completion of imported tables: options, defaults, validation."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError, UserError
from neuneu.data.cells import as_type
from neuneu.data.choice_metrics import CONTINUOUS_METRICS, available_metrics, choice_metrics
from neuneu.data.choices import Choices
from neuneu.data.defaults import FLOPS_PER_PARAMETER_TOKEN, fill_defaults
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scored_items import ScoredTask
from neuneu.data.scales import FRACTION, PERCENT, Scale, scale_of
from neuneu.data.schemas import ACCURACIES, LOSSES, TASKS, conform, validate

_SUITE: Final = "import"


def complete(imported: Imported, options: ImportOptions, *, name: str) -> Imported:
    """Add what the options specify, fill in defaults, and validate everything.

    Args:
        imported: result of an importer.
        options: options of the import.
        name: what messages call the source.

    Raises:
        DataError: tables that break the contract.
    """
    table = _fractions(imported.accuracies, options, name)
    table, notes = _whole(table, options, name)
    losses = imported.losses
    if losses is not None:
        losses = conform(_whole(losses, options, f"{name} (losses)", LOSSES)[0], LOSSES, name=name)
    accuracies = validate(table, ACCURACIES, name=name)
    choices = _choices(imported.scored, accuracies, name)
    return Imported(
        accuracies=accuracies,
        losses=_with_continuous(losses, choices),
        choices=choices,
        tasks=None if imported.tasks is None else conform(imported.tasks, TASKS, name=name),
        notes=tuple(dict.fromkeys((*imported.notes, *notes))),
    )


def _fractions(table: pa.Table, options: ImportOptions, name: str) -> pa.Table:
    """Return the table with values as fractions.

    Raises:
        DataError: no numbers, percentages without `percent`, or `percent` without percentages.
    """
    value = _numbers(table, "value", name)
    if not np.isfinite(value).any():
        raise DataError(f"{name}: expected accuracies, found no number among the values.")
    scales = _scales(table)
    shares = np.array([scale.unit == PERCENT for scale in scales])
    top = 100.0 if options.percent else 1.0
    if options.percent:
        if np.nanmax(value[shares], initial=0.0) <= 1.0:
            raise UserError(
                f"{name}: --percent: expected values up to 100, found none over 1; leave it out."
            )
        for column in ("value", "stderr"):
            if column in table.column_names:
                numbers = _numbers(table, column, name)
                table = _with(table, column, np.where(shares, numbers / 100.0, numbers))
    limits = np.array([
        (scale.low, top if share else scale.high)
        for scale, share in zip(scales, shares, strict=True)
    ])  # fmt: skip
    bad = np.flatnonzero((value < limits[:, 0]) | (value > limits[:, 1]))
    if len(bad):
        row = int(bad[0])
        low, high = limits[row]
        fractions = value[shares]
        is_percent = (
            shares[row]
            and not options.percent
            and (np.nanmin(fractions) >= 0 and np.nanmax(fractions) <= 100)
        )
        hint = "; give --percent if they are percentages" if is_percent else ""
        where = {
            k: table.column(k)[row].as_py() for k in ("run", "task") if k in table.column_names
        }
        what = "accuracies" if shares[row] else str(table.column("metric")[row].as_py())
        raise DataError(
            f"{name}: row {row + 1} {where}: value is {value[row]:g}; "
            f"expected {what} in [{low:g}, {high:g}]{hint}."
        )
    return table


def _scales(table: pa.Table) -> list[Scale]:
    """The scale of each row's metric."""
    if "metric" not in table.column_names:
        return [FRACTION] * table.num_rows
    return [scale_of(str(metric)) for metric in table.column("metric").to_pylist()]


def _whole(
    table: pa.Table, options: ImportOptions, name: str, schema: pa.Schema = ACCURACIES
) -> tuple[pa.Table, list[str]]:
    specified = {"run": options.run, "family": options.family, "params": options.params}
    if "suite" not in table.column_names:
        specified["suite"] = _SUITE
    for column, value in specified.items():
        if value is not None:
            table = _with(table, column, pa.repeat(value, table.num_rows))
    if options.tokens_per_step is not None:
        if "step" not in table.column_names or table.column("step").null_count == table.num_rows:
            raise UserError(f"{name}: --tokens-per-step: expected steps, found none.")
        table = _with(table, "tokens", _numbers(table, "step", name) * options.tokens_per_step)
    table, notes = _distinct_tokens(table, name)
    for column in ("tokens", "step"):
        if column in table.column_names and 0 < table.column(column).null_count < table.num_rows:
            row = pc.index(pc.is_null(table.column(column)), True).as_py()
            run = table.column("run")[row].as_py()
            raise DataError(
                f"{name}: {column} of run {run!r} are not known at every checkpoint; give "
                "--tokens-per-step, or --step-from for all runs."
            )
    table, assumed = fill_defaults(table, name=name, schema=schema)
    return table, [*notes, *assumed]


def _distinct_tokens(table: pa.Table, name: str) -> tuple[pa.Table, list[str]]:
    """Make tokens proportional to steps where they are missing or equal at different steps.

    Tokens in names are rounded (4B), and a log may begin before the first of them.
    """
    if not {"step", "tokens", "run"} <= set(table.column_names):
        return table, []
    steps, tokens = _numbers(table, "step", name), _numbers(table, "tokens", name).copy()
    runs = np.array(table.column("run").to_pylist(), dtype=object)
    repaired = []
    for run in dict.fromkeys(runs):
        mine = np.flatnonzero((runs == run) & np.isfinite(steps))
        known = mine[np.isfinite(tokens[mine])]
        step, first = np.unique(steps[known], return_index=True)
        at_step = tokens[known][first]
        rises = np.diff(at_step)
        # Tokens that fall are neither rounded nor missing: the validation names the row.
        is_whole = (rises > 0).all() and len(known) == len(mine)
        if is_whole or (rises < 0).any() or not len(step) or not step[-1] or not at_step[-1]:
            continue
        tokens[mine] = steps[mine] * (at_step[-1] / step[-1])
        repaired.append(str(run))
    if not repaired:
        return table, []
    note = f"tokens do not distinguish all checkpoints, taken in proportion to steps: {repaired}"
    return _with(table, "tokens", tokens), [note]


def _choices(
    scored: Sequence[tuple[str, ScoredTask]], accuracies: pa.Table, name: str
) -> tuple[Choices, ...]:
    """Join the scored choices of each run and task; steps and tokens are those of the accuracies.

    Raises:
        DataError: a task whose items differ between checkpoints of a run.
    """
    columns = ("run", "step", "tokens", "family", "suite", "params")
    checkpoints = accuracies.select(columns).group_by(list(columns)).aggregate([]).to_pylist()
    at_step = {(row["run"], row["step"]): row for row in checkpoints}
    at_tokens = {(row["run"], row["tokens"]): row for row in checkpoints}
    groups: dict[tuple, list[tuple[dict[str, Any], ScoredTask]]] = {}
    for run, of in scored:
        place = of.checkpoint
        row = at_tokens[run, place.tokens] if place.step is None else at_step[run, place.step]
        groups.setdefault((run, of.items.task, of.items.num_fewshot), []).append((row, of))
    found = []
    for (run, task, _), several in groups.items():
        several.sort(key=lambda pair: pair[0]["step"])
        (first, one), parts = several[0], [of for _, of in several]
        for row, of in several:
            if of.items.task_hash != one.items.task_hash:
                raise DataError(
                    f"{name}: task {task!r} of run {run!r} has other items in {of.source} (step "
                    f"{row['step']}) than in {one.source}; expected the same documents, prompts "
                    "and choices at every checkpoint. Import them as different runs (--run)."
                )
        alone = [of.unconditional for of in parts if of.unconditional is not None]
        found.append(
            Choices(
                family=first["family"],
                suite=first["suite"],
                run=run,
                params=np.nan if first["params"] is None else first["params"],
                items=one.items,
                steps=np.array([row["step"] for row, _ in several], dtype=np.int64),
                tokens=np.array([row["tokens"] for row, _ in several], dtype=np.float64),
                logprobs=np.stack([of.logprobs for of in parts]),
                unconditional=np.stack(alone) if len(alone) == len(parts) else None,
            )
        )
    return tuple(found)


def _with_continuous(losses: pa.Table | None, choices: Sequence[Choices]) -> pa.Table | None:
    """Add the continuous metrics of tasks that follow from scored choices."""
    rows = [
        {
            "family": of.family, "suite": of.suite, "run": of.run, "params": of.params,
            "num_fewshot": of.items.num_fewshot, "step": int(step), "tokens": float(tokens),
            "flops": FLOPS_PER_PARAMETER_TOKEN * of.params * float(tokens),
            "name": of.items.task, "metric": metric, "value": float(value),
        }
        for of in choices
        for metric, series in choice_metrics(of, metrics=_continuous(of)).items()
        for step, tokens, value in zip(of.steps, of.tokens, series.values, strict=True)
    ]  # fmt: skip
    if not rows:
        return losses
    computed = {key: pa.array([row[key] for row in rows], from_pandas=True) for key in rows[0]}
    table = conform(pa.table(computed), LOSSES, name="scored choices")
    if losses is None:
        return table
    # What the source itself says takes precedence.
    key = ("suite", "run", "num_fewshot", "step", "name", "metric")
    known = set(zip(*(losses.column(column).to_pylist() for column in key), strict=True))
    own = zip(*(table.column(column).to_pylist() for column in key), strict=True)
    return pa.concat_tables([losses, table.filter(pa.array([row not in known for row in own]))])


def _continuous(choices: Choices) -> list[str]:
    known = available_metrics(choices.items, unconditional=choices.unconditional is not None)
    return [metric for metric in known if metric in CONTINUOUS_METRICS]


def _with(table: pa.Table, column: str, values: Any) -> pa.Table:
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return pa.table(columns | {column: pa.array(values, from_pandas=True)})


def _numbers(table: pa.Table, column: str, name: str) -> npt.NDArray[np.float64]:
    found = as_type(table.column(column), pa.float64(), title=column, name=name)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.float64)
