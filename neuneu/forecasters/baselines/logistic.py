"""Logistic laws: accuracy as a logistic function of validation loss.

For one task at a time accuracy = a / (1 + exp(-k (ln L - L0))) + b is fitted on finished runs
of the same family. The paper (arXiv 2601.19831) applies it to the target run's true future
losses. No user has those before the compute is spent: that law is an oracle, and marked as one.
The others differ in where the future loss comes from:

* `logistic-law`: the true future losses (oracle).
* `logistic-offset`: the same, plus the law's mean error on the run's own past (oracle).
* `logistic-forecast`: a power law in tokens through the run's own past losses; own offset.
* `ladder-law`: the family's law of loss in size and tokens, shifted to the run's last losses;
  own offset. Like the ladder of Bhagia et al. 2024 (arXiv 2412.04403), but by the loss of a
  corpus and for running runs only; `ladder` has the published law.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from neuneu.core.config import config_dataclass
from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines.loss_law import fit_loss_law, loss_law
from neuneu.forecasters.baselines.own_past import LAST
from neuneu.forecasters.baselines.power_law import MIN_POINTS as MIN_POWER_LAW
from neuneu.forecasters.baselines.power_law import fit_power_laws
from neuneu.forecasters.protocol import Query, Sees

DEFAULT_LOSSES: Final = {"pythia": "lambada_openai", "olmo": "c4_en-validation"}
"""Validation set whose loss is L, by family."""

MIN_POINTS: Final = 8
"""Twice the four parameters; a task with fewer (loss, accuracy) pairs is left unanswered."""

LOWER: Final = np.array([-2.0, -1.0, 0.2, -5.0])
UPPER: Final = np.array([2.0, 2.0, 200.0, 5.0])
"""Bounds of (a, b, k, L0): k above zero settles the sign that a and k could trade."""

_GRID_POINTS: Final = 256
_FIT_POINTS: Final = 1024
_Cell = tuple[str, str, str, int]


@config_dataclass
class LogisticLawConfig:
    """Settings of the logistic law."""

    loss_name: str | None = None
    """Validation set whose loss is L; None: the family's default, else its first by name."""


FutureLoss = Literal["true", "power-law", "ladder"]


class LogisticLaw:
    """Applies a per-task law from reference runs to the future losses of a query's run."""

    levels = (0.5,)

    def __init__(
        self,
        config: LogisticLawConfig | None = None,
        *,
        name: str = "logistic-law",
        future: FutureLoss = "true",
        offset: bool = False,
    ) -> None:
        """A law without references, which answers nothing yet.

        Args:
            config: which validation set.
            name: what tables call it.
            future: where the future loss comes from.
            offset: add the law's mean error on the last three values of the run's own past.
        """
        self._config = config or LogisticLawConfig()
        self.name = name
        self.sees: Sees = "oracle-loss" if future == "true" else "reference"
        self._future, self._offset = future, offset
        self._ladders: dict[str, FloatArray | None] = {}
        self._references: dict[_Cell, list[Trajectory]] = {}
        self._loss_names: dict[str, str] = {}
        self._laws: dict[_Cell, FloatArray | None] = {}

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Keeps finished runs; the law of a task is fitted on first use."""
        self._references, self._laws, self._ladders = {}, {}, {}
        for trajectory in references:
            self._references.setdefault(_cell(trajectory), []).append(trajectory)
        families = {trajectory.family for trajectory in references}
        self._loss_names = {
            family: name
            for family in sorted(families)
            if (name := _loss_name(family, references, self._config.loss_name)) is not None
        }

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query, within [0, 1].

        NaN throughout where the task has no law (no reference of this family, task, metric and
        shots with losses), or the losses that the law needs are not there.
        """
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> FloatArray:
        unanswered = np.full((len(query.target_steps), 1), np.nan)
        cell = _cell(query.context)
        name = self._loss_names.get(query.context.family)
        losses = None if name is None else self._future_loss(query, name)
        if name is None or losses is None or not (losses > 0).all():
            return unanswered
        if cell not in self._laws:
            self._laws[cell] = self._fit_cell(cell, name)
        law = self._laws[cell]
        if law is None:
            return unanswered
        shift = self._own_error(query.context, law, name) if self._offset else 0.0
        return np.clip(logistic(np.log(losses), law) + shift, 0.0, 1.0)[:, None]

    def _future_loss(self, query: Query, name: str) -> FloatArray | None:
        """(h,) nats a token; None where it is unknown."""
        if self._future == "true":
            return (query.future_losses or {}).get(name)
        past = query.context.losses.get(name)
        if past is None or not (known := past > 0).any():
            return None
        if self._future == "power-law":
            tokens, losses = query.context.tokens[known], past[known]
            return _extrapolate(tokens, losses, query.target_tokens)
        family = query.context.family
        if family not in self._ladders:
            self._ladders[family] = self._fit_ladder(family, name)
        ladder = self._ladders[family]
        if ladder is None:
            return None
        params = query.context.params
        expected = loss_law(ladder, params, query.context.tokens[known])
        ratio = np.exp(np.log(past[known] / expected)[-LAST:].mean())
        return ratio * loss_law(ladder, params, query.target_tokens)

    def _fit_ladder(self, family: str, name: str) -> FloatArray | None:
        runs = {}
        for trajectories in self._references.values():
            for t in trajectories:
                if t.family == family and name in t.losses:
                    runs[t.suite, t.run] = t.without_step_zero()
        if not runs:
            return None
        params = np.concatenate([np.full(len(t), t.params) for t in runs.values()])
        tokens = np.concatenate([t.tokens for t in runs.values()])
        losses = np.concatenate([t.losses[name] for t in runs.values()])
        known = losses > 0
        return fit_loss_law(params[known], tokens[known], losses[known])

    @staticmethod
    def _own_error(context: Trajectory, law: FloatArray, name: str) -> float:
        past = context.losses.get(name, np.full(len(context), np.nan))
        known = np.flatnonzero(past > 0)[-LAST:]
        if not len(known):
            return 0.0
        return float((context.values[known] - logistic(np.log(past[known]), law)).mean())

    def _fit_cell(self, cell: _Cell, name: str) -> FloatArray | None:
        losses, values = [np.zeros(0)], [np.zeros(0)]
        for trajectory in self._references.get(cell, []):
            trained = trajectory.without_step_zero()
            loss = trained.losses.get(name, np.full(len(trained), np.nan))
            known = loss > 0
            losses.append(loss[known])
            values.append(trained.values[known])
        log_loss, value = np.log(np.concatenate(losses)), np.concatenate(values)
        return fit_logistic(log_loss, value) if len(value) >= MIN_POINTS else None


