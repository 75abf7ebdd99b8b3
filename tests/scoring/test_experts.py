"""Mixtures of experts: scored by the packed scorer as by transformers, refused by vLLM."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from staging_cases import ref_of

pytest.importorskip("transformers")

from in_process import score
from test_packed_scorer import SHAPE, asked, make, plainly, save
from tiny_checkpoints import (
    change_config,
    copy_of,
    extract_config,
    make_ref,
    rewrite_weights,
    save_model,
    write_inputs,
)

from neuneu.core.errors import CheckpointError
from neuneu.data.checkpoints import write_metadata
from neuneu.data.store.store import Store
from neuneu.scoring.checkpoints.preflight import inspect
from neuneu.scoring.engines.engine import PACKED_PARAMS, EngineConfig
from neuneu.scoring.workers.engine import make_scorer

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
MIXTURES: dict[str, dict[str, Any]] = {
    "olmoe": EXPERTS,
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2_moe": EXPERTS | {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    "qwen3_moe": EXPERTS | {"moe_intermediate_size": 24, "head_dim": 8},
}


def save_mixture(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A random mixture with the tokenizer of tiny checkpoints."""
    save_model(folder, tied=False, seed=0)
    return save(folder, kind, SHAPE | MIXTURES[kind], seed=seed)


@pytest.mark.parametrize("kind", MIXTURES)
def test_log_probabilities_of_swapped_mixtures_are_those_of_transformers(
    kind: str, tmp_path: Path
) -> None:
    folders = [save_mixture(tmp_path / str(seed), kind, seed=seed) for seed in range(2)]
    checked = [inspect(ref_of(folder)) for folder in folders]
    assert checked[0].config_hash == checked[1].config_hash
    assert checked[0].weights_hash != checked[1].weights_hash
    expected = [plainly(folder, asked()) for folder in folders]
    assert np.abs(expected[0] - expected[1]).max() > 1
    scorer = make(folders[0])
    assert scorer.packs
    for i in (0, 1, 0):
        scorer.load(folders[i])
        np.testing.assert_allclose(scorer.score(asked()), expected[i], rtol=0, atol=1e-5)


def test_an_expert_that_is_missing_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = save_mixture(tmp_path / "c", "olmoe")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if ".experts." in name)
    rewrite_weights(copy_of(folder, tmp_path / "bad"), {name: None})
    with pytest.raises(CheckpointError, match=f"tensor '{name}' is missing"):
        inspect(ref_of(tmp_path / "bad"))


@pytest.mark.parametrize("count", [-1, 10**9, "four", 0.5])
def test_impossible_numbers_of_experts_are_refused(count: object, tmp_path: Path) -> None:
    change_config(save_mixture(tmp_path / "c", "olmoe"), num_experts=count)
    with pytest.raises(CheckpointError, match=r"config\.json: num_experts = .*; expected a whole"):
        inspect(ref_of(tmp_path / "c"))


@pytest.mark.parametrize("kind", MIXTURES)
def test_vllm_refuses_mixtures_before_it_starts(kind: str, tmp_path: Path) -> None:
    folder = save_mixture(tmp_path / "c", kind)
    with pytest.raises(
        CheckpointError, match=r"config\.json: num_(local_)?experts = 4; .*set engine\.kind=packed"
    ):
        make_scorer(EngineConfig(kind="vllm"), folder)


def test_mixtures_are_extracted(tmp_path: Path) -> None:
    for step in (1, 2):
        folder = tmp_path / "checkpoints" / "a" / f"step-{step}"
        write_metadata(save_mixture(folder, "olmoe", seed=step), make_ref(folder, step=step))
    write_inputs(tmp_path)
    assert make_ref(folder).params < PACKED_PARAMS
    outcomes = score(extract_config(tmp_path))
    assert [outcome.proof for outcome in outcomes] == ["all weights copied"] * 2
    rows = Store(tmp_path / "store").checkpoints().to_pylist()
    assert [row["status"] for row in rows] == ["done", "done"]
