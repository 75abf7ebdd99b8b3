"""Who is compared in a backtest: baselines, trained forecasters, and these with evidence."""

from collections.abc import Sequence

from neuneu.core.errors import UserError
from neuneu.core.storage import Folder
from neuneu.data.trajectories import Trajectory
from neuneu.evaluation.config import BacktestConfig
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.items.combined import with_items
from neuneu.forecasters.protocol import Forecaster, JointForecaster
from neuneu.forecasters.registry import load_forecaster


def make_forecasters(config: BacktestConfig) -> list[Forecaster]:
    """Return the baselines and trained forecasters that a config names.

    Raises:
        UserError: none, an unknown one, or a folder without a forecaster.
    """
    forecasters = [make_forecaster(name, config.logistic) for name in config.forecasters]
    if config.pretrained:
        forecasters.append(load_forecaster(None, name="neuneu"))
    several = len(config.models) > 1
    forecasters += [
        load_forecaster(
            folder, name=str(Folder(folder)).rpartition("/")[2] if several else "neural"
        )
        for folder in config.models
    ]
    if not forecasters:
        raise UserError("forecasters: expected at least one name or model folder, found none.")
    return forecasters


def with_evidence(
    forecasters: Sequence[Forecaster], trajectories: Sequence[Trajectory]
) -> list[Forecaster]:
    """Return the forecasters that items can be combined with, combined with them.

    Raises:
        UserError: there is none.
    """
    found: list[Forecaster] = []
    for forecaster in forecasters:
        if isinstance(forecaster, JointForecaster):
            combined = with_items(forecaster, trajectories, name=f"{forecaster.name} + evidence")
            found += [] if combined is forecaster else [combined]
    if not found:
        raise UserError(
            "choices: expected a forecaster to combine items with, found "
            f"{', '.join(f.name for f in forecasters)}; add neuneu to --forecasters "
            "(pretrained=true), or a model of `neuneu pretrain`."
        )
    return found
