"""Connection to Ray: a given cluster, or one on this machine for the duration of a block."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

TRAIN_ENV: Final = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
"""Ray Train takes one report from a worker per poll, by default every 2 seconds: faster epochs and
the ends of short runs would wait for it."""

_ENV: Final = TRAIN_ENV | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's uv hook would rebuild the driver's environment whenever a worker starts.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Ray's libraries log harmless errors of their own; failures reach us as exceptions.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


def cluster_address(address: str | None = None) -> str | None:
    """Return the cluster that `ray_session` would join; None if it starts one on this machine."""
    return address or os.environ.get("RAY_ADDRESS")


@contextmanager
def ray_session(
    address: str | None = None, *, num_cpus: int | None = None, dashboard: bool = False
) -> Iterator[None]:
    """Connect to Ray, or use the existing connection; shut down only what was started here.

    Args:
        address: a cluster (`auto`, `ray://...`); None reads RAY_ADDRESS, else starts one here.
        num_cpus: CPUs of a cluster started here; None means all of this machine's.
        dashboard: start its dashboard, on loopback. Ray Train asks it whether a run is alive:
            without it a run that is killed from outside never releases its CPUs.
    """
    for name, value in _ENV.items():
        os.environ.setdefault(name, value)
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
        signal.signal(signal.SIGTERM, handler)  # Ray's own exits at once
    try:
        yield
    finally:
        ray.shutdown()


def _start_here(num_cpus: int | None, *, dashboard: bool) -> None:
    """Start a cluster on this machine, at the second try if the machine is too busy."""
    import ray

    for last in (False, True):
        try:
            ray.init(
                address="local",  # without it Ray joins any cluster it finds on this machine
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
