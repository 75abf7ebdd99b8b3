"""neuneu: predict what a language model will score on a task before the compute is spent."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuneu.core import __version__
from neuneu.core.errors import UserError

if TYPE_CHECKING:
    from neuneu.decisions.answers import Answer
    from neuneu.decisions.predictor import Predictor

__all__ = ["Answer", "Predictor", "UserError", "__version__", "load"]

# Imported when first used: they bring torch, which takes seconds.
_LATER = {"Answer": "neuneu.decisions.answers", "Predictor": "neuneu.decisions.predictor"}


def load(model: str | Path | None = None) -> "Predictor":
    """Load the forecaster of the package, or of a folder, ready to answer.

    Args:
        model: a folder that `neuneu pretrain` wrote, local or `s3://`; None takes the one that
            comes with the package.

    Raises:
        UserError: no such forecaster there.
    """
    from neuneu.decisions.predictor import Predictor
    from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
    from neuneu.forecasters.registry import load_forecaster

    forecaster = load_forecaster(model, name="neuneu")
    if not isinstance(forecaster, CrossRunForecaster):
        raise UserError(
            f"{model}: expected a forecaster of `neuneu pretrain`, found one of `neuneu train`, "
            "whose futures cannot be sampled; it can be judged with `neuneu backtest`."
        )
    return Predictor(forecaster)


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
