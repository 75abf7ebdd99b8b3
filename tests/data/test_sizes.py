"""Model sizes read from the names of runs."""

from typing import Any

import numpy as np
import pytest

from neuneu.core.errors import DataError
from neuneu.data.load import load_dataset
from neuneu.data.sizes import size_in_name


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("410m", 410e6),
        ("pythia-1.4b-deduped", 1.4e9),
        ("Lucie-7B", 7e9),
        ("0.13b-DCLM-300B-14333760", 0.13e9),
        ("0.40b-FineWeb-Edu-1.4T-300B-14405800", 0.4e9),
        ("300B-tokens-of-a-1.3b", 1.3e9),
        ("190M-10xC", 190e6),
        ("1B-1xC-rerun", 1e9),
        ("pythia-1b-bf16", 1e9),
        ("baseline-1B (GQA8, tied, cosine, GBS1.5M, LR5e-4)", 1e9),
        ("SmolLM2-1.7B-4M-batch", 1.7e9),
        ("llama-3.1-8b", 8e9),
        ("410M 20B tokens", 410e6),
    ],
)
def test_a_size_is_read(name: str, size: float) -> None:
    assert size_in_name(name) == pytest.approx(size)


@pytest.mark.parametrize(
    "name",
    [
        "Gemstone-1024x28", "attention  GQA 16 groups", "batch-size  GBS 3M", "lr  LR 1e-4",
        "OLMoE-1B-7B", "Mixtral-8x7B", "8b-from-70b-and-1b", "dclm-300B", "fineweb-100B", "1_4b",
        "1p4b", "tucano-2b4", "d20", "0.5M", "vocab 32m", "seed-3", "c4-100BT", "",
    ],
)  # fmt: skip
def test_what_is_no_size_for_certain_stays_unknown(name: str) -> None:
    assert size_in_name(name) is None


def test_a_number_of_tokens_that_the_run_is_trained_on_is_no_size() -> None:
    assert size_in_name("slimpajama-6B") == 6e9
    assert size_in_name("slimpajama-6B", [5.9e9]) is None
    assert size_in_name("slimpajama-6B-410m", [6e9]) == 410e6
    assert np.isnan(params(rows("x-3b"))["x-3b"])
    assert params(rows("x-3b", planned_tokens=60e9)) == {"x-3b": 3e9}


def rows(*runs: str, **columns: Any) -> list[dict[str, Any]]:
    return [{"run": run, "task": "t", "value": 0.5, "tokens": 3e9} | columns for run in runs]


def params(table: list[dict[str, Any]]) -> dict[str, float]:
    return {t.run: t.params for t in load_dataset(table).trajectories}


def test_sizes_are_read_where_a_run_has_none_and_that_is_noted() -> None:
    table = rows("x-410m", "x-1b", "y")
    found = load_dataset(table)
    assert {t.run: t.params for t in found.trajectories} == pytest.approx(
        {"x-410m": 410e6, "x-1b": 1e9, "y": np.nan}, nan_ok=True
    )
    assert found.notes[0] == (
        "accuracies: sizes read from the names of runs: 1B of 'x-1b', 410M of 'x-410m'"
    )
    flops = {t.run: t.flops[0] for t in found.trajectories}
    assert flops["x-410m"] == pytest.approx(6 * 410e6 * 3e9)
    given = rows("x-410m", params=405e6) + rows("x-1b", params=None)
    assert params(given) == {"x-410m": 405e6, "x-1b": 1e9}
    assert not any("sizes read" in note for note in load_dataset(rows("y")).notes)
    facts = load_dataset(rows("x-410m"), run_table=[{"run": "x-410m", "params": 405e6}])
    assert facts.trajectories[0].params == 405e6


def test_letters_that_count_variants_are_no_sizes() -> None:
    assert params(rows("exp-1b", "exp-2b")) == {"exp-1b": 1e9, "exp-2b": 2e9}
    found = params(rows("exp-1a", "exp-1b", "exp-2b"))
    assert np.isnan(found["exp-1b"])
    assert found["exp-2b"] == 2e9


def test_flops_stand_for_tokens_unless_every_run_has_a_size() -> None:
    def table(*runs: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "tokens"} for row in rows(*runs, flops=6e18)]

    (known,) = load_dataset(table("x-1b")).trajectories
    assert known.tokens[0] == pytest.approx(1e9)
    mixed = load_dataset(table("x-1b", "y")).trajectories
    assert [t.tokens[0] for t in mixed] == [6e18, 6e18]
    assert all(np.isnan(t.params) for t in mixed)


def test_an_impossible_size_in_the_table_is_still_an_error() -> None:
    with pytest.raises(DataError, match="params"):
        load_dataset(rows("x-1b", params=-1.0))
