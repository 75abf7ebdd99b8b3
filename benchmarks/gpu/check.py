"""Test and measure everything that needs a GPU, in minutes.

    python benchmarks/gpu/check.py --output docs/results/gpu.json

(a) the card; (b) transformers' scorer; (c) vLLM: speed, equality with (b), swaps, two
architectures, a five-shot task, padded heads, two engines on one card; (d) extraction on Ray;
(e) training, and the tests marked `gpu`. Each step has its own process and time limit, so neither a
broken CUDA context nor a hang affects the next one. Failures are reported and the other steps still
run; the record is written as results come in. `--dry-run` takes every branch on a CPU with tiny
shapes. Needs the package's dependencies, psutil, and pytest for the tests; steps whose packages are
missing (vLLM, Ray) are skipped.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

BENCHMARKS: Final = Path(__file__).resolve().parents[1]
ROOT: Final = BENCHMARKS.parent
RESERVE_S: Final = 10.0
"""Seconds reserved for each step after the current one."""
LEAST_S: Final = 5.0
SHARED_MEMORY: Final = Path("/dev/shm")
MODELS_BYTES: Final = 24e9
ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
COLUMNS: Final = ("part", "case", "per second", "of matrix rate", "largest (mean) difference, nats",
                  "seconds", "note")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Step:
    """A process of the check. Steps of one `group` start together if the machine allows it."""

    name: str
    part: str
    limit_s: float
    group: str = ""
    needs: str | None = None
    dry: bool = True
    always_together: bool = False


STEPS: Final = (
    Step(name="card", part="a", limit_s=60),
    Step(name="models", part="b", limit_s=60),
    Step(name="transformers", part="b", limit_s=90),
    *(
        Step(name=f"vllm-{name}", part="c", limit_s=150, group="engines", needs="vllm", dry=dry)
        for name, dry in (
            ("10M", True),
            ("160M", False),
            ("160M-float32", True),
            ("1B", False),
            ("neox-160M", True),
            ("tied", True),
            ("head-12", True),
        )
    ),
    Step(name="pipeline", part="d", limit_s=150, needs="ray"),
    Step(name="training", part="e", limit_s=60, needs="ray"),
    *(
        Step(name=f"vllm-two-engines-{number}", part="c", limit_s=90, group="two-engines",
             needs="vllm", always_together=True)
        for number in (1, 2)
    ),
    Step(name="pytest", part="e", limit_s=180),
)  # fmt: skip


@dataclass(eq=False)
class Found:
    """The outcome of a step, as in the record."""

    name: str
    part: str
    status: str = "running"
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Runs steps; `command` returns the command line of a step within its group."""

    work: Path
    budget_s: float
    command: Callable[[Step, Sequence[Step]], list[str]]
    tell: Callable[[list[Found]], None] = lambda _: None
    together: int = 1
    limit_factor: float = 1.0

    def run(self, steps: Sequence[Step]) -> list[Found]:
        """Run the steps in turn within the budget; failed steps of a group are retried alone."""
        deadline = time.monotonic() + self.budget_s
        found: list[Found] = []
        batches = list(self._batches(steps))
        for place, batch in enumerate(batches):
            later = RESERVE_S * (len(batches) - place - 1)
            left = deadline - time.monotonic()
            most = self.limit_factor * max(step.limit_s for step in batch)
            limit = min(most, max(left - later, LEAST_S))
            missing = [step for step in batch if step.needs and not find_spec(step.needs)]
            for step in batch:
                if step in missing:
                    reason = f"{step.needs} is not installed"
                elif left < LEAST_S:
                    reason = f"the budget of {self.budget_s:.0f} s is used up"
                else:
                    continue
                found.append(Found(step.name, step.part, "skipped", errors=[reason]))
            started = [step for step in batch if step not in missing]
            if started and left >= LEAST_S:
                self._together(started, limit, found)
            self.tell(found)
        for step in steps:
            entry = next(entry for entry in found if entry.name == step.name)
            left = deadline - time.monotonic()
            alone = not step.group or step.always_together or self.together == 1
            failed = entry.status in ("failed", "timed out") and not entry.rows
            if alone or not failed or left < 3 * LEAST_S:
                continue
            first = entry.errors[:1]
            found.remove(entry)
            self._together([step], min(step.limit_s, left), found)
            found[-1].errors += [f"(together with others: {reason})" for reason in first]
            self.tell(found)
        order = [step.name for step in steps]
        return sorted(found, key=lambda entry: order.index(entry.name))

    def _batches(self, steps: Sequence[Step]) -> Iterator[list[Step]]:
        for _, grouped in groupby(steps, key=lambda step: step.group or step.name):
            group = list(grouped)
            size = len(group) if group[0].always_together else self.together
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def _together(self, steps: Sequence[Step], limit: float, found: list[Found]) -> None:
        """Run steps at the same time, each for at most `limit` seconds."""
        turns = Path(tempfile.mkdtemp(prefix="turns-", dir=self.work))
        running: dict[Found, tuple[Step, subprocess.Popen[bytes]]] = {}
        entries = [(Found(step.name, step.part), step) for step in steps]
        found += [entry for entry, _ in entries]
        begun = time.monotonic()
        with _ended_with_us(running):
            for entry, step in entries:
                log = (self.work / f"{step.name}.log").open("ab")
                result = _result(self.work, step)
                result.unlink(missing_ok=True)
                command = [*self.command(step, steps), "--turns", str(turns)]
                running[entry] = step, subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT,
                    env=_environment())  # fmt: skip
                log.close()
            while running:
                time.sleep(0.1)
                for entry, (step, process) in list(running.items()):
                    entry.seconds = time.monotonic() - begun
                    code = process.poll()
                    if code is None and entry.seconds > limit:
                        kill_tree(process)
                        code = -1
                        entry.status = "timed out"
                        entry.errors = [f"still running after {limit:.0f} s"]
                    self._read(entry, step)
                    if code is not None:
                        (turns / f"{step.name}.ended").touch()
                        self._conclude(entry, step, code)
                        del running[entry]
                        self.tell(found)

    def _read(self, entry: Found, step: Step) -> None:
        path = _result(self.work, step)
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            entry.rows = content["rows"]
            if entry.status == "running":
                entry.errors = content["errors"]

    def _conclude(self, entry: Found, step: Step, code: int) -> None:
        if entry.status == "running":
            if code and not entry.errors:
                entry.errors = [f"ended with {code}: {self._last_line(step)}"]
            entry.status = "failed" if entry.errors else "ok"
        entry.errors = [text.replace(str(self.work), "WORK") for text in entry.errors]

    def _last_line(self, step: Step) -> str:
        log = (self.work / f"{step.name}.log").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in log.splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants, including workers of Ray and vLLM."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        everyone = [*parent.children(recursive=True), parent]
        for one in everyone:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(everyone, timeout=10)
    process.wait()


