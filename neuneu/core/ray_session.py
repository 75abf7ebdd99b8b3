"""Connecting to Ray: a given cluster, or a small one on this machine for the block's duration."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

TRAIN_ENV: Final = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
"""Ray Train takes one report of a worker each time it looks at it, by default every 2 seconds:
epochs and states that come faster, and the ends of short runs, would wait for it."""


def cluster_address(address: str | None = None) -> str | None:
    """The cluster that `ray_session` would join; None where it starts one on this machine."""
    return address or os.environ.get("RAY_ADDRESS")


@contextmanager
def ray_session(
    address: str | None = None, *, num_cpus: int | None = None, dashboard: bool = False
) -> Iterator[None]:
    """Connects to Ray, or uses the connection there is; shuts down only what it started.

    Args:
        address: a cluster (`auto`, `ray://...`); None asks RAY_ADDRESS, else starts one here.
        num_cpus: CPUs of a cluster started here; None means all of this machine's.
        dashboard: start its dashboard, on loopback. Ray Train asks it whether a run still lives:
            without it a run that is killed from outside never gives its CPUs back.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Worker start-up must not rebuild the driver's environment: Ray's uv hook is never wanted.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    for name, value in TRAIN_ENV.items():
        os.environ.setdefault(name, value)
    # Ray's own libraries log harmless errors of theirs; failures reach us as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield
        return
    address = cluster_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    if address:
        ray.init(address=address, log_to_driver=False)
    else:
        _start_here(num_cpus, dashboard=dashboard)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process on the spot
    try:
        yield
    finally:
        ray.shutdown()


def _start_here(num_cpus: int | None, *, dashboard: bool) -> None:
    """A cluster on this machine; a busy machine can fail to start one in time, so twice."""
    import ray

    for last in (False, True):
        try:
            ray.init(
                num_cpus=num_cpus or os.cpu_count(),
                object_store_memory=512 * 2**20,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level="warning",
            )
        except (RuntimeError, OSError, TimeoutError, ray.exceptions.RayError):
            ray.shutdown()
            if last:
                raise
        else:
            return
