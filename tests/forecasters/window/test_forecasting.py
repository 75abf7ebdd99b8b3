"""The neural forecaster: the protocol's promises, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curves import family, trajectory

from neuneu.core.errors import DataError
from neuneu.data.fingerprints import fingerprints
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Forecaster, Query
from neuneu.forecasters.window.config import preset
from neuneu.forecasters.window.export import Provenance, save_model
from neuneu.forecasters.window.forecaster import NeuralForecaster
from neuneu.forecasters.window.network import Network

WORDS = 50


def forecaster(head_scale: float = 1.0, **changes: Any) -> NeuralForecaster:
    torch.manual_seed(0)
    small = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 32}
    network = Network(preset("small", **(small | changes))).eval()
    with torch.no_grad():
        network.head.linear.weight.mul_(head_scale)
    provenance = Provenance(
        identity="i", training_runs=fingerprints(family(["a"])), validation_runs=[],
        held_out_runs=[], metrics=["acc"], corpus_hash="c0ffee", loss_names=[],
        selection="", evaluation={}, training={},
    )  # fmt: skip
    return NeuralForecaster(network=network, provenance=provenance)


def query(whole: Trajectory, end: int, words: np.ndarray | None = None) -> Query:
    future = whole.slice(end, len(whole))
    return Query(
        context=whole.slice(0, end), target_steps=future.steps, target_tokens=future.tokens,
        target_flops=future.flops, word_losses=words,
    )  # fmt: skip


def queries(words: np.ndarray | None = None) -> list[Query]:
    parts = family(["a", "b"])
    return [query(part, 2 + index % 5, words) for index, part in enumerate(parts)]


@pytest.mark.parametrize("head", ["plain", "ordered"])
@pytest.mark.parametrize("target", ["absolute", "delta"])
def test_quantiles_are_ordered_fractions(head: str, target: str) -> None:
    model = forecaster(100.0, head=head, target=target)
    asked = queries()
    answers = model.predict(asked)
    for one, answer in zip(asked, answers, strict=True):
        assert answer.shape == (len(one.target_steps), 7)
        assert ((answer >= 0) & (answer <= 1)).all()
        assert (np.diff(answer, axis=1) >= 0).all()


def test_it_is_a_forecaster_and_fit_changes_nothing() -> None:
    model: Forecaster = forecaster()
    before = model.predict(queries())
    model.fit(family(["c"]))
    np.testing.assert_array_equal(before[0], model.predict(queries())[0])
    assert (model.name, model.sees, 0.5 in model.levels) == ("neural", "own", True)


def test_answers_do_not_depend_on_other_queries() -> None:
    model = forecaster()
    asked = queries()
    together = model.predict(asked)
    for one, answer in zip(asked, together, strict=True):
        np.testing.assert_allclose(model.predict([one])[0], answer, atol=1e-6)


def test_save_and_load_answer_alike(tmp_path: Path) -> None:
    model = forecaster()
    save_model(tmp_path, model.network.config, model.network.state_dict(), model.provenance)
    loaded = NeuralForecaster.load(tmp_path)
    for one, other in zip(model.predict(queries()), loaded.predict(queries()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_step_zero_of_a_context_is_left_out() -> None:
    model = forecaster()
    with_zero = trajectory([0.9, 0.2, 0.3, 0.4], steps=[0, 1, 2, 3])
    without = trajectory([0.2, 0.3, 0.4], steps=[1, 2, 3])
    one, other = model.predict([query(with_zero, 3), query(without, 2)])
    np.testing.assert_allclose(one, other, atol=1e-6)
    (nothing,) = model.predict([query(with_zero, 1)])
    assert np.isnan(nothing).all()
    assert model.predict([]) == []


def test_a_far_target_counts_as_many_evenly_spaced_checkpoints() -> None:
    model = forecaster(gap_unit="checkpoints", target="absolute")
    whole = trajectory(np.linspace(0.2, 0.6, 12), steps=list(range(10, 130, 10)))
    every = query(whole, 4)
    last = replace(
        every,
        target_steps=every.target_steps[-1:],
        target_tokens=every.target_tokens[-1:],
        target_flops=every.target_flops[-1:],
    )
    one, other = model.predict([every, last])
    np.testing.assert_allclose(one[-1], other[0], atol=1e-6)
    assert np.abs(one[0] - other[0]).max() > 1e-4


def test_each_distinct_loss_vector_is_encoded_once() -> None:
    model = forecaster(encoder={"kind": "cnn", "units": WORDS})
    matrix = np.random.default_rng(0).uniform(0, 5, (2, WORDS)).astype(np.float16)
    encoded = []
    model.network.encoder.register_forward_hook(lambda _m, i, _o: encoded.append(len(i[0])))
    asked = [replace(q, word_losses=matrix[i % 2]) for i, q in enumerate(queries())]
    answers = model.predict(asked)
    assert sum(encoded) == 2
    swapped = model.predict([replace(asked[0], word_losses=matrix[1])])
    assert np.abs(swapped[0] - answers[0]).max() > 1e-6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (None, "reads word losses and no trajectory has any"),
        (np.ones(WORDS - 1, dtype=np.float16), "50 words of the corpus c0ffee, found 49"),
        (np.full(WORDS, np.nan, dtype=np.float16), "nats >= 0, found NaN"),
    ],
)
def test_cnn_refuses_other_texts(words: np.ndarray | None, message: str) -> None:
    model = forecaster(encoder={"kind": "cnn", "units": WORDS})
    with pytest.raises(DataError, match=message):
        model.predict(queries(words))


def test_cnn_refuses_another_text_of_the_same_length() -> None:
    model = forecaster(encoder={"kind": "cnn", "units": WORDS})
    same = queries(np.linspace(0, 5, WORDS).astype(np.float16))
    for known in ("c0ffee", None):
        assert np.isfinite(model.predict([replace(same[0], corpus_hash=known)])[0]).all()
    with pytest.raises(DataError, match=r"corpus c0ffee, found 50 of c0de .* choose that text"):
        model.predict([replace(q, corpus_hash="c0de") for q in same])


def test_queries_without_losses_among_others_are_unanswered() -> None:
    model = forecaster(encoder={"kind": "cnn", "units": WORDS})
    words = np.linspace(0, 5, WORDS).astype(np.float16)
    first, second, *_ = queries(words)
    answered, unanswered = model.predict([first, replace(second, word_losses=None)])
    assert np.isfinite(answered).all()
    assert np.isnan(unanswered).all()


def test_histogram_takes_a_text_of_any_length() -> None:
    model = forecaster(encoder={"kind": "histogram"})
    words = np.linspace(0, 5, 20).astype(np.float16)
    longer = np.repeat(words, 3)
    one, other = model.predict(queries(words))[0], model.predict(queries(longer))[0]
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_mean_loss_is_that_of_the_last_context_checkpoint() -> None:
    encoder = {"kind": "mean", "loss_mean": 3.0, "loss_std": 0.5}
    model = forecaster(encoder=encoder)
    (one,) = model.predict(queries()[:1])
    context = queries()[0].context
    early, late = context.losses["v"].copy(), context.losses["v"].copy()
    early[0], late[-1] = 9.0, 9.0
    for losses, same in ((early, True), (late, False)):
        changed = replace(context, losses={"v": losses})
        (other,) = model.predict([replace(queries()[0], context=changed)])
        assert np.array_equal(one, other) == same
    with pytest.raises(DataError, match="reads a mean validation loss"):
        model.predict([replace(queries()[0], context=replace(context, losses={}))])


def test_seen_share_recognises_training_runs_by_content() -> None:
    model = forecaster()
    seen, new = family(["a"]), family(["a"], seed=9)
    assert model.seen_share([replace(t, run="renamed").slice(0, 5) for t in seen]) == 1.0
    assert model.seen_share(new) == 0.0
