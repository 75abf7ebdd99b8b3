"""How much of a machine an engine of a model takes: GPU fractions, or several GPUs.

A GPU holds the weights, the logits of one batch (vLLM's V1 runner materialises them and their
log-softmax in float32), the other activations, the cache and the runtime. Small models share a
GPU, in halves, quarters or eighths; large ones are split over 2, 4 or 8 by tensor parallelism.
"""

from dataclasses import dataclass
from typing import Final

from neuneu.core.errors import UserError
from neuneu.scoring.engines.engine import EngineConfig, cache_tokens

_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
# CUDA context, kernels and the allocator's slack of one process.
_RUNTIME_GB: Final = 2.0
# Activations other than logits, as a share of the weights.
_ACTIVATIONS: Final = 0.1
_ENGINES_A_GPU: Final = (8, 4, 2, 1)
_GPUS_AN_ENGINE: Final = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Need:
    """GPU memory of one engine in GB, by what takes it."""

    weights: float
    logits: float
    activations: float
    cache: float
    runtime: float = _RUNTIME_GB

    def a_gpu(self, gpus: int = 1) -> float:
        """What each of several GPUs holds; weights and cache are divided."""
        divided = (self.weights + self.cache) / gpus
        return divided + self.logits + self.activations + self.runtime


@dataclass(frozen=True, kw_only=True, order=True)
class Placement:
    """`gpus` an actor asks for; a whole number above 1 is the tensor-parallel size."""

    gpus: float

    def utilization(self, of_gpu: float) -> float:
        """What of a GPU's memory one engine may take where all together may take `of_gpu`."""
        return of_gpu * min(self.gpus, 1.0) if self.gpus else of_gpu

    @property
    def tensor_parallel(self) -> int:
        """GPUs that one model is split over."""
        return max(1, round(self.gpus))


def need(params: float, vocab_size: int, cache_values: int, engine: EngineConfig) -> Need:
    """What an engine of a model takes, a model of `engine.max_model_len` positions or more.

    Args:
        params: weights of the model.
        vocab_size: columns of its logits.
        cache_values: keys and values of one token, in all layers.
        engine: dtype and batch size.
    """
    size = _BYTES[engine.dtype]
    weights = params * size / 1e9
    batch = max(engine.max_num_batched_tokens, engine.max_model_len)
    cache = cache_values * size * cache_tokens(engine, engine.max_model_len) / 1e9
    if engine.kv_cache_mb is not None:
        cache = engine.kv_cache_mb * 2**20 / 1e9
    return Need(
        weights=weights,
        logits=2 * batch * vocab_size * 4 / 1e9,
        activations=_ACTIVATIONS * weights,
        cache=cache,
    )


def place(needed: Need, *, gpu_gb: float, utilization: float) -> Placement:
    """The smallest share of GPUs of `gpu_gb` GB each that holds an engine.

    vLLM starts only where its share of the GPU, `utilization` times that of the placement, is
    free.

    Raises:
        UserError: eight GPUs do not hold it.
    """
    for engines in _ENGINES_A_GPU:
        if needed.a_gpu() <= utilization * gpu_gb / engines:
            return Placement(gpus=1 / engines)
    for gpus in _GPUS_AN_ENGINE:
        if needed.a_gpu(gpus) <= utilization * gpu_gb:
            return Placement(gpus=float(gpus))
    raise UserError(
        f"a model whose weights take {needed.weights:.0f} GB needs {needed.a_gpu():.0f} GB; "
        f"expected at most eight GPUs of {gpu_gb:g} GB, {utilization:.0%} of each; set "
        "engine.dtype=bfloat16 or gpus_per_actor."
    )
