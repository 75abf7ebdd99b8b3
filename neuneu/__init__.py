"""neuneu: predict what a language model will score on a task before the compute is spent."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuneu.predictor import Predictor

__version__ = "0.1.0"


def load(model: str | Path | None = None) -> "Predictor":
    """The forecaster of the package, or of a folder, ready to answer.

    Args:
        model: a folder that `neuneu pretrain` wrote, local or `s3://`; None takes the one that
            comes with the package.

    Raises:
        UserError: no such forecaster there.
    """
    from neuneu.cross_run.forecaster import CrossRunForecaster
    from neuneu.errors import UserError
    from neuneu.forecasters import load_forecaster
    from neuneu.predictor import Predictor

    forecaster = load_forecaster(model, name="neuneu")
    if not isinstance(forecaster, CrossRunForecaster):
        raise UserError(
            f"{model}: expected a forecaster of `neuneu pretrain`, found one of `neuneu train`, "
            "whose futures cannot be sampled; it can be judged with `neuneu backtest`."
        )
    return Predictor(forecaster)
