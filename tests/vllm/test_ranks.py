"""A real engine over two ranks: the proof of a swap looks at both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_checkpoints import copy_of, rewrite_weights, save_model

from neuneu.core.errors import EngineError
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.workers.engine import EngineHost
from neuneu.scoring.workers.processes import Remote

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

LIMIT_S = 600.0


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    remote = Remote(EngineHost, EngineConfig(max_model_len=128, tensor_parallel=2), 1)
    yield remote
    remote.kill()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    # One head of keys and values for both ranks: each holds it, and it counts once.
    for seed in (1, 2):
        save_model(
            tmp_path / str(seed), tied=True, seed=seed, hidden_size=128, num_attention_heads=4
        )
    return tmp_path


def test_swap_is_proven_on_both_ranks(host: Remote, models: Path) -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("a GPU of its own for each rank is not to be had everywhere")
    host.call("start", models / "1", timeout_s=LIMIT_S)
    host.call("load", models / "2", timeout_s=LIMIT_S)
    assert host.call("proof", timeout_s=LIMIT_S) == "weights compared on 2 ranks"
    # What preflight refuses: vLLM reports success and keeps the tensor, whose columns the ranks
    # divide, of the checkpoint before.
    bad = copy_of(models / "1", models / "bad")
    rewrite_weights(bad, {"model.layers.1.mlp.down_proj.weight": None})
    with pytest.raises(EngineError, match=r"other weights.*layer 1, its matrices of 96 columns"):
        host.call("load", bad, timeout_s=LIMIT_S)
