"""Saving and loading a forecaster."""

import json
from pathlib import Path

import pytest
import torch

from neuneu.core.errors import DataError, UserError
from neuneu.forecasters.window.config import preset
from neuneu.forecasters.window.export import (
    CARD,
    CONFIG,
    WEIGHTS,
    Provenance,
    load_model,
    save_model,
)
from neuneu.forecasters.window.network import Network

PROVENANCE = Provenance(
    identity="0123",
    training_runs={"f/r": ["abc"]},
    validation_runs=["v"],
    held_out_runs=[],
    metrics=["acc"],
    corpus_hash="c0ffee",
    loss_names=[],
    selection="those of the last epoch",
    evaluation={"mae": 0.0123},
    training={"seed": 0},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = preset("small", width=16, encoder={"kind": "cnn", "units": 30})
    torch.manual_seed(0)
    save_model(tmp_path, config, Network(config).state_dict(), PROVENANCE)
    return tmp_path


def test_round_trip_gives_the_same_network(folder: Path) -> None:
    network, provenance = load_model(folder)
    torch.manual_seed(0)
    original = Network(network.config)
    assert provenance == PROVENANCE
    for name, value in original.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])
    assert not network.training


def test_folder_holds_no_pickle_and_a_card(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
    card = (folder / CARD).read_text()
    assert "c0ffee" in card
    assert "f/r (1 trajectories)" in card


def test_load_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neuneu train"):
        load_model(tmp_path)


def test_load_other_format_version_is_refused(folder: Path) -> None:
    record = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(record | {"format_version": "99"}))
    with pytest.raises(DataError, match="format version 99"):
        load_model(folder)


def test_load_weights_of_another_shape_are_refused(folder: Path) -> None:
    record = json.loads((folder / CONFIG).read_text())
    record["model"]["width"] = 32
    (folder / CONFIG).write_text(json.dumps(record))
    with pytest.raises(DataError, match="does not hold the weights"):
        load_model(folder)
