import pytest

from neuneu.core.errors import UserError
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.workers.fan_out import slots
from neuneu.scoring.workers.placement import Placement, need, place

BF16 = EngineConfig(dtype="bfloat16")


def test_need_by_hand() -> None:
    # Pythia 12b: 36 layers of width 5,120; 2,048 + 2,048 + 64 x 32 tokens of 2 bytes are kept.
    needed = need(11_846_072_320, 50_688, 2 * 36 * 5120, BF16)
    assert needed.weights == pytest.approx(23.692, abs=1e-3)
    assert needed.logits == pytest.approx(2 * 2048 * 50_688 * 4 / 1e9)
    assert needed.cache == pytest.approx(368_640 * 2 * 6144 / 1e9)
    assert needed.per_gpu() == pytest.approx(23.692 + 0.830 + 2.369 + 4.530 + 2.0, abs=1e-3)
    assert needed.per_gpu(2) == pytest.approx(needed.per_gpu() - (23.692 + 4.530) / 2, abs=1e-3)
    own = need(1e9, 1000, 10**9, EngineConfig(dtype="bfloat16", kv_cache_mb=512))
    assert own.cache == pytest.approx(0.536870912)


@pytest.mark.parametrize(
    ("params", "cache_values", "gpus", "tensor_parallel"),
    [
        # 2 x 2,048 x 50,304 logits are 0.82 GB; an eighth of 80 GB holds 9 GB, a quarter 18.
        (160e6, 0, 0.125, 1),
        (2.8e9, 0, 0.125, 1),
        (2.8e9, 2 * 32 * 2560, 0.25, 1),  # the cache of Pythia 2.8b are 2 GB
        (3.2e9, 0, 0.25, 1),
        (12e9, 0, 0.5, 1),
        (30e9, 0, 1.0, 1),
        (32e9, 0, 2.0, 2),
        (70e9, 0, 4.0, 4),
    ],
)
def test_place_on_80_gb(
    params: float, cache_values: int, gpus: float, tensor_parallel: int
) -> None:
    found = place(need(params, 50_304, cache_values, BF16), gpu_gb=80, utilization=0.9)
    assert (found.gpus, found.tensor_parallel) == (gpus, tensor_parallel)


def test_place_float32_takes_more_than_bfloat16() -> None:
    full, half = (need(6e9, 50_304, 0, engine) for engine in (EngineConfig(dtype="float32"), BF16))
    assert place(full, gpu_gb=80, utilization=0.9) > place(half, gpu_gb=80, utilization=0.9)


def test_place_too_large_is_a_user_error() -> None:
    with pytest.raises(UserError, match="at most eight GPUs of 24 GB, 90% of each"):
        place(need(400e9, 128_000, 0, BF16), gpu_gb=24, utilization=0.9)


def test_placement_of_the_cpu_is_one_process() -> None:
    assert Placement(gpus=0.0).tensor_parallel == 1


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "workers"),
    [
        ([{"CPU": 5.0}, {"CPU": 4.0}], 2, 0.0, 4),
        ([{"CPU": 1.0}, {"CPU": 3.0, "GPU": 1.0}], 1, 0.5, 2),
        ([{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}], 1, 2.0, 2),
    ],
)
def test_slots_are_counted_node_by_node(
    nodes: list[dict[str, float]], cpus: int, gpus: float, workers: int
) -> None:
    assert slots(nodes, cpus=cpus, gpus=gpus) == workers


@pytest.mark.parametrize("nodes", [[{"CPU": 2.0}, {"CPU": 2.0}], [{"CPU": 9.0, "GPU": 1.0}], []])
def test_a_worker_that_no_node_holds_is_a_user_error(nodes: list[dict[str, float]]) -> None:
    with pytest.raises(UserError, match="on one of them for a worker"):
        slots(nodes, cpus=3, gpus=2.0)
