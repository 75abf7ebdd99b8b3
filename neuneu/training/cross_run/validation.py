"""Validation of a cross-run network on held-out runs during training."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from neuneu.data.quantiles import MEDIAN, common_levels, inside_80, pinball
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.protocol import Sees
from neuneu.forecasters.queries import make_queries
from neuneu.training.learner import Ranks

_SEES: tuple[tuple[Sees, str], ...] = (("reference", ""), ("own", "own_"))


def validate(
    network: nn.Module,
    held_out: Sequence[Trajectory],
    references: Sequence[Trajectory],
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Return means over trajectories of the means over their checkpoints after the first fifth.

    `pinball` (over the published levels, see `common_levels`), `mae` (of the median) and
    `coverage_80` (if the levels are there) with references, and without them with the prefix
    `own_`; in accuracy, 0.01 = one point. Empty without trajectories that are long enough.

    Args:
        network: a `CrossRunNetwork`.
        held_out: trajectories to forecast.
        references: reference runs.
        ranks: each rank forecasts its share of the trajectories.
    """
    assert isinstance(network, CrossRunNetwork)
    ranks = ranks or Ranks()
    queries, truths = make_queries(list(held_out), Anchored(fraction=0.2), None)
    if not queries:
        return {}
    mine = slice(ranks.rank, None, ranks.world)
    network.eval()
    levels = network.config.levels
    shared = common_levels(levels)
    interval = 0.1 in levels and 0.9 in levels
    sums = np.zeros((len(_SEES), 4))
    for row, (sees, _) in enumerate(_SEES):
        forecaster = CrossRunForecaster([network], sees=sees)
        forecaster.fit(references)
        for answer, truth in zip(forecaster.predict(queries[mine]), truths[mine], strict=True):
            if np.isnan(answer).any():
                continue
            y = truth.values
            loss = pinball(answer[:, shared], y, np.asarray(levels)[shared]).mean()
            error = np.abs(answer[:, levels.index(MEDIAN)] - y).mean()
            inside = 0.0
            if interval:
                inside = inside_80(answer, y, levels).mean()
            sums[row] += [1.0, loss, error, inside]
    totals = ranks.sum(torch.from_numpy(sums)).numpy()
    metrics: dict[str, float] = {}
    for (_, prefix), (count, loss, error, inside) in zip(_SEES, totals.tolist(), strict=True):
        if not count:
            continue
        metrics |= {f"{prefix}pinball": loss / count, f"{prefix}mae": error / count}
        if interval:
            metrics[f"{prefix}coverage_80"] = inside / count
    return metrics
