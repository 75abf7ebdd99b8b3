"""What an answer rests on: how far it is calibrated, which runs it was compared with, and what
simple rules say beside it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from neuneu.core.formatting import tokens
from neuneu.data.cells import listed, quoted
from neuneu.data.fingerprints import runs_trained_on
from neuneu.data.trajectories import NEAR_CHANCE, Trajectory
from neuneu.decisions.answers import merged, plain
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.warnings import Warning

FEW_POINTS: Final = 3
"""Fewer checkpoints than this raise a warning."""

SIMPLE: Final = ("persistence", "recent-mean", "power-law", "nearest-analogue")
"""Baselines shown beside an answer; none of them needs more than the core."""

NAMED: Final = 5
"""So many of the runs compared with are named."""


class Grounds:
    """Says what the answers of a fitted forecaster rest on."""

    def __init__(self, forecaster: CrossRunForecaster) -> None:
        """Takes the forecaster as it is, with its references."""
        self._forecaster = forecaster

    def calibration(
        self, queries: Sequence[Query], groups: Sequence[Sequence[str]] | None = None
    ) -> dict[str, Any]:
        """`calibration_group` of the ends, the fewest runs that one rests on, and `warnings`.

        Args:
            queries: what is asked.
            groups: what the forecaster says of their targets, where it was asked already.
        """
        groups = groups or self._forecaster.calibration_groups(queries)
        known = self._forecaster.calibration
        warnings = [_own_warnings(query) for query in queries]
        group = calibrated_on = None
        if known is not None and groups:
            ends = [names[-1] for names in groups]
            for query, name in zip(queries, ends, strict=True):
                of = query.context
                warnings.append(known.warnings(family=of.family, params=of.params, group=name))
            group = Counter(ends).most_common(1)[0][0]
            calibrated_on = min(known.groups[name].n_runs for name in ends)
        elif queries:
            text = "the intervals of this forecaster are not calibrated"
            warnings.append([Warning("uncalibrated", text)])
        return {
            "calibration_group": group,
            "calibrated_on": calibrated_on,
            "warnings": [asdict(warning) for warning in merged(warnings)],
        }

    def explain(self, queries: Sequence[Query]) -> dict[str, Any]:
        """`compared_with` (runs, those of most tasks first), how many, those that were `left_out`
        because they ended too early, and `baselines` at the end, means over the queries."""
        compared = self._forecaster.compared_with(queries)
        often = Counter("/".join(t.run_group) for of in compared for t in of)
        short = self._forecaster.too_short(queries)
        left_out = Counter("/".join(t.run_group) for of in short for t in of)
        baselines = {}
        for name in SIMPLE:
            rule = make_forecaster(name)
            if rule.sees != "own":
                rule.fit([t for of in compared for t in of])
            answers = rule.predict(queries) if queries else []
            middle = rule.levels.index(0.5)
            ends = [answer[-1, middle] for answer in answers]
            baselines[name] = plain(float(np.mean(ends))) if ends else None
        return {
            "compared_with": [name for name, _ in often.most_common(NAMED)],
            "n_compared_with": len(often),
            "left_out": [name for name, _ in left_out.most_common(NAMED)],
            "n_left_out": len(left_out),
            "baselines": baselines,
        }


def about(
    forecaster: CrossRunForecaster, queries: Sequence[Query], *, token_losses: bool
) -> list[str]:
    """Notes on a forecaster and a question: runs it was trained on, runs that are not compared
    with because they ended too early, losses that it does not read.

    Args:
        forecaster: the one that answers, with its references.
        queries: what is asked.
        token_losses: whether losses word by word were given.
    """
    notes = []
    asked = [query.context for query in queries]
    learnt = sorted("/".join(run) for run in runs_trained_on(forecaster.seen_share, asked))
    if learnt:
        notes.append(
            f"the forecaster was trained on {listed(learnt, NAMED)}: it has seen how they went on, "
            "so that this answer shows nothing of how good it is"
        )
    notes += _too_short(forecaster.too_short(queries))
    if token_losses:
        notes.append("token losses change nothing: this forecaster reads no losses word by word")
    return notes


def _too_short(left_out: Sequence[Sequence[Trajectory]]) -> list[str]:
    """A note on runs that ended too early to be compared with; none where there are none."""
    ends: dict[str, float] = {}
    for t in (t for of in left_out for t in of):
        name = "/".join(t.run_group)
        ends[name] = max(ends.get(name, 0.0), float(t.tokens[-1]))
    if not ends:
        return []
    told = [f"{quoted(name)} (ends at {tokens(ends[name])} tokens)" for name in sorted(ends)]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return [
        f"left out of the comparison: {', '.join(told[:NAMED])}{more}; they stop short of the "
        "question's end, in tokens and in tokens per parameter"
    ]


def _own_warnings(query: Query) -> list[Warning]:
    context = query.context
    found = []
    if len(context) < FEW_POINTS:
        text = f"fewer than {FEW_POINTS} checkpoints were evaluated"
        found.append(Warning("few-checkpoints", text))
    level = float(context.values[-3:].mean())
    if context.chance is not None and level <= context.chance + NEAR_CHANCE:
        text = "some tasks are near chance, where accuracy says little"
        found.append(Warning("near-chance", text))
    return found
