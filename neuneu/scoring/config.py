"""The config of an extraction."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from neuneu.core.config import Address, config_dataclass
from neuneu.data.store.parts import Part, Progress
from neuneu.scoring.engines.engine import EngineConfig


@config_dataclass
class ExtractConfig:
    """What to score and how.

    `checkpoints` is a folder of checkpoints, local or `s3://`, or a suite file
    (`checkpoints.sources.list_checkpoints`); `store` is the output, local or `s3://`. `corpus` is a
    validation text, or several by name (`{code: PATH, prose: PATH}`), of which the first is the one
    whose word losses forecasters read by default; `corpus_words` is the maximum of each.
    `task_text` is the text for generated tasks, and `limit` the maximum number of documents per
    task. `corpus` and `task_text` may be on `s3://`.

    A checkpoint is done if the store has all its tasks and texts; otherwise the missing ones are
    scored, and nothing else. `missing_evidence` also scores tasks again whose log-probabilities are
    missing, as in a store upgraded from version 1.

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
    corpus: Annotated[dict[str, Address] | Address, Field(union_mode="left_to_right")]
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
    missing_evidence: bool = False
    mixed_tokenizers: tuple[str, ...] = ()

    def status(self, progress: Progress | None, parts: Sequence[Part]) -> str | None:
        """The status of a checkpoint for this extraction: done, quarantined, or None.

        Args:
            progress: What the store has of it.
            parts: The parts to score.
        """
        if progress is None:
            return None
        if progress.done and not self.missing(progress, parts):
            return "done"
        return "quarantined" if progress.quarantined else None

    def missing(self, progress: Progress, parts: Sequence[Part]) -> list[Part]:
        """The parts to score of a checkpoint."""
        return progress.missing(parts, evidence=self.missing_evidence)

    def is_due(self, status: str | None) -> bool:
        """Whether to score a checkpoint that has this `status`."""
        return status is None or (status == "quarantined" and self.retry_quarantined)
