import pytest

from neuneu.errors import UserError
from neuneu.extraction.engines import EngineConfig
from neuneu.extraction.placement import Placement, place

BF16 = EngineConfig(dtype="bfloat16")


@pytest.mark.parametrize(
    ("params", "gpus", "tensor_parallel"),
    [
        # 2 x 2,048 x 50,304 logits are 0.82 GB; an eighth of 80 GB holds 9 GB, a quarter 18.
        (160e6, 0.125, 1),
        (2.8e9, 0.125, 1),
        (3.2e9, 0.25, 1),
        (12e9, 0.5, 1),
        (30e9, 1.0, 1),
        (32e9, 2.0, 2),
        (70e9, 4.0, 4),
    ],
)
def test_place_on_80_gb(params: float, gpus: float, tensor_parallel: int) -> None:
    found = place(params, 50_304, BF16, gpu_gb=80)
    assert (found.gpus, found.tensor_parallel) == (gpus, tensor_parallel)


def test_place_float32_takes_more_than_bfloat16() -> None:
    assert place(6e9, 50_304, EngineConfig(), gpu_gb=80) > place(6e9, 50_304, BF16, gpu_gb=80)


def test_place_too_large_is_a_user_error() -> None:
    with pytest.raises(UserError, match="at most eight GPUs of 24 GB"):
        place(400e9, 128_000, BF16, gpu_gb=24)


def test_placement_of_the_cpu_is_one_process() -> None:
    assert Placement(gpus=0.0).tensor_parallel == 1
