"""The command `neuneu import`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from neuneu.cli.exit_codes import finish
from neuneu.cli.parameters import Json
from neuneu.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from neuneu.data.importers import Imported

_SUFFIXES: Final = (".parquet", ".csv")


def import_(  # noqa: PLR0917 - options, not positions
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="File or folder of evaluation results.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help=".parquet or .csv file for the accuracies, or a folder for all tables.",
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="lm-eval, csv, olmes, wandb, tensorboard or paper (default: detect)."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Name of the run, if there is only one.")] = None,
    family: Annotated[str | None, typer.Option(help="Name of the model family.")] = None,
    params: Annotated[
        float | None, typer.Option(help="Number of parameters, shared ones counted once.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Name of a column, ours=theirs; repeatable.")
    ] = None,
    step_from: Annotated[
        str | None,
        typer.Option(help="Regular expression for file names, with groups run, step, tokens."),
    ] = None,
    tokens_per_step: Annotated[float | None, typer.Option(help="Training tokens per step.")] = None,
    percent: Annotated[bool, typer.Option("--percent", help="Values are percentages.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Tables have one column per task.")] = False,
    json_: Json = False,
) -> None:
    """Convert existing evaluation results into a table to forecast from.

    Example: neuneu import results/ -o accuracies.parquet
    """
    from neuneu.data.importers import import_results

    _check_output(output)
    imported = import_results(
        path,
        format=format_,
        run=run,
        family=family,
        params=params,
        columns=_columns(column or []),
        step_from=step_from,
        tokens_per_step=tokens_per_step,
        percent=percent,
        wide=wide,
    )
    written = _write(imported, output)
    finish(_summary(imported, written, as_json=json_), json_)


def _columns(given: list[str]) -> dict[str, str]:
    columns = {}
    for text in given:
        ours, separator, theirs = text.partition("=")
        if not (separator and ours and theirs):
            raise UserError(f"--column {text!r}: expected ours=theirs, such as value=Score.")
        columns[ours] = theirs
    return columns


def _check_output(output: Path) -> None:
    """Raises UserError for a path that cannot be written to."""
    if output.parts and output.parts[0].endswith(":"):
        raise UserError(f"{output}: expected a local file or folder; import there and copy it.")
    if output.suffix in _SUFFIXES and output.is_dir():
        raise UserError(f"{output}: expected a file, found a folder; name another.")
    if output.suffix not in {*_SUFFIXES, ""} or (not output.suffix and output.is_file()):
        raise UserError(f"{output}: expected a .parquet or .csv file or a folder.")


def _write(imported: "Imported", output: Path) -> list[str]:
    """Writes the accuracies to a file, or all tables to a folder; returns the paths."""
    from neuneu.data.choice_files import write_choices

    tables = {
        "accuracies": imported.accuracies,
        "losses": imported.losses,
        "tasks": imported.tasks,
    }
    if output.suffix in _SUFFIXES:
        _write_table(imported.accuracies, output)
        return [str(output)]
    written = []
    for name, table in tables.items():
        if table is not None:
            _write_table(table, output / f"{name}.parquet")
            written.append(str(output / f"{name}.parquet"))
    if imported.choices:
        write_choices(imported.choices, output / "choices.parquet")
        written.append(str(output / "choices.parquet"))
    return written


def _write_table(table: "pa.Table", path: Path) -> None:
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    from neuneu.core.files import atomic_path

    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            pacsv.write_csv(table, temporary)
        else:
            pq.write_table(table, temporary)


def _summary(imported: "Imported", written: list[str], *, as_json: bool) -> dict[str, object]:
    accuracies = imported.accuracies
    counts = {
        name: len(accuracies.column(column).unique())
        for name, column in (("runs", "run"), ("tasks", "task"), ("metrics", "metric"))
    }
    result: dict[str, object] = {"output": written if as_json else ", ".join(written)}
    result |= {"rows": accuracies.num_rows, **counts}
    if imported.choices:
        result["choices"] = sum(part.logprobs.size for part in imported.choices)
    if as_json:
        return result | {"notes": list(imported.notes)}
    notes = list(imported.notes)
    if imported.choices and not any(path.endswith("choices.parquet") for path in written):
        notes.append("scored choices were found; they are written where -o is a folder")
    return result | {"notes": "".join(f"\n  {note}" for note in notes)}
