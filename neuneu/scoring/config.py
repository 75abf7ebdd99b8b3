"""The config of an extraction."""

import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import Field

from neuneu.core.config import Address, config_dataclass
from neuneu.scoring.engines.engine import EngineConfig


@config_dataclass
class ExtractConfig:
    """What to score and how.

    `checkpoints` is a folder of checkpoints, local or `s3://`, or a suite file
    (`checkpoints.sources.list_checkpoints`); `store` is the output, local or `s3://`. `task_text`
    is the text for generated tasks, and `limit` the maximum number of documents per task. `corpus`
    and `task_text` may be on `s3://`.

    `actors` defaults to as many as fit on the cluster now; set it on a cluster that scales up on
    demand. `gpus_per_actor` defaults to the share that the model needs of GPUs of `gpu_memory_gb`,
    or to none if neither the cluster nor its autoscaler's config has GPUs; 2, 4 or 8 split one
    model. `staging` is where each node keeps remote checkpoints while they are scored, at most
    `staging_gb` of them. A checkpoint fails if it takes longer than `checkpoint_timeout_s`,
    including the start of an engine, or than `inspect_timeout_s` to inspect; both limits are for
    models of up to 1e9 parameters and scale with larger ones. The extraction ends early when more
    than `max_failures` checkpoints have failed on workers; None never ends it early. All
    checkpoints of a run must have the same tokenizer, except in runs listed in `mixed_tokenizers`
    (`run` or `suite/run`).
    """

    checkpoints: Address
    store: Address
    corpus: Address
    corpus_words: Annotated[int, Field(ge=1)] = 256_000
    tasks: tuple[str, ...] = ("generated",)
    task_text: Address | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    engine: EngineConfig = EngineConfig()
    actors: Annotated[int, Field(ge=1)] | None = None
    cpus_per_actor: Annotated[int, Field(ge=1)] = 1
    gpus_per_actor: Annotated[float, Field(ge=0)] | None = None
    gpu_memory_gb: Annotated[float, Field(gt=0)] = 80.0
    staging: Path = Path(tempfile.gettempdir()) / "neuneu-staging"
    staging_gb: Annotated[float, Field(gt=0)] = 100.0
    allow_pickle: bool = False
    checkpoint_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    inspect_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    max_attempts: Annotated[int, Field(ge=1)] = 2
    max_failures: Annotated[int, Field(ge=0)] | None = 50
    retry_quarantined: bool = False
    mixed_tokenizers: tuple[str, ...] = ()

    def is_due(self, status: str | None) -> bool:
        """Whether to score a checkpoint that has this status in the store."""
        return status is None or (status == "quarantined" and self.retry_quarantined)
