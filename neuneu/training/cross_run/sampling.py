"""Training queries: random contexts, targets and references out of finished runs.

Every draw is a function of the generator, so that a seed and a step number give the same batch.
Shapes: B queries, H targets, M candidates, R references.
"""

from dataclasses import replace
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from neuneu.core.config import config_dataclass
from neuneu.data.arrays import IntArray
from neuneu.forecasters.cross_run.batching import MAX_OBSERVED, QueryBatch, begins
from neuneu.forecasters.cross_run.curves import NO_RECIPE, Curves
from neuneu.forecasters.cross_run.references import (
    NONE,
    ReferenceIndex,
    candidates,
    distances,
    far_enough,
    nearest,
)
from neuneu.forecasters.cross_run.schedules import UNKNOWN
from neuneu.forecasters.cross_run.siblings import index_owners
from neuneu.training.cross_run.synthetic import SYNTHETIC

SMALLER: Final = (0.2, 0.8)
STRETCH: Final = 0.6
"""Largest ln of a factor by which accuracies are stretched."""

KEPT: Final = (0.02, 1.0)
"""Range of the share of checkpoints that a thinned context keeps."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


@config_dataclass
class SamplingConfig:
    """How training queries are sampled.

    `targets` and `references` are the maxima of a query. A context ends at an `anchor_share` of
    queries after the first fifth of the checkpoints (as in the paper), else anywhere, with ends
    uniform in ln checkpoints. A share `alone` of queries has no references; of the others a share
    `smaller_only` has runs of at most a fraction of their own parameters (`SMALLER`, drawn for
    each), as the largest run of a ladder does. `spread` is the noise, in units of distance, that
    varies which candidates are taken. The planned end is given in a share `told_end`. A suite is
    drawn in proportion to its number of trajectories to the power `suite_power`. In a share
    `thinned` a random part of the context is dropped, as if fewer checkpoints had been evaluated.
    A share `synthetic` is about synthetic curves, a share `unstarted` about runs that have not
    begun. Size, schedule and recipe are each hidden in a share `hidden`, the run's other tasks
    in a share `lonely`. In a share `warped` of the batches the accuracies of every task are
    stretched about its chance level, and absolute sizes and tokens are blurred by a normal
    deviate of `blur` in ln, so that a network cannot know a family by its numbers.
    """

    targets: Annotated[int, Field(ge=1)] = 6
    references: Annotated[int, Field(ge=1)] = 8
    anchor_share: Share = 0.5
    alone: Share = 0.35
    smaller_only: Share = 0.6
    spread: Annotated[float, Field(ge=0.0)] = 1.0
    told_end: Share = 0.7
    suite_power: Share = 0.5
    thinned: Share = 0.2
    synthetic: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    unstarted: Share = 0.1
    hidden: Share = 0.3
    lonely: Share = 0.3
    warped: Share = 0.25
    blur: Annotated[float, Field(ge=0.0)] = 1.0


class Warp:
    """Stretches the accuracies of every cell (task, metric, shots) about its chance level."""

    def __init__(self, curves: Curves) -> None:
        """Finds the range of each cell."""
        self._curves = curves
        _, self._cell = np.unique(curves.cells, return_inverse=True)
        lengths = curves.lengths
        owner = np.repeat(np.arange(len(curves)), lengths)
        self._owner = np.append(owner, 0)
        count = int(self._cell.max(initial=-1)) + 1
        self._top = np.zeros(count)
        values = curves.values[:-1]
        known = np.isfinite(values)
        np.maximum.at(self._top, self._cell[owner][known], values[known])
        self._centre = np.zeros(count)
        self._centre[self._cell] = np.nan_to_num(curves.chance)

    def __call__(self, generator: np.random.Generator) -> Curves:
        """The curves with a random factor for each cell; accuracies stay in [0, 1]."""
        curves = self._curves
        factor = np.exp(generator.uniform(-STRETCH, STRETCH, len(self._top)))
        room = (1.0 - self._centre) / np.maximum(self._top - self._centre, 1e-3)
        low = 1.0 / np.maximum(self._centre, 1e-3)  # a score below chance stays positive
        factor = np.minimum(factor, np.maximum(np.minimum(room, low), 1.0))
        factor_T = factor[self._cell].astype(np.float32)
        centre_T = self._centre[self._cell].astype(np.float32)
        s, c = factor_T[self._owner], centre_T[self._owner]
        return replace(
            curves,
            values=np.clip(c + s * (curves.values - c), 0.0, 1.0),
            stderrs=s * curves.stderrs,
            grid=np.clip(
                centre_T[:, None] + factor_T[:, None] * (curves.grid - centre_T[:, None]), 0.0, 1.0
            ),
            noise=factor_T * curves.noise,
        )


class Sampler:
    """Samples queries about the trajectories of one table, with references from the same table."""

    def __init__(self, curves: Curves, index: ReferenceIndex, config: SamplingConfig) -> None:
        """Keeps the tables; trajectories of one checkpoint are never sampled."""
        self._curves, self._index, self._config = curves, index, config
        self._owners = index_owners(curves)
        self._warp = Warp(curves)
        self._rows = np.flatnonzero(curves.lengths >= 2)
        _, suite, counts = np.unique(
            curves.suites[self._rows], return_inverse=True, return_counts=True
        )
        weight = (counts ** (config.suite_power - 1.0))[suite]
        made_up = np.array([curves.trajectories[row].family == SYNTHETIC for row in self._rows])
        if made_up.any() and not made_up.all():
            odds = config.synthetic / (1.0 - config.synthetic)
            weight[made_up] = odds * weight[~made_up].sum() / made_up.sum()
        self._cumulative = np.cumsum(weight / weight.sum())

    def draw(self, generator: np.random.Generator, size: int) -> tuple[QueryBatch, npt.NDArray]:
        """Returns a batch and (B, H) float32 values of its targets, NaN where there are fewer."""
        config = self._config
        warped = generator.random() < config.warped
        curves = self._warp(generator) if warped else self._curves
        draw = np.searchsorted(self._cumulative, generator.random(size))
        rows = self._rows[np.minimum(draw, len(self._rows) - 1)]
        end = self._ends(generator, rows)
        end[generator.random(size) < config.unstarted] = -1
        targets = self._targets(generator, rows, end)
        flat = np.where(targets == NONE, 0, curves.starts[rows][:, None] + targets)
        knows_plan = generator.random(size) < config.told_end
        planned = np.where(np.isfinite(curves.end[rows]), curves.end[rows], curves.last[rows])
        references = self._references(
            generator,
            rows,
            end < 0,
            np.nanmax(np.where(targets == NONE, -np.inf, curves.x[flat]), 1),
        )
        # Without a context there is nothing to forecast from but references.
        end = np.where((references == NONE).all(axis=1), np.maximum(end, 0), end)
        siblings = self._owners.siblings(rows, generator)
        siblings[generator.random(size) < config.lonely] = NONE
        hide = generator.random((3, size)) < config.hidden
        batch = QueryBatch(
            curves=curves,
            rows=rows,
            end=end,
            begin=begins(planned, curves.x[flat[:, 0]]),
            siblings=siblings,
            owners=self._owners,
            log_params=np.where(hide[0], 0.0, curves.log_params[rows]).astype(np.float32),
            schedules=np.where(hide[1], UNKNOWN, curves.schedules[rows]),
            recipes=np.where(hide[2], NO_RECIPE, curves.recipes[rows]),
            targets=np.where(targets == NONE, np.nan, curves.x[flat]).astype(np.float32),
            planned=np.where(knows_plan, planned, np.nan).astype(np.float32),
            library=curves,
            references=references,
            kept=self._kept(generator, size) if config.thinned else None,
            blur=(config.blur * generator.normal(size=(size, 2))).astype(np.float32),
        )
        return batch, np.where(targets == NONE, np.nan, curves.values[flat]).astype(np.float32)

    def _kept(self, generator: np.random.Generator, size: int) -> npt.NDArray[np.bool_]:
        share = generator.uniform(*KEPT, size=(size, 1))
        share[generator.random(size) >= self._config.thinned] = 1.0
        kept = generator.random((size, MAX_OBSERVED)) < share
        kept[:, -1] = True
        return kept

    def _ends(self, generator: np.random.Generator, rows: IntArray) -> IntArray:
        n = self._curves.lengths[rows]
        anywhere = np.exp(generator.random(len(rows)) * np.log(n)).astype(np.int64) - 1
        anchored = (0.2 * n).astype(np.int64)
        take = generator.random(len(rows)) < self._config.anchor_share
        return np.clip(np.where(take, anchored, anywhere), 0, n - 2)

    def _targets(self, generator: np.random.Generator, rows: IntArray, end: IntArray) -> IntArray:
        """(B, H) later checkpoints, spread over the horizon; -1 where there are fewer."""
        ahead = self._curves.lengths[rows] - 1 - end
        count = self._config.targets
        # Strata of equal width with one draw in each; narrow neighbours may share a checkpoint.
        strata = np.minimum(count, ahead)
        edge = np.arange(count)[None, :]
        step = (edge + generator.random((len(rows), count))) * (ahead / strata)[:, None]
        chosen = end[:, None] + 1 + np.minimum(step.astype(np.int64), (ahead - 1)[:, None])
        return np.where(edge < strata[:, None], chosen, NONE)

    def _references(
        self,
        generator: np.random.Generator,
        rows: IntArray,
        unstarted: npt.NDArray[np.bool_],
        until: npt.NDArray,
    ) -> IntArray:
        config, curves = self._config, self._curves
        found = candidates(self._index, curves, rows)
        found = np.where(far_enough(curves, found, curves, rows, until), found, NONE)
        limit = np.log(generator.uniform(*SMALLER, size=len(rows)))
        smaller = curves.log_params[found] <= (curves.log_params[rows] + limit)[:, None]
        only = generator.random(len(rows)) < config.smaller_only
        found = np.where(only[:, None] & ~smaller, NONE, found)
        found[(generator.random(len(rows)) < config.alone) & ~unstarted] = NONE
        distance = distances(curves, found, curves, rows)
        distance += config.spread * generator.exponential(size=found.shape)
        return nearest(found, distance, config.references)
