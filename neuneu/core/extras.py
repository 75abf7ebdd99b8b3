"""Optional packages: asked for before the work that needs them, named where they are missing."""

import importlib.util
from typing import Final

from neuneu.core.errors import UserError

EXTRAS: Final = {
    "scipy": "analysis", "matplotlib": "analysis", "sklearn": "analysis", "jinja2": "analysis",
    "ray": "cluster", "transformers": "cluster", "tokenizers": "cluster", "s3fs": "cluster",
    "filelock": "cluster", "huggingface_hub": "cluster", "optuna": "tune", "lm_eval": "lm-eval",
    "vllm": "cpu",
}  # fmt: skip
"""Which extra of neuneu brings a package."""


def require(what: str, *packages: str, extra: str, otherwise: str = "") -> None:
    """Says what is not installed and how to get it.

    Args:
        what: needs the packages, as the message begins.
        packages: names to import.
        extra: of neuneu, brings them.
        otherwise: how to do without, as the message ends.

    Raises:
        UserError: a package is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs {', '.join(missing)}: pip install 'neuneu[{extra}]'{otherwise}."
        )


def how_to_get(error: ModuleNotFoundError) -> str | None:
    """What to do about a package that could not be imported; None where no extra has it."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    gpu = " (neuneu[gpu] where there is one)" if extra == "cpu" else ""
    return f"this command needs {package}: pip install 'neuneu[{extra}]'{gpu}."
