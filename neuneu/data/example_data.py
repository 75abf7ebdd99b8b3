"""The packaged example (folder `example`): four finished runs and one unfinished run."""

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from neuneu.core.formatting import points, tokens
from neuneu.data.load import load_dataset

POINTS: Final = Path(__file__).parent / "example" / "points.csv"


def show_example(console: Console) -> None:
    """Print the example as a table with one line per run, and the path of its file."""
    data = load_dataset(POINTS, log_notes=False)
    tasks = sorted({t.task for t in data.trajectories})
    table = Table(title="The example: accuracy now, %")
    table.add_column("run")
    for name in ("parameters", "checkpoints", "tokens seen", "of planned", *tasks):
        table.add_column(name, justify="right", overflow="fold")
    for run in dict.fromkeys(t.run for t in sorted(data.trajectories, key=lambda t: t.params)):
        of = {t.task: t for t in data.trajectories if t.run == run}
        one = of[tasks[0]]
        now = [points(float(of[task].values[-1]), 0.0) for task in tasks]
        table.add_row(
            run, tokens(one.params), str(len(one)), tokens(float(one.tokens[-1])),
            tokens(one.planned_tokens or 0.0), *now,
        )  # fmt: skip
    console.print(table)
    console.print(f"from {POINTS}\n", soft_wrap=True)
