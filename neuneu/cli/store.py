"""`neuneu store`: show, check and compact a trajectory store."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from neuneu.cli.exit_codes import finish
from neuneu.cli.parameters import Json

app = typer.Typer(no_args_is_help=True, help="Show, check and compact a trajectory store.")

Location = Annotated[
    str, typer.Argument(metavar="STORE", help="Trajectory store: a folder or s3://bucket/folder.")
]


@app.command()
def status(address: Location, json_: Json = False) -> None:
    """Show how many checkpoints of each run are done, quarantined and in flight.

    Example: neuneu store status runs/demo/store
    """
    from neuneu.data.store.check import summarize
    from neuneu.data.store.store import Store

    runs = summarize(Store(address))
    if json_:
        print(json.dumps({"store": address, "runs": [asdict(run) for run in runs]}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("suite", "run", box=None, pad_edge=False)
    for title in ("done", "quarantined", "in flight"):
        table.add_column(title, justify="right")
    table.add_column("reasons", overflow="fold")
    for run in runs:
        reasons = "\n".join(f"{count} x {text}" for text, count in run.reasons.items())
        numbers = map(str, (run.done, run.quarantined, run.in_flight))
        table.add_row(run.suite, run.run, *numbers, reasons)
    done, quarantined = sum(r.done for r in runs), sum(r.quarantined for r in runs)
    total = map(str, (done, quarantined, sum(r.in_flight for r in runs)))
    table.add_section()
    table.add_row("all", f"{len(runs)} runs", *total, "")
    Console(highlight=False, markup=False).print(table)


@app.command()
def check(address: Location, json_: Json = False) -> None:
    """Read a whole store; exit with code 3 if it is damaged or mixes tokenizers in a run.

    Example: neuneu store check s3://bucket/store
    """
    from neuneu.data.store.check import check as run_check
    from neuneu.data.store.store import Store

    report = run_check(Store(address))
    partial = bool(report.damaged or report.mixed_tokenizers)
    if json_:
        finish(report, json_, partial=partial)
        return
    counts = asdict(report)
    foreign, damaged = counts.pop("foreign"), counts.pop("damaged")
    mixed = counts.pop("mixed_tokenizers")
    for name in foreign:
        print(f"does not belong in a store: {name}")
    for text in damaged.values():
        print(f"damaged: {text}")
    for run, tokenizers in mixed.items():
        print(f"tokenizers differ in {run}, checkpoints by hash: {tokenizers}")
    numbers = {"foreign": foreign, "damaged": damaged, "mixed_tokenizers": mixed}
    finish(counts | {name: len(found) for name, found in numbers.items()}, json_, partial=partial)


@app.command()
def compact(address: Location, json_: Json = False) -> None:
    """Merge each run's files into one; safe to interrupt, and during an extraction.

    Example: neuneu store compact runs/demo/store
    """
    from neuneu.data.store.compaction import compact as run_compact
    from neuneu.data.store.store import Store

    finish(run_compact(Store(address)), json_)
