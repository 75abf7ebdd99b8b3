"""Time and memory of an answer, each from a fresh process.

    .venv/bin/python benchmarks/answers/run.py

Runs every command `--repeats` times after a first run from a cold page cache (files of Python and
of the core's packages). Seconds are wall-clock time, memory is the largest resident set of the
process. Writes answers.json and answers.md to `--output` and prints the page. Run it on an idle
machine; the load before the start is recorded.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from page import render

from neuneu.core.files import write_text_atomic

CORE = ("torch", "numpy", "pyarrow", "safetensors", "typer", "rich", "pydantic", "pydantic_core",
        "yaml", "neuneu")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command and its limits, if any."""

    title: str
    arguments: list[str]
    seconds: float | None = None
    gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One run of a command: wall-clock and CPU seconds, peak memory in GiB."""

    seconds: float
    cpu_seconds: float
    gib: float


def write_curves(path: Path, *, runs: int, tasks: int, points: int, finished: int = 0) -> None:
    """Write a table of rising curves, one observation per row and 10^9 tokens.

    `finished` runs have 40 points.
    """
    generator = np.random.default_rng(0)
    lines = ["run,task,params,tokens,value"]
    for run in range(runs + finished):
        n = points if run < runs else 40
        for task in range(tasks):
            top, rise, rate = generator.uniform((0.5, 0.2, 0.2), (0.9, 0.4, 0.6))
            values = top - rise * np.arange(1, n + 1) ** -rate + generator.normal(0, 0.005, n)
            lines += [
                f"run-{run},task-{task},{1e8 * 1.1**run:.0f},{place}e9,{value:.4f}"
                for place, value in enumerate(values.clip(0, 1), start=1)
            ]
    path.write_text("\n".join(lines) + "\n")


def cases(folder: Path) -> list[Case]:
    """Return the commands, on tables written to `folder`."""
    few, many, compared, rivals = (folder / f"{n}.csv" for n in ("few", "many", "compared", "rank"))
    write_curves(few, runs=1, tasks=1, points=12)
    write_curves(many, runs=50, tasks=20, points=12)
    write_curves(compared, runs=50, tasks=20, points=12, finished=50)
    write_curves(rivals, runs=10, tasks=10, points=12)
    saved = folder / "saved.csv"
    rows = [f"run-{run},{place}e9" for run in range(10) for place in (15, 20, 30)]
    saved.write_text("\n".join(["run,tokens", *rows]) + "\n")
    until = ["--until", "40e9"]
    return [
        Case(title="neuneu --help", arguments=["--help"]),
        Case(
            title="forecast of 12 points",
            arguments=["forecast", str(few), *until], seconds=10, gib=1,
        ),
        Case(
            title="forecast of 1,000 trajectories of 12 points",
            arguments=["forecast", str(many), *until], seconds=20,
        ),
        Case(
            title="the same, compared with 1,000 finished ones",
            arguments=["forecast", str(compared), *until], seconds=20,
        ),
        Case(
            title="the first with --explain",
            arguments=["forecast", str(few), *until, "--explain"],
        ),
        Case(title="rank of 10 runs on 10 tasks", arguments=["rank", str(rivals), *until]),
        Case(
            title="stop, the same runs",
            arguments=["stop", str(rivals), *until, "--target", "0.6"],
        ),
        Case(title="when, the same runs", arguments=["when", str(rivals), "0.6", *until]),
        Case(
            title="next-eval, the same runs, 30 checkpoints",
            arguments=["next-eval", str(rivals), *until, "--checkpoints", str(saved)],
        ),
    ]  # fmt: skip


def files_read() -> Iterator[Path]:
    """Yield the files of Python and of the core's packages."""
    paths = sysconfig.get_paths()
    site = Path(paths["purelib"])
    yield from (p for p in Path(paths["stdlib"]).rglob("*") if site not in p.parents)
    for name in CORE:
        spec = importlib.util.find_spec(name)
        for root in (spec.submodule_search_locations or []) if spec else []:
            yield from Path(root).rglob("*")
            yield from Path(root).with_name(f"{name}.libs").glob("*")


def forget_files() -> None:
    """Evict these files from the page cache, except for those that other processes map."""
    for path in files_read():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(arguments: list[str]) -> Cost:
    """Run `neuneu` in its own process.

    Raises:
        RuntimeError: the command failed.
    """
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "neuneu.cli.app", *arguments], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"neuneu {' '.join(arguments)}: exit code {child.returncode}")
    return Cost(
        seconds=round(seconds, 3),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
        gib=round(usage.ru_maxrss / 2**20, 3),
    )


def measure_case(case: Case, repeats: int) -> dict[str, Any]:
    """Return the first run, from disk, and the median of the others."""
    forget_files()
    first, *others = [measure(case.arguments) for _ in range(repeats + 1)]
    middle = {
        name: statistics.median(asdict(cost)[name] for cost in others) for name in asdict(first)
    }
    words = [Path(word).name if "/" in word else word for word in case.arguments]
    return asdict(case) | {"arguments": words, "first": asdict(first), "later": middle}


def machine() -> dict[str, Any]:
    """Return what the measurements depend on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"machine": machine(), "repeats": arguments.repeats}
    with tempfile.TemporaryDirectory() as folder:
        record["cases"] = [measure_case(case, arguments.repeats) for case in cases(Path(folder))]
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_text_atomic(arguments.output / "answers.json", json.dumps(record, indent=1) + "\n")
    page = render("answers", record=record)
    write_text_atomic(arguments.output / "answers.md", page)
    print(page)


if __name__ == "__main__":
    main()
