"""Scores of single checkpoints, gathered from many files, as tables."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray
from neuneu.data.base_tasks import base_task_of, group_of, split_name
from neuneu.data.importers.checkpoint_names import CheckpointName
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scored_items import ScoredTask
from neuneu.data.scales import PERCENT, scale_of
from neuneu.data.schemas import TASKS

_EXAMPLES: Final = 5


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one checkpoint. `written` orders files by age; notes name `source`."""

    checkpoint: CheckpointName
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
    choices: Sequence[ScoredTask] = (),
    notes: Sequence[str] = (),
) -> Imported:
    """Make tables of scores: the newest of each counts, and all but accuracies are left out.

    Args:
        scores: numbers that may be accuracies.
        options: options of the import.
        name: what messages call the source.
        losses: validation losses; their `task` is the name of the validation set.
        tasks: rows of `schemas.TASKS`, which may lack columns.
        choices: scored choices; accuracies that no score gives are computed from them.
        notes: notes of the importer.

    Raises:
        UserError: no score, none with a known step, or several runs under one `--run`.
    """
    said = list(notes)
    scores, tasks = _with_computed(scores, tasks, choices)
    finite = [score for score in scores if math.isfinite(score.value)]
    if len(finite) < len(scores):
        where = examples(f"{s.metric} of {s.task}" for s in scores if not math.isfinite(s.value))
        said.append(f"no finite number, left out: {where}")
    if not finite:
        raise UserError(
            f"{name}: expected accuracies, found none{''.join(f'; {note}' for note in said)}."
        )
    placed = [score for score in finite if score.checkpoint.has_position]
    if not placed:
        where = examples(score.source for score in scores)
        raise UserError(
            f"{name}: no step found in the names of models, revisions and folders ({where}); "
            "expected names such as step1000, checkpoint-500 or tokens4B. Give --step-from REGEX."
        )
    if len(placed) < len(finite):
        where = examples(score.source for score in finite if not score.checkpoint.has_position)
        said.append(f"no step found, left out: {where}")
    top = 100.0 if options.percent else 1.0
    beside = [score for score in placed if scale_of(score.metric).unit != PERCENT]
    if beside:
        which = examples(f"{score.metric} of {score.task}" for score in beside)
        said.append(f"metrics with units of their own, kept among the losses: {which}")
        losses = [*losses, *beside]
        placed = [score for score in placed if scale_of(score.metric).unit == PERCENT]
    outside = {(s.task, s.metric) for s in placed if not 0.0 <= s.value <= top}
    kept = [score for score in placed if (score.task, score.metric) not in outside]
    if outside:
        names = examples(f"{metric} of {task}" for task, metric in sorted(outside))
        said.append(f"not between 0 and {top:g}, left out: {names}")
    if not kept:
        hint = " Give --percent if they are percentages." if outside else ""
        raise UserError(
            f"{name}: expected accuracies between 0 and {top:g}, found none; {said[-1]}.{hint}"
        )
    kept, repeated = _newest(kept)
    if repeated:
        said.append(f"given several times, the newest counts: {repeated} older values left out")
    losses = [s for s in losses if s.checkpoint.has_position and math.isfinite(s.value)]
    runs = _run_names([*kept, *losses], options.run, name)
    evidence, older = _newest_choices(choices, runs)
    if older:
        said.append(f"choices scored several times, the newest count: {older} older left out")
    scored = {(score.task, score.metric) for score in kept}
    rows = {key: row for row in tasks if (key := (row["task"], row["metric"])) in scored}
    return Imported(
        accuracies=_table(kept, runs, "task"),
        losses=_table(_newest(losses)[0], runs, "name") if losses else None,
        tasks=pa.Table.from_pylist(list(rows.values()), schema=TASKS) if rows else None,
        scored=evidence,
        notes=tuple(said),
    )


def task_row(
    task: str, metric: str, *, plain: str | None = None, split: object = None, **more: Any
) -> dict[str, Any]:
    """Return a row of `schemas.TASKS`; `plain` is the task's name without a variant."""
    base_task = base_task_of(plain or task)
    return {
        "task": task,
        "metric": metric,
        "base_task": base_task,
        "split": split_name(str(split)) if split else None,
        "group": group_of(base_task),
        "higher_is_better": True,
        **more,
    }