def logistic(log_loss: FloatArray, law: FloatArray) -> FloatArray:
    """a / (1 + exp(-k (ln L - L0))) + b for log losses of any shape; law = (a, b, k, L0)."""
    a, b, k, centre = law
    return np.asarray(a * _sigmoid(k * (log_loss - centre)) + b)


def fit_logistic(log_loss: FloatArray, value: FloatArray) -> FloatArray:
    """Bounded least squares of the logistic law; returns (a, b, k, L0).

    A grid over (k, L0), with (a, b) solved in closed form at each node, gives the start;
    scipy's trust-region solver with the analytic Jacobian finishes. Where it does not improve
    on the grid (flat tasks), the grid's law stands.

    Args:
        log_loss: (n,) ln of nats a token.
        value: (n,) accuracies.
    """
    from scipy.optimize import least_squares

    order = np.argsort(log_loss, kind="stable")
    x, y = log_loss[order], value[order]
    # Long trajectories are redundant: points evenly spaced in rank of loss are enough.
    start = _grid_start(*_thin(x, y, _GRID_POINTS))
    x, y = _thin(x, y, _FIT_POINTS)

    def residual(law: FloatArray) -> FloatArray:
        return logistic(x, law) - y

    def jacobian(law: FloatArray) -> FloatArray:
        a, _, k, centre = law
        s = _sigmoid(k * (x - centre))
        slope = a * s * (1.0 - s)
        return np.stack([s, np.ones_like(s), slope * (x - centre), -slope * k], axis=1)

    margin = 1e-6 * (UPPER - LOWER)
    inside = np.clip(start, LOWER + margin, UPPER - margin)
    fitted = least_squares(
        residual, inside, jac=jacobian, bounds=(LOWER, UPPER), x_scale="jac", max_nfev=50
    )
    squares = float((residual(start) ** 2).sum())
    return np.asarray(fitted.x if 2.0 * fitted.cost < squares else start)


def _extrapolate(tokens: FloatArray, losses: FloatArray, then: FloatArray) -> FloatArray:
    """A power law with a floor through past losses; few points stay where they are."""
    if len(losses) < MIN_POWER_LAW:
        return np.full(len(then), losses[-1])
    top = losses.max()  # puts the floor within the bounds of an error rate
    floor, slope, exponent = fit_power_laws(tokens[None], losses[None] / top)
    return np.asarray(top * (floor[0] + slope[0] * (then / tokens[-1]) ** -exponent[0]))


def _grid_start(x: FloatArray, y: FloatArray) -> FloatArray:
    span = max(float(x[-1] - x[0]), 1e-3)
    steepness = np.geomspace(1.0, 60.0, 12) / span
    centres = np.linspace(x[0] - 0.5 * span, x[-1] + 0.5 * span, 17)
    k, centre = (grid.ravel() for grid in np.meshgrid(steepness, centres, indexing="ij"))
    k, centre = np.clip(k, LOWER[2], UPPER[2]), np.clip(centre, LOWER[3], UPPER[3])
    s = _sigmoid(k[:, None] * (x - centre[:, None]))
    centred = s - s.mean(axis=1, keepdims=True)
    a = (centred @ y) / np.maximum((centred**2).sum(axis=1), 1e-9)
    a = np.clip(a, LOWER[0], UPPER[0])
    b = np.clip(y.mean() - a * s.mean(axis=1), LOWER[1], UPPER[1])
    best = ((a[:, None] * s + b[:, None] - y) ** 2).sum(axis=1).argmin()
    return np.array([a[best], b[best], k[best], centre[best]])


def _thin(x: FloatArray, y: FloatArray, limit: int) -> tuple[FloatArray, FloatArray]:
    if len(x) <= limit:
        return x, y
    keep = np.linspace(0, len(x) - 1, limit).round().astype(np.int64)
    return x[keep], y[keep]


def _sigmoid(z: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


def _cell(trajectory: Trajectory) -> _Cell:
    return (trajectory.family, trajectory.task, trajectory.metric, trajectory.num_fewshot)


def _loss_name(family: str, references: Sequence[Trajectory], wanted: str | None) -> str | None:
    known: set[str] = set()
    for trajectory in references:
        if trajectory.family == family:
            known |= set(trajectory.losses)
    preferred = wanted or DEFAULT_LOSSES.get(family)
    if preferred in known:
        return preferred
    # A specified name is never silently replaced by another.
    return None if wanted or not known else min(known)
