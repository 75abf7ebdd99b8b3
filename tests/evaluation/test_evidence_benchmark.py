"""The study of evidence: parts of the items, readings, scores of rules beside forecasters."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evidence.data import GoldLosses, some_items, with_items
from evidence.gemstones import size_of, with_gold
from evidence.item_counts import as_good, counts_entry
from evidence.ladder_study import case_entry
from evidence.readings import BOTH, GOLD, NONE, choice_loss, with_signals, with_text
from evidence.scores import entry
from evidence.signals import Family, about, entries_of, is_asked
from evidence.tokens import Text, read_record, score_run
from evidence.window_study import KINDS, Windows
from families.cases import CASES, ask
from scored import pair_choices, scored_trajectory
from tiny_checkpoints import TEXT, WINDOW, save_model

from neuneu.core.errors import UserError
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.gold import gold_course
from neuneu.forecasters.items.margins import item_margins
from neuneu.forecasters.registry import PRETRAINED
from neuneu.ladder.config import SizeConfig, SuiteConfig
from neuneu.ladder.folders import SuiteFolder
from neuneu.ladder.runs import plan_runs
from neuneu.ladder.tokenizer import load_tokenizer
from neuneu.scoring.corpus import encode_corpus, load_corpus, prefix_token

TOKENS = np.geomspace(1e6, 1e8, 12)


def _run(name: str, task: str) -> Trajectory:
    generator = np.random.default_rng([len(name), ord(task)])
    margins = np.linspace(-1, 1, 12)[:, None] + generator.normal(size=(12, 40))
    choices = pair_choices(
        margins, tokens=TOKENS.tolist(), run=name, task=task, params=1e6 * len(name)
    )
    return scored_trajectory(choices)


def test_some_items_keep_their_choices_and_labels() -> None:
    choices = pair_choices([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], tokens=[1e3, 2e3])
    kept = some_items(choices, np.array([0, 2]))
    np.testing.assert_allclose(item_margins(kept, "acc"), [[1, 3], [4, -6]], rtol=1e-6)
    np.testing.assert_array_equal(kept.items.docs, [0, 0, 2, 2])
    trajectory = with_items(scored_trajectory(choices), kept)
    np.testing.assert_allclose(trajectory.values, [1.0, 0.5])


def test_scores_compare_every_forecaster_with_the_base() -> None:
    truths = [np.array([0.5, 0.6]), np.array([0.4])]
    near = [np.tile(t[:, None], 7) + np.linspace(-0.1, 0.1, 7) for t in truths]
    rule = [t[:, None] + 0.2 for t in truths]
    found = entry({"near": near, "rule": rule}, truths, ["a", "b"], "near")
    assert found["near"]["mae"]["value"] == pytest.approx(0.0)
    assert found["rule"]["minus_base"]["value"] == pytest.approx(0.2)
    assert found["near"]["coverage"] == 1.0
    assert found["rule"]["coverage"] is None


def test_gold_losses_become_one_request_an_item() -> None:
    trajectory = _run("a", "t")
    losses = np.full((12, 5), np.log(2.0), np.float32)
    course = gold_course(with_gold(trajectory, GoldLosses(run="a", task="t", losses=losses)))
    assert course is not None
    np.testing.assert_allclose(course.chances, 0.5, rtol=1e-6)
    assert size_of(trajectory) == 0


def _ladder(work: Path) -> list[Trajectory]:
    """Three runs on two tasks, with word losses in `work` as `tokens.py` leaves them."""
    ladder = [with_signals(_run(name, task)) for name in ("a", "aa", "aaa") for task in "tu"]
    for t in ladder:
        (work / "tokens" / t.run).mkdir(parents=True, exist_ok=True)
        for at, step in enumerate(t.steps):
            words = np.linspace(0, 8 - at / 2, 600).astype(np.float16)
            path = work / "tokens" / t.run / f"{step:06d}.npz"
            np.savez(path, words=words, loss=float(words.mean()))
    (work / "tokens" / "tokens.json").write_text(json.dumps({"corpus_hash": "c", "words": 600}))
    return ladder


def test_a_reading_keeps_its_series_and_nothing_else() -> None:
    trajectory = replace(with_signals(_run("a", "t")), losses={"validation": np.ones(12)})
    assert not NONE.of(trajectory).losses
    assert not NONE.of(trajectory).signals
    assert set(GOLD.of(trajectory).signals) == {"bpb"}
    assert not GOLD.of(trajectory).losses
    assert set(BOTH.of(trajectory).losses) == {"validation"}


def test_the_choice_loss_of_pairs_is_the_logistic_loss_of_their_margins() -> None:
    choices = pair_choices([[0.0, 2.0], [-1.0, 3.0]], tokens=[1e3, 2e3])
    wanted = [np.mean(np.log1p(np.exp([0.0, -2.0]))), np.mean(np.log1p(np.exp([1.0, -3.0])))]
    np.testing.assert_allclose(choice_loss(choices), wanted, rtol=1e-6)


def test_text_is_joined_by_run_and_step(tmp_path: Path) -> None:
    ladder, words, text = with_text(_ladder(tmp_path), tmp_path)
    assert words.matrix.shape == (36, 600)
    assert text["words"] == 600
    last = ladder[-1]
    row = words.matrix[words.rows[last.suite, last.run, int(last.steps[-1])]]
    assert last.losses["validation"][-1] == pytest.approx(float(row.mean()), abs=0.01)
    next((tmp_path / "tokens" / "aa").glob("*.npz")).unlink()
    with pytest.raises(UserError, match=r"run benchmarks/evidence/tokens\.py first"):
        with_text(ladder, tmp_path)


def test_networks_are_trained_once_and_do_not_see_the_held_out_run(tmp_path: Path) -> None:
    ladder, words, _ = with_text(_ladder(tmp_path), tmp_path)

    def answers(given: list[Trajectory], folder: Path) -> list[np.ndarray]:
        windows = Windows(given, words, folder, (0.2, 0.4), seeds=1, steps=3)
        return windows.answers("histogram", "aa", 0.4)

    first = answers(ladder, tmp_path / "answers")
    assert [answer.shape for answer in first] == [(7, 7)] * 2
    (file,) = (tmp_path / "answers").iterdir()
    written = file.stat().st_mtime_ns
    np.testing.assert_array_equal(answers(ladder, tmp_path / "answers"), first)
    assert file.stat().st_mtime_ns == written
    other = [replace(t, values=np.r_[t.values[:5], t.values[5:][::-1]]) for t in ladder]
    changed = [b if b.run == "aa" else a for a, b in zip(ladder, other, strict=True)]
    np.testing.assert_array_equal(answers(changed, tmp_path / "changed"), first)
    assert not np.allclose(answers(other, tmp_path / "other"), first, atol=1e-6)


def test_a_ladder_is_scored_alone_and_with_finished_runs(tmp_path: Path) -> None:
    ladder, words, _ = with_text(_ladder(tmp_path), tmp_path)
    windows = Windows(ladder, words, tmp_path / "answers", (0.4,), seeds=1, steps=3)
    names = {"neuneu, none", "neuneu, gold loss", "neuneu, none + items", "items"}
    for alone in (True, False):
        found = case_entry(ladder, 0.4, alone=alone, windows=windows)
        assert found["n"] == 6
        networks = {f"window, {kind}" for kind in KINDS}
        assert networks.isdisjoint(found["forecasters"]) == alone
        assert ("persistence" in found["forecasters"]) == alone
        for name in names | (set() if alone else networks):
            assert 0.0 < found["forecasters"][name]["mae"]["value"] < 0.5
        assert found["forecasters"]["neuneu, none"]["minus_base"]["value"] == 0.0


def test_fewer_items_err_more_and_tasks_are_counted() -> None:
    ladder = [_run(name, task) for name in ("a", "aa", "aaa") for task in "tu"]
    found = counts_entry(ladder, counts=(5, 40), few=5, draws=2)
    curve = found["curve"]
    assert curve["5"]["related, neuneu + items"] > curve["40"]["related, neuneu + items"]
    assert found["tasks"] == 2
    assert set(found["as_good"]) == {
        f"{beside}, {name}"
        for beside in ("alone", "related")
        for name in ("neuneu", "neuneu + items")
    }


def test_tasks_that_are_as_good_are_counted_by_their_mean_over_runs() -> None:
    # Mean differences over runs: -1/8, 0 and 1/4; the last task is worse in every run.
    few = np.array([[0.25, 0.5], [0.75, 0.25], [0.75, 0.75]])
    everything = np.full((3, 2), 0.5)
    found = as_good(few, everything)
    assert found["value"] == pytest.approx(2 / 3)
    assert found["low"] <= found["value"] <= found["high"] < 1.0


def test_words_of_checkpoints_are_scored_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXT}), tmp_path / "text.parquet")
    size = SizeConfig(width=64, layers=2, heads=2, tokens=512, batch_tokens=256)
    suite = SuiteConfig(output=tmp_path, sizes={"xs": size}, checkpoints=2, early_checkpoints=0)
    folder = SuiteFolder(tmp_path)
    (plan,) = plan_runs(suite, ["mix"], folder)
    for step in plan.checkpoint_steps[1:]:
        save_model(plan.checkpoint(step), tied=True, seed=step)
    corpus = load_corpus(tmp_path / "text.parquet", max_words=60)
    tokenizer = load_tokenizer(plan.checkpoint(plan.checkpoint_steps[1]))
    encoded = encode_corpus(
        corpus, tokenizer, prefix_token=prefix_token(tokenizer), max_tokens=WINDOW - 1
    )
    text = Text(corpus=corpus, encoded=encoded)
    score_run(plan, text, tmp_path / "tokens")
    files = sorted((tmp_path / "tokens" / plan.name).iterdir())
    assert len(files) == len(plan.checkpoint_steps) - 1 > 0
    with np.load(files[-1]) as kept:
        words, loss = kept["words"], float(kept["loss"])
    assert (words.dtype, words.shape) == (np.float16, (60,))
    total = loss * text.describe()["tokens"]
    assert words.astype(np.float64).sum() == pytest.approx(total, rel=1e-3)
    times = [file.stat().st_mtime_ns for file in files]
    score_run(plan, text, tmp_path / "tokens")
    assert [file.stat().st_mtime_ns for file in files] == times
    record = tmp_path / "tokens" / "tokens.json"
    record.write_text(json.dumps(text.describe() | {"corpus_hash": "other"}))
    with pytest.raises(UserError, match="found those of other"):
        read_record(record, text)


def _public(run: str, params: float, task: str) -> Trajectory:
    t = _run(run, task)
    falling = {"bpb": np.linspace(2, 1, 12)} if task == "t" else {}
    return replace(t, params=params, signals=falling, losses={"c4": np.linspace(6, 3, 12)})


def test_questions_are_about_large_runs_that_have_what_is_read() -> None:
    runs = [_public(r, p, task) for r, p in (("a", 1e6), ("aa", 1e8)) for task in "tu"]
    assert [is_asked(t, 1e7, signal=True) for t in runs] == [False, False, True, False]
    assert [is_asked(t, 1e7, signal=False) for t in runs] == [False, False, True, True]
    case = next(case for case in CASES if case.name == "smaller")
    kept = about(ask("f", runs, case), {runs[3].key})
    assert [t.key for t in kept.trajectories] == [runs[3].key]
    (batch,) = kept.batches.values()
    assert batch.queries == [0]
    assert {t.run for t in batch.references} == {"a"}


def test_readings_of_a_public_family_are_compared_on_the_same_trajectories() -> None:
    sizes = {"a": 1e6, "aa": 1e8, "aaa": 1e9}
    runs = [_public(r, p, task) for r, p in sizes.items() for task in "tu"]
    family = Family(name="f", title="F", least_params=1e7, metrics=())
    found = entries_of(family, runs, (NONE, GOLD), PRETRAINED, base="neuneu, none")
    for case in found["cases"].values():
        assert (case["n"], case["runs"]) == (2, 2)
        assert set(case["forecasters"]) == {
            "persistence", "recent-mean", "power-law", "neuneu, none", "neuneu, gold loss",
        }  # fmt: skip
    alone, smaller = (found["cases"][name]["forecasters"] for name in ("alone", "smaller"))
    assert alone["persistence"]["mae"] == smaller["persistence"]["mae"]
    assert alone["neuneu, gold loss"]["mae"] != alone["neuneu, none"]["mae"]
