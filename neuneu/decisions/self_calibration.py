"""Self-calibration of a question: its finished runs, what they say of the forecaster, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from neuneu.core.formatting import percent, with_unit
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.scales import PERCENT
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.answers import plain
from neuneu.evaluation.aggregation import Estimate, RunBootstrap, trajectory_means
from neuneu.evaluation.metrics import INTERVALS, absolute_error, inside_interval
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.queries import Horizon, planned_query, query_at, reached
from neuneu.forecasters.self_calibration.cases import case_of, largest_sizes
from neuneu.forecasters.self_calibration.correction import Correction, fit_correction
from neuneu.forecasters.self_calibration.forecaster import SelfCalibrated
from neuneu.forecasters.self_calibration.held_out import HeldOutForecasts, forecast_held_out

NOTICEABLE: Final = 0.05
"""A smaller relative change of width is not mentioned."""

MAX_PARTS: Final = 20
"""Of more runs than this, some are left out together where corrections are measured."""

METRICS: Final = ("error", *(f"coverage_{share}" for share in INTERVALS), "width_80")


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseCheck:
    """How far off forecasts of the finished runs of one family are.

    `measured` are the metrics of `METRICS` with their 95 % intervals over runs, with intervals as
    the answers have them: each run's were corrected by what the other runs ask for (`corrected`,
    (N, Q)). `before` are those of the forecaster itself. Errors and widths are in the metric's
    units: fractions of 1 for accuracies.
    """

    correction: Correction
    held_out: HeldOutForecasts
    corrected: FloatArray
    measured: Mapping[str, Estimate]
    before: Mapping[str, Estimate]

    def note(self, *, family: bool, share: bool) -> str:
        """The check in one line, with the family and the share of the tokens if that is wanted."""
        held_out, found = self.held_out, self.measured
        (at, *others) = held_out.shares
        runs = [
            f"{held_out.outcomes.n_runs} finished runs",
            f" of family {held_out.family!r}" if family else "",
            "" if others or at else " before their start",
            f" from {percent(at)} of their tokens" if share and at and not others else "",
            ", forecast from smaller ones" if held_out.from_smaller else "",
        ]
        change = found["width_80"].value / max(self.before["width_80"].value, 1e-9) - 1.0
        width = f", made {100 * abs(change):.0f} % {'wider' if change > 0 else 'narrower'}"
        return (
            f"on your {''.join(runs)}: {self._error()}80 % "
            f"interval covered {100 * found['coverage_80'].value:.0f} %"
            f"{width if abs(change) >= NOTICEABLE else ''}"
        )

    def _error(self) -> str:
        """The error in the unit of the metrics; empty where they have several."""
        units = {truth.scale.unit for truth in self.held_out.truths}
        if len(units) > 1:
            return ""
        unit, error = units.pop(), self.measured["error"].value
        return f"error {100 * error:.1f} points, " if unit == PERCENT else (
            f"error {with_unit(f'{error:.3g}', unit)}, "
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The check as JSON types."""
        held_out = self.held_out
        return {
            "family": held_out.family,
            "from_smaller": held_out.from_smaller,
            "runs": held_out.outcomes.n_runs,
            "trajectories": held_out.n_trajectories,
            "contexts": list(held_out.shares),
            "folds": len(held_out.folds),
            "sampled": held_out.sampled,
            **_plain(self.measured),
            "uncorrected": _plain(self.before),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class SelfCalibration:
    """The forecaster to ask, and a check of each case that has finished runs."""

    forecaster: JointForecaster
    checks: tuple[CaseCheck, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each case."""
        return notes_of(self.checks)

    @property
    def record(self) -> tuple[dict[str, Any], ...]:
        """The checks as JSON types."""
        return tuple(check.to_json() for check in self.checks)


def self_calibrate(
    forecaster: JointForecaster,
    finished: Sequence[Trajectory],
    queries: Sequence[Query],
    *,
    enabled: bool = True,
) -> SelfCalibration:
    """Forecasts the finished runs of the question's families as its own runs are forecast.

    Each is held out and cut where the question's runs stand. Runs of other families, and runs that
    the forecaster was trained on, calibrate nothing.

    Args:
        forecaster: fitted here; fit the result on all references before asking it.
        finished: the references of the question.
        queries: of the question; the last target of each is its horizon.
        enabled: False changes nothing.
    """
    if not enabled or not {0.1, 0.9} <= set(forecaster.levels):
        return SelfCalibration(forecaster=forecaster)
    largest = largest_sizes(finished)
    cases = sorted({case_of(q.context, q.target_tokens, largest) for q in queries})
    checks = {}
    for case in cases:
        held_out = forecast_held_out(
            forecaster, finished, case.family, shares=(case.share,), larger=case.larger
        )
        if held_out is not None:
            checks[case] = check_case(held_out, larger=case.larger)
    if not checks:
        return SelfCalibration(forecaster=forecaster)
    corrections = {case: check.correction for case, check in checks.items()}
    return SelfCalibration(
        forecaster=SelfCalibrated(forecaster, corrections, largest), checks=tuple(checks.values())
    )


def notes_of(checks: Sequence[CaseCheck]) -> tuple[str, ...]:
    """A line for each check."""
    families = len({check.held_out.family for check in checks}) > 1
    shares = len({check.held_out.shares for check in checks}) > 1
    return tuple(check.note(family=families, share=shares) for check in checks)


def unfinished(trajectories: Sequence[Trajectory], horizon: Horizon) -> list[Query]:
    """A query for the horizon of each trajectory that has not reached it."""
    queries = []
    for t in trajectories:
        context, end = horizon.context_of(t), horizon.end(t)
        if end is None:
            continue
        if not len(t):
            queries.append(planned_query(t, np.array([end])))
        elif len(context) and not reached(float(context.tokens[-1]), end):
            queries.append(query_at(context, np.array([end])))
    return queries


def check_case(held_out: HeldOutForecasts, *, larger: bool = False) -> CaseCheck:
    """Measures held-out forecasts, as they are and corrected, for `larger` runs or others."""
    known = held_out.outcomes
    corrected = np.empty_like(known.quantiles)
    parts = known.runs % MAX_PARTS
    for part in np.unique(parts):
        own = parts == part
        # The other runs stand for all: as the next run is corrected by n runs, so is this one.
        others = fit_correction(known.take(~own), n_runs=known.n_runs, larger=larger)
        corrected[own] = others.apply_to(known.take(own))
    return CaseCheck(
        correction=fit_correction(known, larger=larger),
        held_out=held_out,
        corrected=corrected,
        measured=measure(held_out, corrected),
        before=measure(held_out, known.quantiles),
    )


def measure(
    held_out: HeldOutForecasts, quantiles_NQ: FloatArray, members: IntArray | None = None
) -> dict[str, Estimate]:
    """The metrics of `METRICS`: means over trajectories, with intervals over runs.

    Args:
        held_out: outcomes.
        quantiles_NQ: forecasts of them.
        members: codes of the trajectories to measure; None takes all.
    """
    known = held_out.outcomes
    at = {level: column for column, level in enumerate(known.levels)}
    columns = [absolute_error(quantiles_NQ[:, at[0.5]], known.outcomes)]
    for low, high in INTERVALS.values():
        there = low in at and high in at
        columns.append(
            inside_interval(quantiles_NQ[:, at[low]], quantiles_NQ[:, at[high]], known.outcomes)
            if there
            else np.full(len(known), np.nan)
        )
    columns.append(quantiles_NQ[:, at[0.9]] - quantiles_NQ[:, at[0.1]])
    n = len(held_out.queries)
    means = trajectory_means(np.stack(columns, axis=1), known.trajectories, n)
    runs = np.zeros(n, dtype=np.int64)
    runs[known.trajectories] = known.runs
    chosen = np.arange(n) if members is None else members
    found = RunBootstrap().means(means[chosen], runs[chosen])
    return dict(zip(METRICS, found, strict=True))


def _plain(measured: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {key: plain(value) for key, value in asdict(estimate).items()}
        for name, estimate in measured.items()
    }
