from pathlib import Path

import numpy as np
import pytest
import torch

from neuneu.core.errors import DataError
from neuneu.ladder.trainer import PackedBatches


def _batches(tmp_path: Path, *, tokens: int = 41, seed: int = 0) -> PackedBatches:
    path = tmp_path / "tokens.npy"
    np.save(path, np.arange(tokens, dtype=np.uint16))
    return PackedBatches(path, sequences=2, context_length=4, seed=seed)


def test_batch_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    in_order = _batches(tmp_path)
    forward = [in_order.batch(step) for step in range(12)]
    fresh = _batches(tmp_path)
    for step in (11, 3, 7):
        assert torch.equal(fresh.batch(step), forward[step])
    assert not torch.equal(_batches(tmp_path, seed=1).batch(0), forward[0])


def test_epoch_sees_every_window_once_in_another_order(tmp_path: Path) -> None:
    batches = _batches(tmp_path)  # 40 inputs: 10 windows, 5 batches of 2 an epoch
    epochs = [
        torch.cat([batches.batch(step) for step in range(start, start + 5)]) for start in (0, 5)
    ]
    for rows in epochs:
        assert sorted(rows[:, 0].tolist()) == list(range(0, 40, 4))
        assert torch.equal(rows[:, 1:] - rows[:, :-1], torch.ones(10, 4, dtype=torch.int64))
    assert epochs[0][:, 0].tolist() != epochs[1][:, 0].tolist()


def test_stream_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 5 tokens to train on, found 4"):
        _batches(tmp_path, tokens=4)
