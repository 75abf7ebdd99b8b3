"""Samples of trajectories, against hand-worked examples and a naive reference."""

import numpy as np
import pytest
from curves import trajectory
from hypothesis import given
from hypothesis import strategies as st

from neuneu.core.errors import DataError
from neuneu.data.trajectories import TokenLossTable, Trajectory
from neuneu.forecasters.window.windows import (
    Series,
    build_series,
    enumerate_samples,
    mean_loss_rows,
    no_loss_rows,
    word_loss_rows,
)


def series_of(trajectories: list[Trajectory], gap_unit: str = "checkpoints") -> Series:
    losses, rows = no_loss_rows(trajectories)
    return build_series(trajectories, gap_unit=gap_unit, losses=losses, loss_rows=rows)


def as_tuples(series: Series, max_ahead: int | None) -> list[tuple[int, int, int]]:
    samples = enumerate_samples(series, max_ahead)
    columns = (samples.trajectory, samples.end, samples.target)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_samples_hand_worked() -> None:
    series = series_of([trajectory([0.1, 0.2, 0.3, 0.4]), trajectory([0.5]), trajectory([0.6] * 2)])
    assert as_tuples(series, 2) == [
        (0, 0, 1), (0, 0, 2), (0, 1, 2), (0, 1, 3), (0, 2, 3), (2, 0, 1),
    ]  # fmt: skip


@given(st.lists(st.integers(0, 9), max_size=5), st.one_of(st.none(), st.integers(1, 12)), st.data())
def test_samples_equal_a_naive_enumeration(
    lengths: list[int], max_ahead: int | None, data: st.DataObject
) -> None:
    parts = [trajectory([0.5] * n) for n in lengths]
    missing = [
        data.draw(st.lists(st.booleans(), min_size=n, max_size=n), label="missing") for n in lengths
    ]
    rows = [np.where(m, -1, 0).astype(np.int64) for m in missing]
    series = build_series(parts, gap_unit="checkpoints", losses=np.zeros((1, 0)), loss_rows=rows)
    naive = [
        (t, end, target)
        for t, n in enumerate(lengths)
        for end in range(n)
        for target in range(end + 1, n)
        if (max_ahead is None or target - end <= max_ahead) and not missing[t][end]
    ]
    assert as_tuples(series, max_ahead) == naive


def test_series_positions_are_checkpoints_or_log_tokens() -> None:
    one = trajectory([0.1, 0.2, 0.3], steps=[1, 10, 100])
    np.testing.assert_array_equal(series_of([one]).positions, [0, 1, 2])
    np.testing.assert_allclose(np.diff(series_of([one], "log_tokens").positions), np.log(10))


def test_series_zero_tokens_in_log_unit_are_refused() -> None:
    with pytest.raises(DataError, match="positive token counts"):
        series_of([trajectory([0.1, 0.2], steps=[0, 10])], "log_tokens")


def test_mean_loss_rows_skip_missing_and_prefer_the_first_name() -> None:
    losses = {"a": np.array([3.0, np.nan, 2.0]), "b": np.array([9.0, 9.0, 9.0])}
    both = trajectory([0.1, 0.2, 0.3], losses=losses)
    only_b = trajectory([0.1, 0.2, 0.3], losses={"b": losses["b"]})
    values, rows = mean_loss_rows([both, only_b], ["a", "b"])
    assert values.tolist() == [[3.0], [2.0], [9.0], [9.0], [9.0]]
    assert [row.tolist() for row in rows] == [[0, -1, 1], [2, 3, 4]]
    with pytest.raises(DataError, match="loss_names"):
        mean_loss_rows([both], [])


def test_word_loss_rows_find_checkpoints_and_refuse_nan() -> None:
    matrix = np.ones((2, 4), dtype=np.float16)
    rows = {("s", "r", 1): 0, ("s", "r", 3): 1}
    table = TokenLossTable(matrix=matrix, rows=rows, unit="word", corpus_hash="c")
    losses, found = word_loss_rows([trajectory([0.1, 0.2, 0.3])], table)
    assert losses is matrix
    assert found[0].tolist() == [0, -1, 1]
    matrix[1, 2] = np.nan
    with pytest.raises(DataError, match="row 1 holds NaN"):
        word_loss_rows([], table)
