"""What an answer rests on: calibration and warnings, reference runs, simple baselines."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from neuneu.core.extras import is_installed
from neuneu.core.formatting import tokens
from neuneu.data.cells import listed, quoted
from neuneu.data.fingerprints import runs_trained_on
from neuneu.data.quantiles import MEDIAN
from neuneu.data.trajectories import NEAR_CHANCE, Trajectory
from neuneu.decisions.answers import merged, plain
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.cross_run.curves import pick_loss
from neuneu.forecasters.items.combined import FLIPS, WithItems
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.self_calibration.forecaster import SelfCalibrated
from neuneu.forecasters.warnings import Warning

FEW_POINTS: Final = 3
"""Fewer checkpoints than this raise a warning."""

SIMPLE: Final = ("persistence", "recent-mean", "power-law", "nearest-analogue")
"""Baselines shown beside an answer; none of them needs more than the core."""

SIMILAR_SIZE: Final = 0.8
"""A reference run of at least this share of a run's parameters shows what happens at its size."""

BEFORE_THE_START: Final = ("ladder-two-step",)
"""Baselines shown beside a planned run, where the extra `analysis` is installed."""

NAMED: Final = 5
"""Maximum number of runs to name."""


def calibration_fields(
    forecaster: JointForecaster,
    queries: Sequence[Query],
    groups: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """`calibration_group` of the last targets, its fewest runs (`calibrated_on`), `warnings`.

    Args:
        forecaster: fitted on its references.
        queries: of one row.
        groups: `forecaster.calibration_groups(queries)`, where it is at hand.
    """
    groups = groups or forecaster.calibration_groups(queries)
    calibration = forecaster.calibration
    warnings = [_own_warnings(query.context) for query in queries]
    group = calibrated_on = None
    if calibration is not None and groups:
        last = [names[-1] for names in groups]
        warnings += [
            calibration.warnings(family=q.context.family, params=q.context.params, group=name)
            for q, name in zip(queries, last, strict=True)
        ]
        group = Counter(last).most_common(1)[0][0]
        calibrated_on = min(calibration.groups[name].n_runs for name in last)
    elif queries:
        text = "the intervals of this forecaster are not calibrated"
        warnings.append([Warning("uncalibrated", text)])
    return {
        "calibration_group": group,
        "calibrated_on": calibrated_on,
        "warnings": [asdict(warning) for warning in merged(warnings)],
    }


def explanation_fields(forecaster: JointForecaster, queries: Sequence[Query]) -> dict[str, Any]:
    """Reference runs used and left out, the most frequent first, and `baselines` at the horizon."""
    found = forecaster.reference_runs(queries)
    used = [t for runs in found for t in runs.used]
    names = Counter("/".join(t.run_group) for t in used)
    left_out = Counter("/".join(t.run_group) for runs in found for t in runs.left_out)
    baselines = {}
    planned = bool(queries) and not any(len(query.context) for query in queries)
    known = BEFORE_THE_START if is_installed("scipy") else ()
    for name in known if planned else SIMPLE:
        baseline = make_forecaster(name)
        if baseline.sees != "own":
            baseline.fit(used)
        middle = baseline.levels.index(0.5)
        last = [answer[-1, middle] for answer in baseline.predict(queries)] if queries else []
        baselines[name] = plain(float(np.mean(last))) if last else None
    return {
        "compared_with": [name for name, _ in names.most_common(NAMED)],
        "n_compared_with": len(names),
        "left_out": [name for name, _ in left_out.most_common(NAMED)],
        "n_left_out": len(left_out),
        "baselines": baselines,
    }


def evidence_fields(forecaster: JointForecaster, queries: Sequence[Query]) -> dict[str, Any]:
    """`evidence` and `loss`: what items and losses say beside the accuracies; {} without any.

    Args:
        forecaster: fitted on its references.
        queries: of one row.
    """
    while isinstance(forecaster, SelfCalibrated):
        forecaster = forecaster.forecaster
    if not queries:
        return {}
    if isinstance(forecaster, WithItems):
        return _items(forecaster, queries) | _loss(forecaster.forecaster, queries)
    return _loss(forecaster, queries)


def _items(forecaster: WithItems, queries: Sequence[Query]) -> dict[str, Any]:
    """`evidence`: what the items behind the accuracies say at the horizon; {} without choices.

    `items` and `without` are mean medians of the items and of the forecaster without them, over
    the `n_tasks` whose choices are known; `weight` is that of the items. `flips` lists (task, item,
    probability of being right at the horizon) of items that will most likely change.
    """
    found = [
        (query.context.task, one)
        for query, one in zip(queries, forecaster.evidence(queries), strict=True)
        if one is not None
    ]
    if not found:
        return {}
    flips = [(task, doc, chance) for task, one in found for doc, chance in one.flips]
    flips.sort(key=lambda flip: -abs(flip[2] - 0.5))
    return {
        "evidence": {
            "n_tasks": len(found),
            "items": plain(float(np.mean([one.items for _, one in found]))),
            "without": plain(float(np.mean([one.without for _, one in found]))),
            "weight": plain(found[0][1].weight),
            "flips": [[task, doc, plain(chance)] for task, doc, chance in flips[:FLIPS]],
        }
    }


def _loss(forecaster: JointForecaster, queries: Sequence[Query]) -> dict[str, Any]:
    """`loss`: what the losses beside the accuracies change at the horizon; {} without any.

    `name` is the loss that is read, the task's own (`bpb of the task`) or that of a text; `with`
    and `without` are mean medians over the `n_tasks` that have one.
    """
    read = [(name, q) for q in queries if (name := pick_loss(q.context)[0]) is not None]
    if not read:
        return {}
    known = [query for _, query in read]
    bare = [replace(q, context=q.context.accuracies_alone()) for q in known]
    middle = forecaster.levels.index(MEDIAN)
    with_loss, without = (
        plain(float(np.mean([answer[-1, middle] for answer in forecaster.predict(of)])))
        for of in (known, bare)
    )
    name = Counter(name for name, _ in read).most_common(1)[0][0]
    return {"loss": {"name": name, "n_tasks": len(read), "with": with_loss, "without": without}}


def forecast_notes(
    forecaster: JointForecaster, queries: Sequence[Query], *, token_losses: bool
) -> list[str]:
    """Notes on runs that were trained on or left out, and on losses that are not read.

    Args:
        forecaster: fitted on its references.
        queries: of the whole question.
        token_losses: whether the user gave token losses.
    """
    notes = []
    contexts = [query.context for query in queries]
    trained_on = runs_trained_on(forecaster.seen_share, contexts)
    if trained_on:
        names = sorted("/".join(run) for run in trained_on)
        notes.append(
            f"the forecaster was trained on {listed(names, NAMED)}, including what came later; "
            "this answer does not show how good it is"
        )
    notes += _left_out_note([runs.left_out for runs in forecaster.reference_runs(queries)])
    if token_losses:
        notes.append("token losses are ignored: this forecaster does not read them")
    return notes


def _left_out_note(left_out: Sequence[Sequence[Trajectory]]) -> list[str]:
    ends: dict[str, float] = {}
    for t in (t for of in left_out for t in of):
        name = "/".join(t.run_group)
        ends[name] = max(ends.get(name, 0.0), float(t.tokens[-1]))
    if not ends:
        return []
    runs = [f"{quoted(name)} (ends at {tokens(ends[name])} tokens)" for name in sorted(ends)]
    more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
    return [
        f"not used as references: {', '.join(runs[:NAMED])}{more}; they end before the horizon, "
        "in tokens and in tokens per parameter"
    ]


def _own_warnings(context: Trajectory) -> list[Warning]:
    if not len(context):  # not started: nothing of its own to warn of
        return []
    found = []
    if len(context) < FEW_POINTS:
        text = f"fewer than {FEW_POINTS} checkpoints were evaluated"
        found.append(Warning("few-checkpoints", text))
    if _near_chance(context):
        text = "some tasks are near chance, where accuracy says little"
        found.append(Warning("near-chance", text))
    return found


def _near_chance(context: Trajectory) -> bool:
    if context.chance is None or not len(context):
        return False
    return float(context.values[-3:].mean()) <= context.chance + NEAR_CHANCE


def take_off_warning(forecaster: JointForecaster, queries: Sequence[Query]) -> Warning | None:
    """Why a forecast for one run says nothing of a take-off; None where it does.

    Near chance on most tasks a run's past does not show whether it will leave chance, which many
    runs do late and fast. Only finished runs of at least its size show that.

    Args:
        forecaster: fitted on its references.
        queries: of the run.
    """
    near = [query for query in queries if _near_chance(query.context)]
    if 2 * len(near) <= len(queries):
        return None
    for query, references in zip(near, forecaster.reference_runs(near), strict=True):
        least = SIMILAR_SIZE * query.context.params
        if any(not t.params < least for t in references.used):  # also where a size is unknown
            return None
    text = "no finished run of its size shows whether it will take off from chance"
    return Warning("take-off", text)
