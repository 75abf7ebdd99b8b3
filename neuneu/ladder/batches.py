"""Packed batches of a token stream: the batch of a step is a function of (seed, step) alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from neuneu.core.errors import DataError


class PackedBatches:
    """Windows of a memory-mapped token stream, in another random order each epoch."""

    def __init__(self, tokens: Path, *, sequences: int, context_length: int, seed: int) -> None:
        """Opens a stream.

        Args:
            tokens: .npy, (tokens,) unsigned integers.
            sequences: windows in a batch.
            context_length: inputs a window; a window has one token more, its last target.
            seed: of the windows' order.

        Raises:
            DataError: a stream shorter than one window.
        """
        self._stream: npt.NDArray[Any] = np.load(tokens, mmap_mode="r")
        self._sequences, self._length, self._seed = sequences, context_length, seed
        self._windows = (len(self._stream) - 1) // context_length
        if self._windows < 1:
            raise DataError(
                f"{tokens}: expected at least {context_length + 1} tokens to train on, "
                f"found {len(self._stream)}; give more text or a smaller context_length."
            )
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def batch(self, step: int) -> torch.Tensor:
        """The batch of `step` (0, 1, ...), (sequences, context_length + 1) int64."""
        rows = []
        for index in range(step * self._sequences, (step + 1) * self._sequences):
            epoch, position = divmod(index, self._windows)
            start = int(self._epoch_order(epoch)[position]) * self._length
            rows.append(self._stream[start : start + self._length + 1].astype(np.int64))
        return torch.from_numpy(np.stack(rows))

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self._seed, epoch])
            self._order = (epoch, generator.permutation(self._windows))
        return self._order[1]
