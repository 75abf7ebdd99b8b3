"""`neuneu tune-report`: what a tuning found, and its best config."""

from pathlib import Path
from typing import Annotated

import typer

from neuneu.cli.exit_codes import exit_codes, finish


def tune_report(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A tuning's folder, or s3://bucket/folder.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Where all goes; else DIR (S3: ./tune-report)."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="File for the best trial's training config.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="The objective that leads; else the tuning's first.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    """Say what a tuning found, also while it runs: a page, tables, the best config.

    Example: neuneu tune-report runs/tune --export best.yaml
    """
    with exit_codes():
        from neuneu.reports.tuning.report import summary, write_tune_report

        written = write_tune_report(folder, output=output, export=export, objective=objective)
        paths = {"report": written.report, "trials": written.trials, "curves": written.curves}
        if written.export is not None:
            paths["export"] = str(written.export)
        found = summary(written.analysis)
        if json_:
            finish(paths | found, json_)
            return
        for sentence in found["findings"]:
            print(sentence)
        for note in found["caveats"]:
            print(f"but: {note}")
        finish(paths, json_)
