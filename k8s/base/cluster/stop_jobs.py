"""Stop the jobs of a Ray head before its container ends: the head's preStop hook.

Sends SIGTERM to the drivers and waits. The job API's `stop` would set the status STOPPED, which for
KubeRay is the end of a RayJob; a job that ends by a signal has FAILED, and is retried.
"""

import os
import re
import sys
from collections.abc import Iterable, Sequence

import psutil


def is_job(arguments: Sequence[str]) -> bool:
    """Return whether a command line is that of a driver: `python jobs/NAME.py ...`."""
    return any(re.fullmatch(r"(.*/)?jobs/\w+\.py", argument) for argument in arguments[1:3])


def stop(processes: Iterable[psutil.Process], *, wait_s: float) -> int:
    """Send SIGTERM; return how many processes still run after `wait_s` seconds."""
    signalled = []
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
        signalled.append(process)
    _, alive = psutil.wait_procs(signalled, timeout=wait_s)
    return len(alive)


if __name__ == "__main__":
    drivers = [p for p in psutil.process_iter(["cmdline"]) if is_job(p.info["cmdline"] or [])]
    sys.exit(stop(drivers, wait_s=float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "60"))))
