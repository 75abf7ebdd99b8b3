"""What a scorer is: an engine that holds one architecture and swaps its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

TokenIds = Sequence[int]


class Scorer(Protocol):
    """Log-probabilities of given tokens under the weights loaded last."""

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt it takes, in tokens."""

    def load(self, folder: Path) -> None:
        """Loads the weights of a checkpoint that preflight has passed.

        Raises:
            CheckpointError: these weights cannot be used; the engine is still good.
            EngineError: the engine is not to be trusted any more; close it and make another.
        """

    def score(self, prompts: Sequence[TokenIds]) -> list[npt.NDArray[np.float32]]:
        """One (n - 1,) array a prompt of n >= 2 tokens: ln p(token i | tokens before it), i >= 1.

        Raises:
            EngineError: as in `load`.
        """

    def close(self) -> None:
        """Frees the engine; calling it again does nothing."""
