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

# Imported on first use: they import torch, which takes seconds.
_LAZY = {"Answer": "neuneu.decisions.answers", "Predictor": "neuneu.decisions.predictor"}


def load(model: str | Path | None = None) -> "Predictor":
    """Load a forecaster, ready to answer questions.

    Args:
        model: folder that `neuneu pretrain` wrote, local or `s3://`; None loads the forecaster
            that comes with the package.

    Raises:
        UserError: no such forecaster there.
    """
    from neuneu.decisions.predictor import Predictor
    from neuneu.forecasters.registry import load_joint_forecaster

    return Predictor(load_joint_forecaster(model, name="neuneu"))


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
