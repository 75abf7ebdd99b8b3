"""Trained forecasters by their folder, whatever kind they are."""

from importlib import import_module
from pathlib import Path
from typing import Final, cast

from neuneu.core.errors import DataError, UserError
from neuneu.core.storage import Folder, read_from
from neuneu.forecasters.protocol import Forecaster, JointForecaster
from neuneu.forecasters.window.export import CONFIG, WEIGHTS, read_record

PRETRAINED: Final = Path(__file__).parent / "pretrained"
"""The forecaster that comes with the package."""

KINDS: Final = {
    "window": "neuneu.forecasters.window.forecaster:NeuralForecaster",
    "cross-run": "neuneu.forecasters.cross_run.forecaster:CrossRunForecaster",
}
"""`kind` in a folder's `config.json` (none means `window`) -> module:class with
`load(folder, name=...)`."""


def load_forecaster(folder: "Path | str | Folder | None", *, name: str) -> Forecaster:
    """Loads the forecaster of a folder; None loads the one that comes with the package.

    Args:
        folder: written by `neuneu train` or `neuneu pretrain`, local or on S3.
        name: its name in tables.

    Raises:
        UserError: no forecaster there, or files that do not fit each other.
    """
    source = Folder(folder or PRETRAINED)
    kind = read_record(source).get("kind", "window")
    if kind not in KINDS:
        raise DataError(f"{source}/{CONFIG}: expected kind {' or '.join(KINDS)}, found {kind!r}.")
    module, _, class_name = KINDS[kind].partition(":")
    with read_from(source, (CONFIG, WEIGHTS)) as local:
        found = getattr(import_module(module), class_name).load(local, name=name)
    return cast("Forecaster", found)


def load_joint_forecaster(folder: "Path | str | Folder | None", *, name: str) -> JointForecaster:
    """As `load_forecaster`, for one that can answer questions.

    Raises:
        UserError: no such forecaster there, or one that cannot be sampled from.
    """
    found = load_forecaster(folder, name=name)
    if not isinstance(found, JointForecaster):
        raise UserError(
            f"{folder}: expected a forecaster of `neuneu pretrain`, found one of `neuneu train`, "
            "whose futures cannot be sampled; evaluate it with `neuneu backtest`."
        )
    return found
