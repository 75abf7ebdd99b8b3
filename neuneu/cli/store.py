"""`neuneu store`: show, check, compact and upgrade a trajectory store; metrics from it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from neuneu.cli.exit_codes import finish
from neuneu.cli.parameters import Json

app = typer.Typer(no_args_is_help=True, help="Show, check, compact and upgrade a trajectory store.")

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


@app.command()
def upgrade(address: Location, json_: Json = False) -> None:
    """Bring a store of version 1 to the present one, keeping everything; safe to interrupt.

    Results keep their values; log-probabilities, which version 1 did not store, are absent.

    Example: neuneu store upgrade runs/demo/store
    """
    from neuneu.data.store.store import Store
    from neuneu.data.store.upgrade import upgrade as run_upgrade

    finish(run_upgrade(Store(address)), json_)


@app.command()
def metrics(
    address: Location,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for metrics.parquet, accuracies.parquet and losses.parquet.",
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks, comma-separated (default: all).")
    ] = None,
    json_: Json = False,
) -> None:
    """Recompute accuracies and continuous metrics from the stored log-probabilities.

    Exits with code 3 if accuracies in the store differ from what is recomputed.

    Example: neuneu store metrics runs/demo/store -o runs/metrics
    """
    import io

    import pyarrow.parquet as pq

    from neuneu.core.storage import Folder
    from neuneu.data.store.recomputation import recompute
    from neuneu.data.store.store import Store

    found = recompute(Store(address), tasks=None if tasks is None else tasks.split(","))
    summary: dict[str, object] = {"choices": found.choices, "differing": found.differing}
    for name in ("metrics", "accuracies", "losses"):
        table = getattr(found, name)
        summary[name] = table.num_rows
        if output is not None:
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            Folder(output).write(f"{name}.parquet", buffer.getvalue())
    finish(summary | ({} if output is None else {"output": output}), json_,
           partial=found.differing > 0)  # fmt: skip
