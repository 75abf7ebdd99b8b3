"""Metrics from evidence: hand-worked numbers, the former scoring loop, and shapes."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.core.errors import DataError
from neuneu.data.choice_metrics import (
    ALL_METRICS,
    METRICS,
    available_metrics,
    count_ties,
    item_scores,
    task_metrics,
)
from neuneu.data.choices import ItemSet


def item_set(counts, labels, *, chars=None, tokens=None, form="rc"):
    """Items with these numbers of choices; lengths default to 2 characters and 1 token."""
    total = sum(counts)
    n_chars = np.array(chars if chars is not None else [2] * total)
    return ItemSet(
        task="t",
        task_hash="h",
        format=form,
        num_fewshot=0,
        docs=np.repeat(np.arange(len(counts)) * 7, counts),
        choices=np.concatenate([np.arange(count) for count in counts]),
        labels=np.array(labels),
        n_tokens=np.array(tokens if tokens is not None else [1] * total),
        n_chars=n_chars,
        n_bytes=2 * n_chars,
    )


def test_task_metrics_hand_worked():
    # Item 0: ln p = ln 0.5, ln 0.25 for 4 and 1 characters, right 0.
    # Item 1: ln 0.1, ln 0.3, ln 0.6 for 1, 3 and 1 characters, right 1.
    items = item_set([2, 3], [0, 1], chars=[4, 1, 1, 3, 1], tokens=[2, 1, 1, 1, 1])
    sums = np.log([[0.5, 0.25, 0.1, 0.3, 0.6]])
    found = task_metrics(items, sums)
    assert {name: float(series.values[0]) for name, series in found.items()} == pytest.approx(
        {
            "acc": 0.5,  # item 0 only
            "acc_norm": 1.0,  # -0.173 > -1.386 and -0.401 > -0.511
            "acc_bytes": 1.0,
            "acc_per_token": 0.5,
            "bpb": (1 / 8 + math.log2(1 / 0.3) / 6) / 2,
            "p_gold": (2 / 3 + 0.3) / 2,
            "margin": (math.log(0.5) / 4 - math.log(0.25) + math.log(0.3) / 3 - math.log(0.6)) / 2,
            "brier": (2 / 9 + (0.01 + 0.49 + 0.36)) / 2,
        }
    )
    spread = abs(2 / 3 - 0.3) / math.sqrt(2)
    assert found["p_gold"].stderrs[0] == pytest.approx(spread / math.sqrt(2))


def test_uncond_asks_which_choice_the_question_made_likelier():
    items = item_set([2], [1])
    sums, alone = np.array([[-1.0, -2.0]]), np.array([[-1.5, -4.0]])
    scores = item_scores(items, sums, alone, metrics=["acc", "acc_uncond"])
    assert (scores["acc"].item(), scores["acc_uncond"].item()) == (0.0, 1.0)
    with pytest.raises(DataError, match="acc_uncond cannot be computed"):
        item_scores(items, sums, metrics=["acc_uncond"])


def test_ties_go_to_the_first_choice_but_not_in_minimal_pairs():
    sums = np.array([[-1.0, -1.0]])
    assert task_metrics(item_set([2], [0]), sums)["acc"].values == 1
    assert task_metrics(item_set([2], [1]), sums)["acc"].values == 0
    assert task_metrics(item_set([2], [0], form="minimal_pair"), sums)["acc"].values == 0
    assert count_ties(item_set([2, 2], [0, 0]), np.array([[-1.0, -1.0, -1.0, -2.0]])) == [1]


def test_empty_choice_loses_and_unknown_lengths_leave_metrics_out():
    empty = item_set([2], [1], chars=[0, 3])
    found = task_metrics(empty, np.array([[-0.1, -9.0]]))
    assert (found["acc"].values, found["acc_norm"].values) == (0, 1)
    assert "margin" not in found
    unknown = item_set([2], [1], chars=[0, 0], tokens=[0, 0])
    assert available_metrics(unknown, unconditional=False) == ["acc", "p_gold", "brier"]
    assert available_metrics(item_set([2], [0]), unconditional=True) == list(ALL_METRICS)


def test_not_finite_or_misshapen_evidence_is_named():
    items = item_set([2], [0])
    with pytest.raises(DataError, match="document 0, choice 1: the log-probability is nan"):
        task_metrics(items, np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match=r"expected \(n, 2\) sums"):
        task_metrics(items, np.zeros((1, 3)))


def _former(items, sums):
    """The scoring loop of version 1 of the store, one item after another."""
    with np.errstate(divide="ignore"):
        densities = (
            sums,
            sums / items.n_chars.astype(np.float64),
            sums / items.n_bytes.astype(np.float64),
        )
    starts = np.flatnonzero(np.diff(items.docs, prepend=items.docs[0] - 1))
    found = {}
    for metric, values in zip(METRICS, densities, strict=True):
        correct = np.empty(len(starts))
        for i, choices in enumerate(np.split(values, starts[1:])):
            label = items.labels[i]
            if items.format == "minimal_pair":
                correct[i] = choices[label] > np.delete(choices, label).max()
            else:
                correct[i] = np.argmax(choices) == label
        n = len(correct)
        stderr = float(correct.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        found[metric] = (float(correct.mean()), stderr)
    return found


@given(st.integers(0, 2**32 - 1), st.sampled_from(["rc", "minimal_pair"]))
def test_accuracies_equal_the_former_loop_to_the_digit(seed, form):
    rng = np.random.default_rng(seed)
    counts = [2] * 5 if form == "minimal_pair" else rng.integers(2, 6, rng.integers(1, 300))
    items = item_set(
        counts,
        [int(rng.integers(count)) for count in counts],
        chars=rng.integers(1, 9, sum(counts)),
        form=form,
    )
    # Coarse values, so that there are ties.
    sums = -rng.integers(1, 12, (3, sum(counts))).astype(np.float32) / 4
    found = task_metrics(items, sums, metrics=METRICS)
    for row in range(3):
        expected = _former(items, sums[row].astype(np.float64))
        got = {m: (float(s.values[row]), float(s.stderrs[row])) for m, s in found.items()}
        assert got == expected or len(counts) == 1


def test_evidence_of_a_long_run_is_scored_at_once():
    # 81,000 requests at 30 checkpoints; the bound is generous, since machines differ.
    rng = np.random.default_rng(0)
    items = item_set([4] * 20_250, rng.integers(0, 4, 20_250), chars=rng.integers(1, 60, 81_000))
    sums = -rng.gamma(8, 2, (30, 81_000)).astype(np.float32)
    started = time.process_time()
    found = task_metrics(items, sums, sums / 2)
    assert list(found) == list(ALL_METRICS)
    assert time.process_time() - started < 5
