"""Connecting to Ray: a given cluster, or a small one on this machine for the block's duration."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ray_session(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """Connects to Ray, or uses the connection there is; shuts down only what it started.

    Args:
        address: a cluster (`auto`, `ray://...`); None asks RAY_ADDRESS, else starts one here.
        num_cpus: CPUs of a cluster started here; None means all of this machine's.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Worker start-up must not rebuild the driver's environment: Ray's uv hook is never wanted.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ray's own libraries log harmless errors of theirs; failures reach us as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False)
    else:
        _start_here(num_cpus)
    try:
        yield
    finally:
        ray.shutdown()


def _start_here(num_cpus: int | None) -> None:
    """A cluster on this machine; a busy machine can fail to start one in time, so twice."""
    import ray

    for last in (False, True):
        try:
            ray.init(
                num_cpus=num_cpus or os.cpu_count(),
                object_store_memory=512 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
            )
        except (RuntimeError, OSError, TimeoutError, ray.exceptions.RayError):
            ray.shutdown()
            if last:
                raise
        else:
            return
