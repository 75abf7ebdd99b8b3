"""Planned runs: what the user says of them, and trajectories without checkpoints to forecast.

They come from the option `plan` or from rows of the table of runs without an evaluation, and are
forecast on every task that finished runs have.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray
from neuneu.data.cells import listed, quoted
from neuneu.data.checks import LARGEST
from neuneu.data.load import Dataset
from neuneu.data.runs import RunFacts, make_facts
from neuneu.data.schemas import RUNS, plain_name
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.selection import task_key
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.queries import Horizon

Plan = str | Mapping[str, Any]
"""A planned run: `run=big,params=7e9,tokens=2T,recipe=dclm`, or a mapping of the same keys."""

KEYS: Final = (
    "run", "params", "tokens", "family", "suite", "recipe", "schedule", "decay_start_tokens",
)  # fmt: skip
NEEDS_RELATIVES: Final = (
    "planned runs need finished relatives: runs on the same tasks that have reached their "
    "planned_tokens, or those of --reference"
)

_ALIASES: Final = {"planned_tokens": "tokens", "decay_start": "decay_start_tokens"}
_NUMBERS: Final = frozenset({"params", "tokens", "decay_start_tokens"})
_UNITS: Final = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_NUMBER: Final = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*([kmbt]?)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedRuns:
    """Trajectories without checkpoints, one for each run and task; `notes` on what was left out."""

    trajectories: tuple[Trajectory, ...]
    notes: tuple[str, ...]


def planned_runs(
    dataset: Dataset, horizon: Horizon, plan: Plan | Sequence[Plan] | None
) -> PlannedRuns:
    """The planned runs of a question on the tasks of their finished relatives.

    A run has the tasks of the finished runs of its family; where its family has none, those of
    all finished runs. Family and suite are by default those of the table, if it has one.

    Args:
        dataset: the tables, whose table of runs may have planned runs too.
        horizon: tells which runs are finished.
        plan: of the user.

    Raises:
        UserError: a plan that cannot be read, that lacks parameters or tokens, or of a run that
            was evaluated. The same in a row of the table of runs leaves it out with a note.
    """
    plans = [plan] if isinstance(plan, str | Mapping) else list(plan or ())
    told = [parse_plan(one) for one in plans]
    rows = [row for row in dataset.planned if not any(_is_same(row, own) for own in told)]
    told = [_completed(own, dataset.planned) for own in told]
    finished = [
        t.without_step_zero()
        for t in horizon.references(dataset.trajectories, dataset.references)
        if len(t.without_step_zero())
    ]
    names: set[tuple[str, str, str]] = set()
    found: list[Trajectory] = []
    notes = []
    for facts, is_row in [*((own, False) for own in told), *((row, True) for row in rows)]:
        try:
            run = _placed(facts, dataset, horizon)
        except UserError as error:
            if not is_row:
                raise
            notes.append(f"left out: {str(error).rstrip('.')}")
            continue
        name = (run.family, run.suite, run.run)
        if name in names:
            raise UserError(f"plan: run {quoted(run.run)} is planned twice; drop one.")
        names.add(name)
        own_family = [t for t in finished if t.family == run.family]
        likes = {task_key(t): t for t in reversed(own_family or finished)}
        found += [_like(likes[key], run) for key in sorted(likes)]
    if names and not finished:
        if told:
            raise UserError(f"plan: {NEEDS_RELATIVES}; found none.")
        notes.append(
            f"left out: planned runs {listed(sorted(n[2] for n in names))}; {NEEDS_RELATIVES}"
        )
    return PlannedRuns(trajectories=tuple(found), notes=tuple(notes))


def without_unanswered(
    queries: Sequence[Query], answers: Sequence[FloatArray]
) -> tuple[list[Query], list[FloatArray], tuple[str, ...]]:
    """Leaves out planned runs that a forecaster does not answer, with a note."""
    is_kept = [
        bool(len(query.context)) or not np.isnan(answer).any()
        for query, answer in zip(queries, answers, strict=True)
    ]
    left_out = [q.context for q, kept in zip(queries, is_kept, strict=True) if not kept]
    return (
        [query for query, kept in zip(queries, is_kept, strict=True) if kept],
        [answer for answer, kept in zip(answers, is_kept, strict=True) if kept],
        unanswered_note(left_out),
    )


def unanswered_note(planned: Sequence[Trajectory]) -> tuple[str, ...]:
    """A note on planned runs without a forecast; empty without any."""
    if not planned:
        return ()
    runs = sorted({t.run for t in planned})
    tasks = sorted({t.task for t in planned})
    return (f"no forecast of {listed(runs)} on {listed(tasks, 3)}: {NEEDS_RELATIVES}",)


def parse_plan(plan: Plan) -> RunFacts:
    """Reads one plan; numbers may end in K, M, B or T.

    Raises:
        UserError: an unknown or repeated key, no run, or a value that cannot be.
    """
    where = f"plan {quoted(plan)}" if isinstance(plan, str) else "plan"
    pairs = _pairs(plan, where) if isinstance(plan, str) else list(plan.items())
    known: dict[str, Any] = {}
    for name, value in pairs:
        key = _ALIASES.get(plain_name(str(name)), plain_name(str(name)))
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f" did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{where}: unknown key {quoted(name)};{hint} Expected {', '.join(KEYS)}."
            )
        if key in known:
            raise UserError(f"{where}: {key} is given twice; drop one.")
        if value is not None and value != "":
            known[key] = _number(value, f"{where}: {key}") if key in _NUMBERS else str(value)
    if not known.get("run", "").strip():
        raise UserError(f"{where}: expected run=NAME, the name of the planned run, found none.")
    row = dict.fromkeys(RUNS.names) | known | {"planned_tokens": known.pop("tokens", None)}
    return make_facts(row, where)


def _pairs(text: str, where: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, separator, value = part.partition("=")
        if not separator:
            raise UserError(
                f"{where}: expected key=value pairs separated by commas, such as "
                f"run=big,params=7B,tokens=2T; found {quoted(part)}."
            )
        pairs.append((key.strip(), value.strip()))
    return pairs


def _number(value: Any, title: str) -> float:
    match = _NUMBER.fullmatch(str(value).strip())
    number = float(match[1] + (match[2] or "")) * _UNITS[match[3].lower()] if match else 0.0
    if not 0.0 < number <= LARGEST:
        raise UserError(
            f"{title} is {quoted(value)}; expected a positive number, such as 7e9 or 7B."
        )
    return number


def _is_same(row: RunFacts, own: RunFacts) -> bool:
    """Whether a row of the table of runs is about the run of a plan."""
    return row.run == own.run and all(
        getattr(row, key) in {None, getattr(own, key)} or getattr(own, key) is None
        for key in ("family", "suite")
    )


def _completed(own: RunFacts, rows: Sequence[RunFacts]) -> RunFacts:
    """A plan with what the table of runs adds to it."""
    for row in (row for row in rows if _is_same(row, own)):
        own = own.completed(row)
    return own


def _placed(facts: RunFacts, dataset: Dataset, horizon: Horizon) -> Trajectory:
    """The run without a task: family, suite and all that is planned."""
    where = f"planned run {quoted(facts.run)}"
    family = facts.family or _only("family", dataset.trajectories, where)
    members = [t for t in dataset.trajectories if t.family == family]
    members = members or [t for t in dataset.references if t.family == family]
    suite = facts.suite or (_only("suite", members, where) if members else "table")
    if any(
        (t.family, t.suite, t.run) == (family, suite, facts.run)
        for t in (*dataset.trajectories, *dataset.references)
    ):
        raise UserError(
            f"{where}: a run of this name was evaluated; expected one that has not started. Give "
            "it another name, or leave the plan out: runs are forecast from their checkpoints."
        )
    if facts.params is None:
        raise UserError(f"{where}: expected its number of parameters, found none; add params.")
    empty = np.zeros(0)
    run = Trajectory(
        family=family, suite=suite, run=facts.run, params=facts.params, num_fewshot=0, task="",
        metric="", steps=np.zeros(0, np.int64), tokens=empty, flops=empty, values=empty,
        stderrs=empty, planned_tokens=facts.planned_tokens, recipe=facts.recipe,
        schedule=facts.schedule, decay_start=facts.decay_begins,
    )  # fmt: skip
    if horizon.end(run) is None:
        raise UserError(
            f"{where}: expected its planned tokens, found none; add them, or give --until."
        )
    return run


def _only(kind: str, trajectories: Sequence[Trajectory], where: str) -> str:
    """The one family or suite that the trajectories have."""
    names = sorted({getattr(t, kind) for t in trajectories})
    if len(names) != 1:
        raise UserError(
            f"{where}: expected its {kind}, because the table has {listed(names)}; add {kind}."
        )
    return str(names[0])


def _like(t: Trajectory, run: Trajectory) -> Trajectory:
    """The planned run on the task of a finished one."""
    return replace(
        run, task=t.task, metric=t.metric, num_fewshot=t.num_fewshot, chance=t.chance,
        scale=t.scale, base_task=t.base_task, group=t.group,
    )  # fmt: skip
