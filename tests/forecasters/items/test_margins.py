"""Margins reproduce the accuracies of the scorer, ties and lengths included."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored import pair_choices, scored_choices, scored_trajectory

from neuneu.data.choices import Choices
from neuneu.forecasters.items.margins import gold_logprobs, has_margins, item_margins
from neuneu.scoring.multiple_choice import Request, Task, accuracies


def test_margin_is_the_right_choice_minus_the_best_other_one() -> None:
    choices = scored_choices(
        [[-1.0, -3.0, -2.5, -4.0, -6.0, -4.5]], [0, 2], tokens=[1000], n_choices=3
    )
    np.testing.assert_allclose(item_margins(choices, "acc"), [[1.5, -0.5]])


def test_margin_by_characters_divides_each_choice_by_its_own_length() -> None:
    choices = scored_choices([[-2.0, -3.0]], [0], tokens=[1000], n_chars=[2, 6])
    np.testing.assert_allclose(item_margins(choices, "acc"), [[1.0]])
    np.testing.assert_allclose(item_margins(choices, "acc_norm"), [[-0.5]])


def test_a_choice_without_length_loses() -> None:
    right = scored_choices([[-2.0, -9.0]], [0], tokens=[1000], n_chars=[0, 6])
    assert item_margins(right, "acc_norm")[0, 0] < 0
    other = scored_choices([[-9.0, -2.0]], [0], tokens=[1000], n_chars=[6, 0])
    assert item_margins(other, "acc_norm")[0, 0] > 0


def test_gold_log_probability_is_per_token() -> None:
    choices = scored_choices([[-2.0, -3.0, -4.0, -8.0]], [0, 1], tokens=[1000])
    choices.items.n_tokens[3] = 4
    np.testing.assert_allclose(gold_logprobs(choices), [[-2.0, -2.0]])


def test_margins_without_lengths_are_refused() -> None:
    unknown = scored_choices([[-2.0, -3.0]], [0], tokens=[1000], n_chars=[0, 0])
    assert has_margins(unknown, "acc")
    assert not has_margins(unknown, "acc_norm")
    assert not has_margins(unknown, "pct_stereotype")
    assert not has_margins(None, "acc")
    with pytest.raises(ValueError, match="no margins of 'acc_norm'"):
        item_margins(unknown, "acc_norm")


def _task(choices: Choices, lengths: npt.NDArray[np.int64]) -> Task:
    items = choices.items
    requests = [
        Request(
            task="t", doc=int(doc), choice=int(choice), context="c",
            continuation=" " + "x" * int(length), label=int(items.labels[doc]),
        )
        for doc, choice, length in zip(items.docs, items.choices, lengths, strict=True)
    ]  # fmt: skip
    return Task(
        name="t", base_task="t", format=items.format, split="", group="",  # type: ignore[arg-type]
        num_fewshot=0, chance=0.5, requests=tuple(requests),
    )  # fmt: skip


@given(st.data(), st.sampled_from(["rc", "minimal_pair"]), st.integers(1, 6), st.integers(2, 4))
def test_positive_margins_are_the_scorers_accuracy(
    data: st.DataObject, form: str, n_items: int, n_choices: int
) -> None:
    count = n_items * n_choices
    # Few values, so that choices tie.
    sums = data.draw(st.lists(st.integers(-4, -1), min_size=count, max_size=count))
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    best = 0 if form == "minimal_pair" else n_choices - 1
    labels = data.draw(st.lists(st.integers(0, best), min_size=n_items, max_size=n_items))
    if not any(lengths):
        lengths[0] = 1
    choices = scored_choices(
        [sums], labels, tokens=[1000], n_choices=n_choices, form=form, n_chars=lengths
    )
    task = _task(choices, choices.items.n_chars)
    scores = {s.metric: s.value for s in accuracies(task, np.array(sums, np.float64))}
    for metric in ("acc", "acc_norm", "acc_bytes"):
        margins = item_margins(choices, metric)
        assert (margins > 0).mean() == pytest.approx(scores[metric]), metric


def test_choices_of_a_slice_are_those_of_its_checkpoints() -> None:
    choices = pair_choices([[1.0], [2.0], [3.0]], tokens=[1000, 2000, 3000])
    kept = choices.between(2, 3)
    np.testing.assert_array_equal(kept.steps, [2, 3])
    np.testing.assert_allclose(item_margins(kept, "acc")[:, 0], [2.0, 3.0])
    assert kept.logprobs.base is not None  # a view: nothing is copied
    assert len(choices.between(0, -1)) == 0


def test_a_trajectory_is_cut_with_its_choices() -> None:
    trajectory = scored_trajectory(pair_choices([[1.0], [-1.0], [3.0]], tokens=[1000, 2000, 3000]))
    kept = trajectory.slice(0, 2).choices
    assert kept is not None
    np.testing.assert_array_equal(kept.steps, [1, 2])
    nothing = trajectory.slice(0, 0).choices
    assert nothing is not None
    assert len(nothing) == 0
