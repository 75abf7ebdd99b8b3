"""Kill an extraction at random moments, repeatedly, and check its store in the end.

    .venv/bin/python benchmarks/extraction/soak.py --kills 10 --seed 0

Each round starts `jobs/extract.py` on the same store and, after a random number of new commits,
kills the driver (SIGKILL or SIGINT) or one of its scoring workers (SIGKILL; the job has to survive
that). Finally the job runs to its end, and its store must have the rows of an undisturbed
extraction, every checkpoint once.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from extraction.methods import prepare
from neuneu.data.store.store import Store

ROOT = Path(__file__).parents[2]
TABLES = ("accuracies", "losses", "token_losses")
TIMEOUT_S = 900
console = Console()


def start(folder: Path, store: Path, engine: str) -> subprocess.Popen[bytes]:
    """Start the extraction as a job with its own Ray."""
    settings = {
        "checkpoints": folder / "checkpoints",
        "store": store,
        "corpus": folder / "corpus.parquet",
        "tasks": "[]",
        "engine.kind": engine,
        "engine.max_model_len": 512,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return subprocess.Popen(
        [sys.executable, ROOT / "jobs" / "extract.py", *sets, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def committed(store: Path) -> int:
    """Return the number of checkpoint files in a store."""
    return len(list(store.glob("units/*/*/*.parquet")))


def scoring_workers(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes with engines, which Ray names after the actor's class."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "ScoringActor" in title or "MapWorker" in title:
            found.append(process)
    return found


def wait_for_commits(driver: subprocess.Popen[bytes], store: Path, count: int) -> bool:
    """Return whether `count` files existed before the driver ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while committed(store) < count:
        if driver.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise SystemExit(f"no {count} commits within {TIMEOUT_S} s")
        time.sleep(0.02)
    return True


def disturb(folder: Path, store: Path, engine: str, dice: random.Random) -> str:
    """Run one round; return what was killed and when, or nothing if the job ended before."""
    before = committed(store)
    driver = start(folder, store, engine)
    what = dice.choice(["driver SIGKILL", "driver SIGINT", "worker SIGKILL"])
    target = before + dice.randint(1 if what == "worker SIGKILL" else 0, 3)
    try:
        if not wait_for_commits(driver, store, target):
            return ""
        time.sleep(dice.random())
        if what == "worker SIGKILL":
            dice.choice(scoring_workers(driver)).kill()
            wait_for_commits(driver, store, target + 2)
            driver.send_signal(signal.SIGINT)
        else:
            driver.send_signal(getattr(signal, what.split()[1]))
        driver.wait(TIMEOUT_S)
    finally:
        driver.kill()
    return f"{what} after {committed(store) - before} new commits"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=int, default=80)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--engine", choices=("vllm", "packed"), default="vllm")
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    # Background jobs ignore SIGINT, and the jobs started here would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "suite"
        prepare(folder, "2M", arguments.checkpoints, arguments.tokens)
        plain, broken = Path(root) / "plain", Path(root) / "broken"
        reference = start(folder, plain, arguments.engine)
        record = json.loads(reference.communicate()[0].decode().splitlines()[-1])
        assert record["done"] == arguments.checkpoints, record
        for number in range(arguments.kills):
            done = disturb(folder, broken, arguments.engine, dice)
            if not done:
                raise SystemExit(f"the job ended before kill {number + 1}: use more checkpoints.")
            console.print(number + 1, done)
        last = start(folder, broken, arguments.engine)
        record = json.loads(last.communicate()[0].decode().splitlines()[-1])
        assert record["done"] + record["skipped_done"] == arguments.checkpoints, record
        assert record["quarantined"] == record["left"] == 0, record
        found, expected = Store(broken), Store(plain)
        keys = [tuple(row.values()) for row in
                found.checkpoints().select(["suite", "run", "step"]).to_pylist()]  # fmt: skip
        assert len(set(keys)) == len(keys) == arguments.checkpoints
        for table in TABLES:
            assert getattr(found, table)() == getattr(expected, table)(), table
        left_over = [path.name for path in broken.rglob("*.tmp")]
        console.print(
            f"{arguments.kills} kills, {len(keys)} checkpoints, each once, rows equal to those of "
            f"an undisturbed run; {len(left_over)} unfinished files left beside them."
        )


if __name__ == "__main__":
    main()
