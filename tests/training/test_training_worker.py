"""A training goes on from its states where Ray's list of them is damaged."""

from pathlib import Path

import pytest
import torch

from neuneu.core.storage import Folder
from neuneu.training.worker import DAMAGED, SNAPSHOT, STATE, load_state, unlisted_state


@pytest.fixture
def states(tmp_path: Path) -> Folder:
    for step, name in ((10, "checkpoint_2026-01-01_00"), (20, "checkpoint_2026-01-02_00")):
        (tmp_path / name).mkdir()
        torch.save({"step": step}, tmp_path / name / STATE)
    return Folder(tmp_path)


def test_whole_list_is_left_to_ray(states: Folder) -> None:
    states.write(SNAPSHOT, b'{"checkpoint_results": []}')
    assert unlisted_state(states) is None
    assert states.exists(SNAPSHOT)


@pytest.mark.parametrize("content", [None, b"", b'{"checkpoint_results": [{"chec'])
def test_newest_whole_state_where_the_list_is_damaged_or_gone(
    states: Folder, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        states.write(SNAPSHOT, content)
    assert load_state(unlisted_state(states))["step"] == 20
    assert states.exists(DAMAGED) == (content is not None)
    assert not states.exists(SNAPSHOT)
    newest = tmp_path / "checkpoint_2026-01-02_00" / STATE
    newest.write_bytes(newest.read_bytes()[:100])
    assert load_state(unlisted_state(states))["step"] == 10


def test_no_state_at_all(tmp_path: Path) -> None:
    assert unlisted_state(Folder(tmp_path / "none")) is None
