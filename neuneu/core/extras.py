"""Optional packages: checked before the work that needs them, with the remedy if missing."""

import importlib.util
from typing import Final

from neuneu.core.errors import UserError

EXTRAS: Final = {
    "scipy": "analysis", "matplotlib": "analysis", "sklearn": "analysis", "jinja2": "analysis",
    "ray": "cluster", "transformers": "cluster", "tokenizers": "cluster", "s3fs": "cluster",
    "filelock": "cluster", "huggingface_hub": "cluster", "optuna": "tune", "lm_eval": "lm-eval",
    "vllm": "cpu",
}  # fmt: skip
"""The extra of neuneu that installs each package."""


def require(what: str, *packages: str, extra: str, otherwise: str = "") -> None:
    """Refuse to continue without optional packages.

    Args:
        what: what needs the packages; the message begins with it.
        packages: names to import.
        extra: the extra of neuneu that installs them.
        otherwise: how to do without them; the message ends with it.

    Raises:
        UserError: a package is missing.
    """
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise UserError(
            f"{what} needs {', '.join(missing)}: pip install 'neuneu[{extra}]'{otherwise}."
        )


def is_installed(package: str) -> bool:
    """Whether a package can be imported; a mere folder of its name, such as `wandb/`, is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def how_to_get(error: ModuleNotFoundError) -> str | None:
    """Return how to install a package that could not be imported; None if no extra has it."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    gpu = " (neuneu[gpu] where there is one)" if extra == "cpu" else ""
    return f"this command needs {package}: pip install 'neuneu[{extra}]'{gpu}."
