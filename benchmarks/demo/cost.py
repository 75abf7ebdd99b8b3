"""Time and peak memory of a command and all its child processes, including Ray's.

    .venv/bin/python benchmarks/demo/cost.py -- .venv/bin/neuneu demo --output /tmp/demo

Memory is the proportional set size summed over the process tree (shared pages count once), sampled
every second. Prints a table and writes a JSON record beside the results pages.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from neuneu.core.files import write_text_atomic


def tree_pss_bytes(root: psutil.Process) -> int:
    """Return the proportional set size of a process and all its descendants in bytes."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except (OSError, psutil.NoSuchProcess):
            continue
        total += sum(
            int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return total


def measure(command: list[str]) -> dict[str, object]:
    """Run the command; return its exit code, seconds and peak memory in GiB."""
    started = time.perf_counter()
    child = subprocess.Popen(command)
    peak, samples = 0, 0
    done = threading.Event()
    root = psutil.Process(child.pid)
    while not done.wait(1.0):
        if child.poll() is not None:
            break
        try:
            peak = max(peak, tree_pss_bytes(root))
        except psutil.NoSuchProcess:
            break
        samples += 1
    code = child.wait()
    return {
        "command": command,
        "exit_code": code,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_pss_gib": round(peak / 2**30, 2),
        "samples": samples,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/results/demo_cost.json"))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = [part for part in arguments.command if part != "--"]
    result = measure(command)
    write_text_atomic(arguments.output, json.dumps(result, indent=1) + "\n")
    table = Table("command", "exit", "seconds", "peak memory (GiB)")
    table.add_row(
        " ".join(command),
        str(result["exit_code"]),
        str(result["seconds"]),
        str(result["peak_pss_gib"]),
    )
    Console().print(table)
    sys.exit(child_code if isinstance(child_code := result["exit_code"], int) else 1)


if __name__ == "__main__":
    main()
