"""Training runs on Ray: one TorchTrainer whose workers each train whole runs, one after another.

One trainer per run would be simpler, but each brings a controller and five helper processes, which
cost more CPU than the smallest runs.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import ray

from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.core.ray_session import TRAIN_ENV
from neuneu.ladder.config import ResourcesConfig
from neuneu.ladder.folders import SuiteFolder
from neuneu.ladder.runs import RunPlan, balanced_shares

_POLL_SECONDS: Final = 0.5
_RAY_TRAIN_ENV: Final = TRAIN_ENV | {
    # Importing torch on a busy machine can take longer than the default minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}


def train_runs(
    plans: Sequence[RunPlan], folder: SuiteFolder, done_tokens: int, resources: ResourcesConfig
) -> None:
    """Train all plans on the connected cluster.

    Every node must see the folder of the suite under the same path.

    Args:
        plans: Unfinished runs of one suite.
        folder: Folder of the suite.
        done_tokens: Tokens of finished runs, for progress.
        resources: Resources of each run.

    Raises:
        UserError: The cluster is too small for a single run.
        NeuneuError: A run failed, or workers died more often than allowed.
    """
    at_once = resources.max_concurrent_runs or _cluster_capacity(resources)
    shares = balanced_shares(plans, min(at_once, len(plans)))
    for plan in plans:
        folder.failure(plan.name).unlink(missing_ok=True)
    # In a Ray task, so that this process can show progress and stop on Ctrl-C.
    fit = ray.remote(num_cpus=0, max_retries=0, runtime_env={"env_vars": _RAY_TRAIN_ENV})(_fit)
    total = done_tokens + sum(plan.planned_tokens for plan in plans)
    with stage("train", total=total) as bar:
        reference = fit.remote(shares, folder, resources)
        with _cancelled_on_error(reference):
            ready: list[Any] = []
            while not ready:
                ready, _ = ray.wait([reference], timeout=_POLL_SECONDS)
                tokens, message = _progress(plans)
                bar.set(done_tokens + tokens, total, message=message)
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        raise NeuneuError(
            f"training stopped: {_last_line(error)}. Run the same command again to resume from the "
            "latest checkpoints."
        ) from error
    files = [folder.failure(plan.name) for plan in plans]
    failures = [path.read_text(encoding="utf-8") for path in files if path.exists()]
    if failures:
        raise NeuneuError(f"{len(failures)} of {len(plans)} runs failed: {' '.join(failures)}")


def _fit(shares: list[list[RunPlan]], folder: SuiteFolder, resources: ResourcesConfig) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    per_worker = {"CPU": resources.cpus_per_run} | ({"GPU": 1} if resources.gpu else {})
    TorchTrainer(
        _train_share,
        train_loop_config={"shares": shares, "threads": resources.cpus_per_run},
        scaling_config=ScalingConfig(
            num_workers=len(shares), use_gpu=resources.gpu, resources_per_worker=per_worker
        ),
        # Runs save their own states instead of Ray checkpoints: Ray does not replace its record of
        # them atomically, so a driver killed in that moment could not resume.
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder.train),
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    ).fit()


def _train_share(config: dict[str, Any]) -> None:
    """Train the unfinished runs of a worker's share; called again after a restart."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from neuneu.ladder.trainer import RunTrainer

    torch.set_num_threads(config["threads"])
    shares: list[list[RunPlan]] = config["shares"]
    for plan in shares[ray.train.get_context().get_world_rank()]:
        if plan.finished:
            continue
        try:
            RunTrainer(plan, get_device()).train()
        except NeuneuError as error:
            # It would fail again in the same way, so do not restart or stop other runs.
            write_text_atomic(plan.folder.failure(plan.name), str(error))


def _cluster_capacity(resources: ResourcesConfig) -> int:
    have = ray.cluster_resources()
    capacity = int(have.get("CPU", 0) // resources.cpus_per_run)
    if resources.gpu:
        capacity = min(capacity, int(have.get("GPU", 0)))
    if capacity < 1:
        need = f"{resources.cpus_per_run} CPUs" + (" and a GPU" if resources.gpu else "")
        raise UserError(
            f"resources: a run needs {need}, the cluster has {have.get('CPU', 0):g} CPUs and "
            f"{have.get('GPU', 0):g} GPUs; lower the need, or set max_concurrent_runs if the "
            "cluster scales up on demand."
        )
    return capacity


def _progress(plans: Sequence[RunPlan]) -> tuple[int, str]:
    tokens, losses = 0, []
    for plan in plans:
        path = plan.folder.progress(plan.name)
        now = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"tokens": 0}
        tokens += now["tokens"]
        if 0 < now["tokens"] < plan.planned_tokens:
            losses.append(f"{plan.name} loss {now['loss_nats']:.2f}")
    return tokens, ", ".join(losses)


@contextmanager
def _cancelled_on_error(reference: Any) -> Iterator[None]:
    """Cancel training if the block is left early, for example by Ctrl-C."""
    try:
        yield
    except BaseException:
        ray.cancel(reference, force=True)
        raise


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
