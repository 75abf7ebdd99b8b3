"""Evaluation results that people already have, as tables that neuneu forecasts from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from neuneu.data.importers.protocol import Imported, ImportOptions

__all__ = ["Imported", "import_results"]


def import_results(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - as the command line calls it
    run: str | None = None,
    family: str | None = None,
    params: float | None = None,
    columns: Mapping[str, str] | None = None,
    step_from: str | None = None,
    tokens_per_step: float | None = None,
    percent: bool = False,
    wide: bool = False,
) -> Imported:
    """Reads results of any known format (docs/import.md).

    Args:
        path: a local file or folder.
        format: its name; None finds out.
        run: of all results.
        family: likewise.
        params: likewise, distinct weights.
        columns: our column names to theirs, for tables.
        step_from: a regular expression with groups named run, step or tokens, searched in names.
        tokens_per_step: tokens of a training step; tokens are then steps times this.
        percent: values are of 100.
        wide: a table has one column a task.

    Returns:
        Tables of the data contract, validated; the format, the reason and all assumptions are in
        the notes.

    Raises:
        UserError: an unknown format, or results that cannot be read or break the contract.
    """
    from neuneu.data.importers.completion import complete
    from neuneu.data.importers.formats import find_importer

    options = ImportOptions(
        run=run,
        family=family,
        params=params,
        columns=columns or {},
        step_from=step_from,
        tokens_per_step=tokens_per_step,
        percent=percent,
        wide=wide,
    )
    place = Path(path)
    importer, reason = find_importer(place, format)
    imported = complete(importer.read(place, options), options, name=str(path))
    return replace(imported, notes=(reason, *imported.notes))
