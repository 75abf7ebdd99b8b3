"""Scored choices of runs (`data.choices`), joined with their trajectories."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray
from neuneu.data.cells import listed
from neuneu.data.choice_files import read_choices
from neuneu.data.choice_metrics import available_metrics, choice_metrics
from neuneu.data.choices import Choices
from neuneu.data.store.store import Store
from neuneu.data.table_files import check_store, is_folder
from neuneu.data.trajectories import SIGNALS, Trajectory, as_signal

_Key = tuple[str, str, str, int]


def read_evidence(source: str | Path, trajectories: Sequence[Trajectory]) -> list[Choices]:
    """Read the scored choices of some runs and tasks.

    Args:
        source: a file that `neuneu import` wrote, or a store.
        trajectories: whose runs and tasks are read.

    Raises:
        UserError: neither of these, or damaged.
    """
    if is_folder(source):
        check_store(source)
        return list(
            Store(source).choices(
                tasks={t.task for t in trajectories}, runs={t.run for t in trajectories}
            )
        )
    return read_choices(Path(source))


def with_choices(
    trajectories: Sequence[Trajectory], found: Iterable[Choices], *, name: str
) -> tuple[list[Trajectory], str]:
    """Join choices with the trajectories of their suite, run, task and number of shots.

    Checkpoints without an accuracy are left out. Of choices of several item sets, as of two
    tokenizers, those with most checkpoints count. Without a signal in the table, choices give one.

    Args:
        trajectories: all that were read.
        found: scored choices.
        name: what messages call them.

    Returns:
        The trajectories in the same order, and a note on how many have choices.

    Raises:
        UserError: choices of no trajectory.
    """
    known: dict[_Key, list[Choices]] = defaultdict(list)
    for of in found:
        known[of.suite, of.run, of.items.task, of.items.num_fewshot].append(of)
    joined = [
        _joined(t, known.get((t.suite, t.run, t.task, t.num_fewshot), ())) for t in trajectories
    ]
    count = sum(t.choices is not None for t in joined)
    if not count:
        there = sorted({f"{run} on {task}" for _, run, task, _ in known})
        wanted = sorted({f"{t.run} on {t.task}" for t in trajectories})
        raise UserError(
            f"{name}: expected choices of the evaluated runs and tasks ({listed(wanted, 3)}), "
            f"found {listed(there, 3)}; import them together with the accuracies."
        )
    return joined, f"scored choices of {count} of {len(joined)} trajectories are read"


def _joined(t: Trajectory, several: Sequence[Choices]) -> Trajectory:
    kept = [_at_steps(of, t) for of in several]
    best = max((of for of in kept if len(of)), key=len, default=None)
    return t if best is None else replace(t, choices=best, signals=_signals(best, t))


def _signals(choices: Choices, t: Trajectory) -> dict[str, FloatArray]:
    """The signals of a trajectory, or else the best one that its choices give."""
    there = available_metrics(choices.items, unconditional=False)
    best = next((m for m in SIGNALS if m in there and m != t.metric), None)
    if t.signals or best is None:
        return dict(t.signals)
    values = np.full(len(t), np.nan)
    series = choice_metrics(choices, metrics=[best])[best]
    values[np.searchsorted(t.steps, choices.steps)] = as_signal(best, series.values)
    return {best: values}


def _at_steps(choices: Choices, t: Trajectory) -> Choices:
    """The choices of checkpoints that the trajectory has."""
    own = np.isin(choices.steps, t.steps)
    return choices if own.all() else choices.at(own)