def _with_computed(
    scores: Sequence[Score], tasks: Iterable[dict[str, Any]], choices: Sequence[ScoredTask]
) -> tuple[list[Score], list[dict[str, Any]]]:
    """Add the accuracies that only scored choices give, and what these say of the tasks."""
    known = {(s.checkpoint.identity, *_observation(s)) for s in scores}
    computed, rows = list(scores), list(tasks)
    facts: dict[str, dict[str, Any]] = {}
    for of in choices:
        items = of.items
        _, counts = np.unique(items.docs, return_counts=True)
        facts[items.task] = {
            "format": items.format, "chance": float((1 / counts).mean()), "n_items": len(counts),
        }  # fmt: skip
        for metric in ("acc", "acc_norm") if items.n_chars.all() else ("acc",):
            correct = of.correct(metric)
            score = Score(
                checkpoint=of.checkpoint, task=items.task, metric=metric,
                value=float(correct.mean()), stderr=_stderr(correct), shots=items.num_fewshot,
                written=of.written, source=str(of.source),
            )  # fmt: skip
            if (of.checkpoint.identity, *_observation(score)) not in known:
                computed.append(score)
                rows.append(task_row(items.task, metric))
    return computed, [
        facts.get(row["task"], {}) | {k: v for k, v in row.items() if v is not None} for row in rows
    ]


def _stderr(correct: FloatArray) -> float | None:
    """Standard error of a mean over items, as lm-evaluation-harness has it."""
    n = len(correct)
    return float(correct.std(ddof=1)) / math.sqrt(n) if n > 1 else None


def _newest_choices(
    choices: Sequence[ScoredTask], runs: dict[str, str]
) -> tuple[tuple[tuple[str, ScoredTask], ...], int]:
    """Keep one result per checkpoint, task and shots, with its run; and count the others."""
    found: dict[tuple, ScoredTask] = {}
    placed = [c for c in choices if c.checkpoint.has_position and c.checkpoint.identity in runs]
    for of in sorted(placed, key=lambda of: of.written):
        where = of.checkpoint.step, of.checkpoint.tokens
        found[of.checkpoint.identity, *where, of.items.task, of.items.num_fewshot] = of
    kept = tuple((runs[of.checkpoint.identity], of) for of in found.values())
    return kept, len(placed) - len(found)


def examples(names: Iterable[str]) -> str:
    """Join the first few different names, and say how many more there are."""
    different = list(dict.fromkeys(names))
    more = len(different) - _EXAMPLES
    return ", ".join(different[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def _newest(scores: Sequence[Score]) -> tuple[list[Score], int]:
    """Keep one score per checkpoint, task, metric and shots; and count the others."""
    found: dict[tuple, Score] = {}
    for score in sorted(scores, key=lambda score: score.written):
        found[score.checkpoint.identity, *_observation(score)] = score
    return list(found.values()), len(scores) - len(found)


def _run_names(scores: Sequence[Score], given: str | None, name: str) -> dict[str, str]:
    """Name each identity by the given name, by its short name, or in full if several share that.

    Raises:
        UserError: no name found, or a given name for several scores of a step.
    """
    short = {score.checkpoint.identity: score.checkpoint.run for score in scores}
    shared = Counter(short.values())
    names = {i: run if shared[run] == 1 else i for i, run in short.items()}
    if given is None:
        if "" in names.values():
            raise UserError(f"{name}: no name of a run found; give --run NAME.")
        return names
    owners: dict[tuple, str] = {}
    for score in scores:
        owner = owners.setdefault(_observation(score), score.checkpoint.identity)
        if owner != score.checkpoint.identity:
            both = f"{names[owner]}, {names[score.checkpoint.identity]}"
            raise UserError(
                f"--run {given}: expected one run in {name}, found {both} with the same "
                "checkpoints; leave --run out, or import them one by one."
            )
    return dict.fromkeys(short, given)


def _observation(score: Score) -> tuple:
    """Return what a run has one score of."""
    checkpoint = score.checkpoint
    position = checkpoint.tokens if checkpoint.step is None else checkpoint.step
    return position, score.task, score.metric, score.shots


def _table(scores: Sequence[Score], runs: dict[str, str], subject: str) -> pa.Table:
    rows = [
        {
            "run": runs[s.checkpoint.identity], "step": s.checkpoint.step,
            "tokens": s.checkpoint.tokens, "params": s.params, "num_fewshot": s.shots,
            subject: s.task, "metric": s.metric, "value": s.value, "stderr": s.stderr,
        }
        for s in scores
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    return table if subject == "task" else table.drop_columns(["stderr"])
