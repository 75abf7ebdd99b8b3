"""The known formats, and detection of the format of a file or folder."""

from pathlib import Path
from typing import Final

from neuneu.core.errors import UserError
from neuneu.data.importers.columns import Columns
from neuneu.data.importers.lm_eval import LmEvalResults
from neuneu.data.importers.olmes import OlmesResults
from neuneu.data.importers.paper import PaperArrays
from neuneu.data.importers.protocol import Importer
from neuneu.data.importers.tensorboard import TensorBoardEvents
from neuneu.data.importers.wandb import WandbExport

IMPORTERS: Final[tuple[Importer, ...]] = (
    LmEvalResults(), Columns(), OlmesResults(), WandbExport(), TensorBoardEvents(), PaperArrays(),
)  # fmt: skip


def find_importer(path: Path, name: str | None) -> tuple[Importer, str]:
    """Find the importer by name or, without one, the only one that recognises the path.

    Returns:
        The importer, and the reason in words.

    Raises:
        UserError: no such path or format, no format that fits, or several.
    """
    if not path.exists():
        raise UserError(f"{path}: expected a local file or folder, found none; check the path.")
    known = {importer.name: importer for importer in IMPORTERS}
    if name is not None:
        if name not in known:
            raise UserError(f"--format {name!r}: expected one of {', '.join(known)}.")
        return known[name], f"format {name}, as requested"
    reasons = {
        importer.name: reason
        for importer in IMPORTERS
        if (reason := importer.recognises(path)) is not None
    }
    if not reasons:
        expected = "; ".join(f"{i.name}: {i.expects}" for i in IMPORTERS)
        raise UserError(
            f"{path}: no known format found in {_content(path)}; known are {expected}. "
            "Name one with --format."
        )
    if len(reasons) > 1:
        found = "; ".join(f"{format_}: {reason}" for format_, reason in reasons.items())
        raise UserError(f"{path}: several formats fit ({found}); choose one with --format.")
    ((format_, reason),) = reasons.items()
    return known[format_], f"format {format_}: {reason}"


def _content(path: Path) -> str:
    if path.is_file():
        return f"a {path.suffix or 'nameless'} file"
    names = sorted(found.name for found in path.iterdir())
    if not names:
        return "an empty folder"
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"a folder with {', '.join(names[:4])}{more}"
