"""Scores of single checkpoints, gathered from many files, as tables."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from neuneu.core.errors import UserError
from neuneu.data.importers.places import Place
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.schemas import TASKS

_NAMED: Final = 5
"""So many examples stand in a note."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one checkpoint. `written` orders files by age; `source` is named in notes."""

    place: Place
    task: str
    metric: str
    value: float
    stderr: float | None = None
    shots: int = 0
    params: float | None = None
    written: float = 0.0
    source: str = ""


def as_imported(
    scores: Sequence[Score],
    options: ImportOptions,
    *,
    name: str,
    losses: Sequence[Score] = (),
    tasks: Iterable[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Imported:
    """Tables of scores: the newest of each counts, and what is no accuracy is left out.

    Args:
        scores: anything that may be an accuracy.
        options: of the import.
        name: what to call the source in messages.
        losses: their `task` is the name of the validation set.
        tasks: rows of `schemas.TASKS`, which may leave out columns.
        notes: what the importer has to say.

    Raises:
        UserError: no score, or none whose step is known, or several runs under one `--run`.
    """
    said = list(notes)
    finite = [score for score in scores if math.isfinite(score.value)]
    if len(finite) < len(scores):
        where = examples(f"{s.metric} of {s.task}" for s in scores if not math.isfinite(s.value))
        said.append(f"no finite number, left out: {where}")
    if not finite:
        raise UserError(
            f"{name}: expected accuracies, found none{''.join(f'; {note}' for note in said)}."
        )
    placed = [score for score in finite if score.place.known]
    if not placed:
        where = examples(score.source for score in scores)
        raise UserError(
            f"{name}: no step found in the names of models, revisions and folders ({where}); "
            "expected such as step1000, checkpoint-500 or tokens4B. Give --step-from REGEX."
        )
    if len(placed) < len(finite):
        where = examples(score.source for score in finite if not score.place.known)
        said.append(f"no step found, left out: {where}")
    top = 100.0 if options.percent else 1.0
    outside = {(s.task, s.metric) for s in placed if not 0.0 <= s.value <= top}
    kept = [score for score in placed if (score.task, score.metric) not in outside]
    if outside:
        names = examples(f"{metric} of {task}" for task, metric in sorted(outside))
        said.append(f"not within 0 and {top:g}, left out: {names}")
    if not kept:
        raise UserError(
            f"{name}: expected accuracies within 0 and {top:g}, found none; {said[-1]}. "
            "Give --percent if they are percentages."
        )
    kept, repeated = _newest(kept)
    if repeated:
        said.append(f"given several times, the newest counts: {repeated} older values left out")
    losses = [s for s in losses if s.place.known and math.isfinite(s.value)]
    runs = _run_names([*kept, *losses], options.run, name)
    return Imported(
        accuracies=_table(kept, runs, "task"),
        losses=_table(_newest(losses)[0], runs, "name"),
        tasks=_task_table(tasks, kept),
        notes=tuple(said),
    )


def _newest(scores: Sequence[Score]) -> tuple[list[Score], int]:
    """One score a checkpoint, task, metric and shots; and how many others there were."""
    found: dict[tuple, Score] = {}
    for score in sorted(scores, key=lambda score: score.written):
        found[score.place.identity, *_observation(score)] = score
    return list(found.values()), len(scores) - len(found)


def _run_names(scores: Sequence[Score], given: str | None, name: str) -> dict[str, str]:
    """A name for each identity: the short one, the whole where the short one is not its own."""
    short = {score.place.identity: score.place.run for score in scores}
    shared = Counter(short.values())
    names = {i: run if shared[run] == 1 else i for i, run in short.items()}
    if given is not None:
        _check_one_run(scores, names, given, name)
        return dict.fromkeys(short, given)
    if "" in names.values():
        raise UserError(f"{name}: no name of a run found; give --run NAME.")
    return names


def _check_one_run(scores: Iterable[Score], names: dict[str, str], given: str, name: str) -> None:
    """Raises UserError where one name would be given to several scores of a step."""
    owners: dict[tuple, str] = {}
    for score in scores:
        owner = owners.setdefault(_observation(score), score.place.identity)
        if owner != score.place.identity:
            both = f"{names[owner]}, {names[score.place.identity]}"
            raise UserError(
                f"--run {given}: expected one run in {name}, found {both} with the same "
                "checkpoints; leave --run out, or import them one by one."
            )


def _observation(score: Score) -> tuple:
    """What a run has one score of."""
    place = score.place
    where = place.tokens if place.step is None else place.step
    return where, score.task, score.metric, score.shots


def _table(scores: Sequence[Score], runs: dict[str, str], subject: str) -> pa.Table | None:
    if not scores:
        return None
    columns: dict[str, Any] = {
        "run": pa.array([runs[s.place.identity] for s in scores], pa.string()),
        "step": pa.array([s.place.step for s in scores], pa.int64()),
        "tokens": pa.array([s.place.tokens for s in scores], pa.float64()),
        "params": pa.array([s.params for s in scores], pa.float64()),
        "num_fewshot": pa.array([s.shots for s in scores], pa.int32()),
        subject: pa.array([s.task for s in scores], pa.string()),
        "metric": pa.array([s.metric for s in scores], pa.string()),
        "value": pa.array([s.value for s in scores], pa.float64()),
    }
    if subject == "task":
        columns["stderr"] = pa.array([s.stderr for s in scores], pa.float64())
    return pa.table(columns)


def _task_table(rows: Iterable[dict[str, Any]], scores: Sequence[Score]) -> pa.Table | None:
    """The rows whose task and metric have scores, the last of each."""
    scored = {(score.task, score.metric) for score in scores}
    kept = {(r["task"], r["metric"]): r for r in rows if (r["task"], r["metric"]) in scored}
    return pa.Table.from_pylist(list(kept.values()), schema=TASKS) if kept else None


def examples(names: Iterable[str]) -> str:
    """The first few different names, and how many more there are."""
    different = list(dict.fromkeys(names))
    more = len(different) - _NAMED
    return ", ".join(different[:_NAMED]) + (f" and {more} more" if more > 0 else "")
