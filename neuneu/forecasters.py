"""Trained forecasters by their folder, whatever kind they are."""

from pathlib import Path

from neuneu.forecaster import Forecaster
from neuneu.model.export import read_record


def load_forecaster(folder: Path | None, *, name: str) -> Forecaster:
    """The forecaster of a folder; None takes the one that comes with the package.

    Args:
        folder: what `neuneu train` or `neuneu pretrain` wrote.
        name: what tables are to call it.

    Raises:
        UserError: no forecaster there, or files that do not fit each other.
    """
    from neuneu.cross_run.export import KIND
    from neuneu.cross_run.forecaster import PRETRAINED, CrossRunForecaster
    from neuneu.forecasting import NeuralForecaster

    place = folder or PRETRAINED
    if read_record(place).get("kind") == KIND:
        return CrossRunForecaster.load(place, name=name)
    return NeuralForecaster.load(place, name=name)
