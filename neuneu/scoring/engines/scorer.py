"""What a scorer is: an engine that holds one architecture and swaps its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

TokenIds = Sequence[int] | npt.NDArray[np.int32]


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
