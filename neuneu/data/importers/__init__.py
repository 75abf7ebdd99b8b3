"""Evaluation results of other tools, as tables to forecast from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from neuneu.core.config import build_config
from neuneu.data.importers.protocol import Imported, ImportOptions

__all__ = ["ImportOptions", "Imported", "import_results"]


def import_results(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - as the command line calls it
    **options: Any,
) -> Imported:
    """Read results of any known format (docs/import.md).

    Args:
        path: a local file or folder.
        format: name of the format; by default it is detected.
        **options: fields of `ImportOptions`.

    Returns:
        Tables of the data contract, validated; the notes give the format, the reason for it and
        all assumptions.

    Raises:
        UserError: an unknown format, or results that cannot be read or break the contract.
    """
    from neuneu.data.importers.completion import complete
    from neuneu.data.importers.formats import find_importer

    given = {key: value for key, value in options.items() if value is not None}
    settings = build_config(ImportOptions, given)
    importer, reason = find_importer(Path(path), format)
    imported = complete(importer.read(Path(path), settings), settings, name=str(path))
    return replace(imported, notes=(reason, *imported.notes))
