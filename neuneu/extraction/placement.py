"""How much of a machine an engine of a model takes: GPU fractions, or several GPUs.

A GPU holds the weights, the logits of one batch (vLLM's V1 runner materialises them and their
log-softmax in float32), the cache and the runtime. Small models share a GPU, in halves,
quarters or eighths; large ones are split over 2, 4 or 8 by tensor parallelism.
"""

from dataclasses import dataclass
from typing import Final

from neuneu.errors import UserError
from neuneu.extraction.engines import EngineConfig

_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
# CUDA context, kernels and the allocator's slack of one process.
_RUNTIME_GB: Final = 2.0
_USABLE: Final = 0.9
_ENGINES_A_GPU: Final = (8, 4, 2, 1)
_GPUS_AN_ENGINE: Final = (2, 4, 8)


@dataclass(frozen=True, kw_only=True, order=True)
class Placement:
    """`gpus` an actor asks for; a whole number above 1 is the tensor-parallel size."""

    gpus: float

    @property
    def tensor_parallel(self) -> int:
        """GPUs that one model is split over."""
        return max(1, round(self.gpus))


def place(params: float, vocab_size: int, engine: EngineConfig, *, gpu_gb: float) -> Placement:
    """The smallest share of GPUs of `gpu_gb` GB each that holds an engine.

    Args:
        params: weights of the model.
        vocab_size: columns of its logits.
        engine: dtype and batch size.
        gpu_gb: memory of one GPU.

    Raises:
        UserError: eight GPUs do not hold it.
    """
    weights_gb = params * _BYTES[engine.dtype] / 1e9
    batch = max(engine.max_num_batched_tokens, engine.max_model_len)
    batch_gb = 2 * batch * vocab_size * 4 / 1e9 + weights_gb * 0.1
    whole = weights_gb + batch_gb + _RUNTIME_GB
    for engines in _ENGINES_A_GPU:
        if whole <= _USABLE * gpu_gb / engines:
            return Placement(gpus=1 / engines)
    for gpus in _GPUS_AN_ENGINE:
        if weights_gb / gpus + batch_gb + _RUNTIME_GB <= _USABLE * gpu_gb:
            return Placement(gpus=float(gpus))
    raise UserError(
        f"a model of {params:.3g} parameters in {engine.dtype} needs {whole:.0f} GB; expected at "
        f"most eight GPUs of {gpu_gb:g} GB; set engine.dtype=bfloat16 or gpus_per_actor."
    )