def cells(entry: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table as text; see `COLUMNS`."""
    rate, share, largest = row.get("rate"), row.get("share"), row.get("difference")
    mean, seconds = row.get("mean_difference"), row.get("seconds")
    gap = "" if largest is None else f"{largest:.2g}"
    return (
        entry["part"],
        row["what"],
        "" if rate is None else f"{_short(rate)} {row['unit'].removesuffix('/s')}",
        "" if share is None else f"{100 * share:.2g} %",
        gap if mean is None else f"{gap} ({mean:.2g})",
        "" if seconds is None else f"{seconds:.3g}",
        row.get("note", ""),
    )


def show(record: dict[str, Any], console: Console) -> None:
    """Print a table of all rows, then what failed or was skipped and why."""
    title = "GPU check" + (", dry run on a CPU" if record["dry_run"] else "")
    table = Table(title=f"{title}: {record['seconds']:.0f} s")
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    for entry in record["steps"]:
        for row in entry["rows"]:
            table.add_row(*cells(entry, row))
    console.print(table)
    for entry in record["steps"]:
        line = f"({entry['part']}) {entry['name']}: {entry['status']} in {entry['seconds']:.0f} s"
        console.print("; ".join([line, *entry["errors"]]), markup=False, highlight=False)


def _short(value: float) -> str:
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:,.0f}"


@contextmanager
def _ended_with_us(running: dict[Any, tuple[Step, subprocess.Popen[bytes]]]) -> Iterator[None]:
    try:
        yield
    finally:
        for _, process in running.values():
            kill_tree(process)


def _result(work: Path, step: Step) -> Path:
    return work / f"{step.name}.json"


def _environment() -> dict[str, str]:
    path = [str(ROOT), str(BENCHMARKS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return ENVIRONMENT | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def _work_folder() -> Path:
    shared = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > MODELS_BYTES
    return Path(tempfile.mkdtemp(prefix="gpu-check-", dir=SHARED_MEMORY if shared else None))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny shapes")
    parser.add_argument("--output", type=Path, help="record, JSON")
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--parts", default="a,b,c,d,e")
    parser.add_argument("--steps", help="names of steps instead of parts, comma-separated")
    parser.add_argument(
        "--together", type=int, help="number of engines that start at the same time"
    )
    parser.add_argument("--logs", type=Path, help="folder for the output of the steps")
    given = parser.parse_args()
    parts = set(given.parts.split(","))
    if unknown := parts - {step.part for step in STEPS}:
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of a, b, c, d, e")
    if parts & set("cd"):
        parts.add("b")  # models and reference values
    named = set(given.steps.split(",")) if given.steps else set()
    if unknown := named - {step.name for step in STEPS}:
        parser.error(f"--steps: {', '.join(sorted(unknown))}: expected some of "
                     f"{', '.join(step.name for step in STEPS)}")  # fmt: skip
    cpus = len(os.sched_getaffinity(0))
    together = given.together or (1 if given.dry_run else max(1, min(8, cpus // 2)))
    steps = [
        step
        for step in STEPS
        if (step.name in named if named else step.part in parts) and (step.dry or not given.dry_run)
    ]
    work = _work_folder()
    started = time.monotonic()
    record: dict[str, Any] = {
        "dry_run": given.dry_run, "date": datetime.now(UTC).date().isoformat(),
        "budget_s": given.budget, "seconds": 0.0, "steps": [],
    }  # fmt: skip

    def tell(found: list[Found]) -> None:
        record["seconds"] = time.monotonic() - started
        record["steps"] = [vars(entry) for entry in found]
        last = found[-1] if found else None
        if last:
            print(f"{record['seconds']:.0f} s", *(f"{e.name}: {e.status}" for e in found[-3:]),
                  sep="  ", flush=True)  # fmt: skip
        if given.output:
            given.output.parent.mkdir(parents=True, exist_ok=True)
            beside = given.output.with_suffix(".part")
            beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            beside.replace(given.output)

    def command(step: Step, group: Sequence[Step]) -> list[str]:
        names = ",".join(other.name for other in group)
        words = [sys.executable, "-m", "gpu.step", step.name, "--work", str(work),
                 "--result", str(_result(work, step)), "--group", names]  # fmt: skip
        return [*words, "--dry-run"] if given.dry_run else words

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    check = Check(work=work, budget_s=given.budget, command=command, tell=tell, together=together,
                  limit_factor=5.0 if given.dry_run else 1.0)  # fmt: skip
    try:
        tell(check.run(steps))
    finally:
        if given.logs:
            given.logs.mkdir(parents=True, exist_ok=True)
            for log in work.glob("*.log"):
                shutil.copyfile(log, given.logs / log.name)
        shutil.rmtree(work, ignore_errors=True)
    show(record, Console(width=None if sys.stdout.isatty() else 170))
    return int(any(entry["status"] in ("failed", "timed out") for entry in record["steps"]))


if __name__ == "__main__":
    sys.exit(main())
