"""Trained forecasters by their folder, whatever kind they are."""

from pathlib import Path

from neuneu.core.storage import Folder, read_from
from neuneu.forecasters.protocol import Forecaster
from neuneu.forecasters.window.export import CONFIG, WEIGHTS, read_record


def load_forecaster(folder: "Path | str | Folder | None", *, name: str) -> Forecaster:
    """The forecaster of a folder; None takes the one that comes with the package.

    Args:
        folder: what `neuneu train` or `neuneu pretrain` wrote, local or on S3.
        name: what tables are to call it.

    Raises:
        UserError: no forecaster there, or files that do not fit each other.
    """
    from neuneu.forecasters.cross_run.export import KIND
    from neuneu.forecasters.cross_run.forecaster import PRETRAINED, CrossRunForecaster
    from neuneu.forecasters.window.forecaster import NeuralForecaster

    source = Folder(folder or PRETRAINED)
    kind = read_record(source).get("kind")
    with read_from(source, (CONFIG, WEIGHTS)) as place:
        if kind == KIND:
            return CrossRunForecaster.load(place, name=name)
        return NeuralForecaster.load(place, name=name)
