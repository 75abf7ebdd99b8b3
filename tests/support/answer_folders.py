"""Folders of real answers of the shipped forecaster, with hostile names."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from curves import ladder, write_table

import neuneu
from neuneu.data.trajectories import Trajectory

END = 20_000.0
SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
DOLLARS = "$\\frac$ a_b$" + "x" * 90
CLOSING = "</script><script>alert(3)</script>"

NAMES = {"r0": "r0", "r1": "r1", "r2": SCRIPT, "r3": IMAGE, "r4": DOLLARS}
TASKS = {"t0": "t0", "t1": "t1", "t2": "t2", "t3": CLOSING}
CHANCE = 0.25


def named_curves() -> list[Trajectory]:
    """Return curves: r0 and r1 have reached the end, others not; t3 is at chance so far."""
    return [
        replace(t if t.run in {"r0", "r1"} else t.slice(0, 8), run=NAMES[t.run], task=TASKS[t.task])
        for t in ladder(5)
    ]


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the answers to all five questions; copy it before writing to it."""
    folder = tmp_path_factory.mktemp("answered")
    table = write_table(folder / "a" / "in.parquet", named_curves(), planned_tokens=END)
    tasks = [
        {"task": task, "metric": "acc", "base_task": task, "format": "rc", "split": "", "group": "",
         "chance": CHANCE, "n_items": 100, "higher_is_better": True}
        for task in TASKS.values()
    ]  # fmt: skip
    model, out = neuneu.load(), folder / "out"
    model.forecast(table, tasks=tasks, explain=True).write(out)
    model.rank(table, tasks=tasks, explain=True).write(out)
    model.stop(table, tasks=tasks, target=0.55).write(out)
    model.when(table, 0.5, tasks=tasks).write(out)
    saved = [{"run": SCRIPT, "step": step} for step in (9, 12, 19)]
    model.next_eval(table, tasks=tasks, checkpoints=saved).write(out)
    return out


@pytest.fixture
def folder(answered: Path, tmp_path: Path) -> Path:
    """A copy of `answered` that tests may change."""
    return Path(shutil.copytree(answered, tmp_path / "answers"))


def multiply(folder: Path, runs: int) -> None:
    """Turn the forecast of a folder into one of many runs, copies of the first."""
    record = json.loads((folder / "forecast.json").read_text())
    first = record["rows"][0]["run"]
    rows = [row for row in record["rows"] if row["run"] == first]
    record["rows"] = [row | {"run": f"{first}-{n}"} for n in range(runs) for row in rows]
    (folder / "forecast.json").write_text(json.dumps(record))
    for name in ("forecasts", "observed"):
        table = pq.read_table(folder / f"{name}.parquet")
        table = table.filter(pc.equal(table["run"], first))
        column = table.schema.get_field_index("run")
        copies = [
            table.set_column(column, "run", pa.array([f"{first}-{n}"] * table.num_rows))
            for n in range(runs)
        ]
        pq.write_table(pa.concat_tables(copies), folder / f"{name}.parquet")
