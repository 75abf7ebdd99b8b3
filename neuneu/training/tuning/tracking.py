"""Track searches by Ray Tune's own integrations, with a run for each trial."""

import os
from typing import Any, Final

from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback

from neuneu.core.errors import UserError
from neuneu.core.extras import require
from neuneu.core.storage import Folder
from neuneu.training.trackers import TrackingConfig, mlflow_address

_WITHOUT_KEY: Final = frozenset({"offline", "disabled"})


def callbacks(config: TrackingConfig, output: Folder, *, changing: bool) -> list[Any]:
    """Return callbacks for `ray.tune.RunConfig`.

    Args:
        config: the tracker; TensorBoard needs none, since Tune always writes events next to each
            trial's `result.json`.
        output: the search's folder.
        changing: trials change their parameters during training (population based training).

    Raises:
        UserError: the tracker cannot be used.
    """
    search = config.name or str(output).rstrip("/").rpartition("/")[2]
    if config.kind == "tensorboard":
        require("tracking", "tensorboardX", extra="tensorboard")
        return []
    require("tracking", config.kind, extra=config.kind)
    if config.kind == "mlflow":
        return [
            ResumingMLflow(
                mlflow_address(config, output),
                experiment_name=config.project,
                tags={"search": search},
                log_params_on_trial_end=changing,  # MLflow takes a parameter once
            )
        ]
    import wandb

    if os.environ.get("WANDB_MODE") not in _WITHOUT_KEY and not wandb.api.api_key:
        raise UserError(
            "tracking: wandb expects WANDB_API_KEY, a login, or WANDB_MODE=offline; found none."
        )
    return [
        WandbLoggerCallback(
            project=config.project,
            group=search,
            resume="allow",
            log_config=changing,
            settings={"silent": True, "console": "off", "disable_git": True},
        )
    ]


class ResumingMLflow(MLflowLoggerCallback):
    """Ray's callback, but a restored search resumes the runs of its trials."""

    def log_trial_start(self, trial: Any) -> None:
        """Find the trial's run, or start one."""
        if trial not in self._trial_runs:
            import mlflow

            search = self.tags["search"]
            found = mlflow.search_runs(
                experiment_ids=[self.mlflow_util.experiment_id],
                filter_string=f"tags.trial_name = '{trial}' and tags.search = '{search}'",
                output_format="list",
            )
            if found:
                self._trial_runs[trial] = found[0].info.run_id
        super().log_trial_start(trial)
