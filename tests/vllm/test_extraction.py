"""Ray and vLLM together: bad checkpoints among good ones, and the numbers of transformers."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import (
    WINDOW,
    extract_config,
    rewrite_weights,
    save_checkpoint,
    truncate,
    write_inputs,
)

from neuneu.core.ray_session import ray_session
from neuneu.data.store.store import Store
from neuneu.scoring.pipeline import extract

pytest.importorskip("vllm")
pytest.importorskip("ray")
pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


def test_extract_bad_checkpoints_do_not_touch_good_ones(tmp_path: Path) -> None:
    import torch

    root = tmp_path / "checkpoints"
    folders = {
        (run, step): save_checkpoint(root, run=run, step=step, tied=tied)
        for run, tied in (("a", True), ("b", False))
        for step in (1, 2, 3, 4)
    }
    write_inputs(tmp_path)
    rewrite_weights(folders["a", 2], {"model.layers.0.mlp.up_proj.weight": None})
    truncate(folders["a", 3])
    rewrite_weights(folders["b", 1], {"lm_head.weight": torch.ones(64, 64)})
    config_path = folders["b", 3] / "config.json"
    changed = json.loads(config_path.read_text()) | {"rms_norm_eps": 0.1}
    config_path.write_text(json.dumps(changed))

    config = extract_config(
        tmp_path, engine={"kind": "vllm", "max_model_len": WINDOW, "max_num_batched_tokens": 512}
    )
    summary = extract(config)
    assert (summary.done, summary.quarantined) == (4, 4)
    assert (summary.engines_started, summary.swaps) == (2, 2)
    errors = [summary.errors[f"tiny/{key}"] for key in ("a step 2", "a step 3", "b step 1")]
    assert "'model.layers.0.mlp.up_proj.weight' is missing" in errors[0]
    assert "truncated" in errors[1]
    assert "'lm_head.weight' has shape [64, 64]" in errors[2]
    assert "config.json differs" in summary.errors["tiny/b step 3"]
    assert summary.rss_mb_max < 2000

    reference = extract(extract_config(tmp_path, store=tmp_path / "reference"))
    assert reference.done == 4
    found, expected = Store(config.store), Store(tmp_path / "reference")
    assert found.accuracies().equals(expected.accuracies())
    np.testing.assert_allclose(
        found.losses().column("value").to_numpy(),
        expected.losses().column("value").to_numpy(),
        atol=1e-5,
    )
    for a, b in zip(
        found.token_losses().column("losses").to_pylist(),
        expected.token_losses().column("losses").to_pylist(),
        strict=True,
    ):
        # One step of float16 at 32 nats a word.
        np.testing.assert_allclose(np.array(a, float), np.array(b, float), atol=0.04)

    again = extract(config)
    assert (again.skipped_done, again.skipped_quarantined, again.engines_started) == (4, 4, 0)
