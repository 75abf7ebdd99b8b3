"""Ends the jobs of a Ray head before its container ends: SIGTERM, then waiting.

The head's preStop hook. The job API's own `stop` would leave the status STOPPED, which KubeRay
takes for the end of a RayJob; a job that ends by a signal has FAILED, and is retried.
"""

import os
import re
import sys
from collections.abc import Iterable, Sequence

import psutil


def is_job(arguments: Sequence[str]) -> bool:
    """Whether a command line is that of a job's driver: `python jobs/NAME.py ...`."""
    return any(re.fullmatch(r"(.*/)?jobs/\w+\.py", argument) for argument in arguments[1:3])


def stop(processes: Iterable[psutil.Process], *, wait_s: float) -> int:
    """Sends SIGTERM and waits; returns how many processes still run after `wait_s` seconds."""
    told = []
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
        told.append(process)
    _, alive = psutil.wait_procs(told, timeout=wait_s)
    return len(alive)


if __name__ == "__main__":
    drivers = [p for p in psutil.process_iter(["cmdline"]) if is_job(p.info["cmdline"] or [])]
    sys.exit(stop(drivers, wait_s=float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "60"))))
