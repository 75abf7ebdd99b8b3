"""How much of a machine the engine of a model needs: a fraction of a GPU, or several GPUs.

A GPU holds the weights, the logits of one batch (vLLM's V1 runner materialises them and their
log-softmax in float32; the packed scorer computes them in chunks), the other activations, the cache
(packed: the activations of a batch, which take about as much) and the runtime. Small models share a
GPU in halves, quarters or eighths; large ones are split over 2, 4 or 8 by tensor parallelism.
"""

from dataclasses import dataclass
from typing import Final

from neuneu.core.errors import UserError
from neuneu.scoring.engines.engine import (
    PACKED_LOGITS,
    EngineConfig,
    cache_tokens,
    chosen,
    scheduled_tokens,
)

_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
# CUDA context, kernels and allocator overhead of one process.
_RUNTIME_GB: Final = 2.0
# Activations other than logits, as a fraction of the weights.
_ACTIVATIONS: Final = 0.1
_ENGINES_PER_GPU: Final = (8, 4, 2, 1)
_GPUS_PER_ENGINE: Final = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Need:
    """GPU memory of one engine in GB, by use."""

    weights: float
    logits: float
    activations: float
    cache: float
    runtime: float = _RUNTIME_GB

    def per_gpu(self, gpus: int = 1) -> float:
        """Memory on each of several GPUs; weights and cache are split."""
        divided = (self.weights + self.cache) / gpus
        return divided + self.logits + self.activations + self.runtime


@dataclass(frozen=True, kw_only=True, order=True)
class Placement:
    """Number of GPUs per actor; a whole number above 1 is the tensor-parallel size."""

    gpus: float

    def utilization(self, of_gpu: float) -> float:
        """Fraction of GPU memory for one engine if all engines together may use `of_gpu`."""
        return of_gpu * min(self.gpus, 1.0) if self.gpus else of_gpu

    @property
    def tensor_parallel(self) -> int:
        """Number of GPUs that one model is split over."""
        return max(1, round(self.gpus))


def need(params: float, vocab_size: int, cache_values: int, engine: EngineConfig) -> Need:
    """Estimate the memory of an engine for a model with `engine.max_model_len` positions or more.

    Args:
        params: Number of weights.
        vocab_size: Number of logits.
        cache_values: Number of keys and values per token, over all layers.
        engine: Kind, dtype and batch size.
    """
    engine = chosen(engine, params)
    size = _BYTES[engine.dtype]
    weights = params * size / 1e9
    batch = max(scheduled_tokens(engine, gpu=True), engine.max_model_len)
    logits = PACKED_LOGITS if engine.kind == "packed" else batch * vocab_size
    cache = cache_values * size * cache_tokens(engine, engine.max_model_len) / 1e9
    if engine.kv_cache_mb is not None:
        cache = engine.kv_cache_mb * 2**20 / 1e9
    return Need(
        weights=weights,
        logits=2 * logits * 4 / 1e9,
        activations=_ACTIVATIONS * weights,
        cache=cache,
    )


def place(needed: Need, *, gpu_gb: float, utilization: float) -> Placement:
    """Return the smallest share of GPUs with `gpu_gb` GB each that an engine fits on.

    vLLM starts only if its share of the GPU, `utilization` times that of the placement, is free.

    Raises:
        UserError: The engine does not fit on eight GPUs.
    """
    for engines in _ENGINES_PER_GPU:
        if needed.per_gpu() <= utilization * gpu_gb / engines:
            return Placement(gpus=1 / engines)
    for gpus in _GPUS_PER_ENGINE:
        if needed.per_gpu(gpus) <= utilization * gpu_gb:
            return Placement(gpus=float(gpus))
    raise UserError(
        f"a model whose weights take {needed.weights:.0f} GB needs {needed.per_gpu():.0f} GB; "
        f"expected at most eight GPUs of {gpu_gb:g} GB, {utilization:.0%} of each; set "
        "engine.dtype=bfloat16 or gpus_per_actor."
    )
