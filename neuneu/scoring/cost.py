"""What scoring costs: a model of seconds, fitted to measured runs.

Seconds of one engine for one checkpoint are

    overhead_s + tokens * (token_s + 2 * params / flops_per_s)

where 2 * params are the FLOPs of a forward pass a token (Kaplan et al. 2020, section 2.1, without
the attention's part, which grows with the context and lies in `token_s` here). The three numbers
are those of one engine on one piece of hardware; `benchmarks/extraction/run.py` fits them.
"""

from typing import Annotated

from pydantic import Field

from neuneu.core.config import config_dataclass

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


@config_dataclass
class HardwareProfile:
    """One engine on one kind of hardware.

    `overhead_s` passes a checkpoint while the engine waits (swap, proof, writing); `start_s` an
    engine start; `token_s` a computed token whatever the model; `flops_per_s` is the rate that is
    reached, not the nominal one. `download_mb_s` is what a node gets from where checkpoints lie.
    `source` says where the numbers are from.
    """

    name: str
    source: str
    overhead_s: NonNegative
    start_s: NonNegative
    token_s: NonNegative
    flops_per_s: Positive
    download_mb_s: Positive = 200.0
    gpus_per_engine: NonNegative = 0.0

    def score_s(self, params: float, tokens: float) -> float:
        """Seconds one engine needs for `tokens` computed tokens of a model."""
        return tokens * (self.token_s + 2 * params / self.flops_per_s)
