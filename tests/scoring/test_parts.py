"""A further task or text costs only itself, by the token count of a real engine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from old_store import write, write_task_table
from tiny_checkpoints import WINDOW, extract_config, save_checkpoint, write_inputs

from neuneu.core.config import load_config
from neuneu.core.errors import StoreError, UserError
from neuneu.core.storage import Folder
from neuneu.data.checkpoints import list_local
from neuneu.data.store.recomputation import recompute
from neuneu.data.store.store import Store
from neuneu.data.store.upgrade import upgrade
from neuneu.scoring.checkpoints.grouping import group
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.engines.engine import read_tokenizer
from neuneu.scoring.evaluation import make_workload
from neuneu.scoring.plan import extraction_status, plan_extraction
from neuneu.scoring.tasks import tasks_hash
from neuneu.scoring.wanted import load_wanted
from neuneu.scoring.workers.engine import make_scorer
from neuneu.scoring.workers.worker import Outcome, Worker

pytest.importorskip("transformers")
KEY = ("tiny", "a", 1)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suite")
    save_checkpoint(root / "checkpoints", run="a", step=1, tied=True)
    write_inputs(root)
    pq.write_table(pa.table({"text": ["def f(x):\n    return x + 1\n" * 9]}), root / "code.parquet")
    return root


@pytest.fixture
def config(suite: Path, tmp_path: Path) -> Callable[..., ExtractConfig]:
    def make(*tasks: str, **changes: Any) -> ExtractConfig:
        specs = tuple(f"blimp/{task}:{suite / 'pairs.parquet'}" for task in tasks)
        settings = {"tasks": specs, "corpus_words": 60, "store": tmp_path / "store"} | changes
        return extract_config(suite, **settings)

    return make


def score(config: ExtractConfig) -> Outcome:
    """Score the checkpoint as an extraction does, without Ray."""
    (outcome,) = in_process.score(config)
    return outcome


def tokens(suite: Path, config: ExtractConfig, *names: str) -> int:
    """Tokens of the prompts of some tasks and texts."""
    wanted = load_wanted(config)
    parts = [part for part in wanted.parts if part.name in names]
    assert len(parts) == len(names)
    tokenizer = read_tokenizer(suite / "checkpoints/a/step-1")
    return make_workload(wanted.only(parts), tokenizer, max_tokens=WINDOW - 1).n_tokens


def test_a_further_task_and_text_cost_only_themselves(
    suite: Path, config: Callable[..., ExtractConfig]
) -> None:
    one = config("blimp_first")
    first = score(one)
    assert first.tokens == tokens(suite, one, "blimp_first", "corpus")
    store = Store(one.store)
    files = store.folder.files()
    accuracies = store.accuracies().to_pylist()
    texts = {"corpus": str(suite / "corpus.parquet"), "code": str(suite / "code.parquet")}
    more = config("*", corpus=texts)
    plan = plan_extraction(more, None)
    assert (plan.to_score, plan.done) == (1, 0)
    assert extraction_status(one).done == 1
    assert extraction_status(more).left == 1

    second = score(more)
    only = tokens(suite, more, "blimp_second", "code")
    assert second.tokens == only > second.computed_tokens  # shared beginnings count once
    assert plan.corpus_tokens + plan.task_tokens == only
    assert tokens(suite, more, "blimp_first", "blimp_second", "corpus", "code") > only
    assert files.items() <= store.folder.files().items()
    assert [row for row in store.accuracies().to_pylist() if row["task"] == "blimp_first"] == (
        accuracies
    )
    assert [part.name for part in store.progress()[KEY].parts] == [
        "code", "corpus", "blimp_first", "blimp_second",
    ]  # fmt: skip
    assert store.token_losses().num_rows == 2
    assert store.main_corpus() == "corpus"
    again = score(more)
    assert (again.tokens, again.engines_started, again.attempts) == (0, 0, 0)
    assert extraction_status(more).done == 1


def test_scores_follow_from_what_the_store_keeps(
    suite: Path, config: Callable[..., ExtractConfig]
) -> None:
    setting = config("*")
    score(setting)
    store = Store(setting.store)
    found = recompute(store)
    assert (found.differing, found.choices) == (0, 24)
    stored = store.accuracies().to_pylist()
    assert len(stored) == 2 * 3
    by_slot = {(row["task"], row["metric"]): row for row in found.accuracies.to_pylist()}
    for row in stored:
        same = by_slot[row["task"], row["metric"]]
        assert (same["value"], same["stderr"]) == (row["value"], row["stderr"])
    losses = {
        (row["name"], row["metric"]): row["value"] for row in found.losses.to_pylist()
    }  # fmt: skip
    kept = {(r["name"], r["metric"]): r["value"] for r in store.losses().to_pylist()}
    assert losses == {slot: value for slot, value in kept.items() if slot[0] != "corpus"}
    first, _ = store.choices()
    tokenizer = read_tokenizer(suite / "checkpoints/a/step-1")
    task = load_wanted(setting).tasks[0]
    n_tokens = [len(tokenizer(r.continuation)["input_ids"]) for r in task.requests]
    assert first.items.n_tokens.tolist() == n_tokens
    assert first.items.n_chars.tolist() == [len(r.continuation) for r in task.requests]
    assert np.isfinite(first.logprobs).all()


def test_word_losses_of_a_real_model_are_stored_within_the_bound(
    suite: Path, config: Callable[..., ExtractConfig]
) -> None:
    setting = config("blimp_first")
    score(setting)
    (kept,) = Store(setting.store).token_losses().column("losses").to_pylist()
    folder = suite / "checkpoints/a/step-1"
    wanted = load_wanted(setting)
    workload = make_workload(wanted, read_tokenizer(folder), max_tokens=WINDOW - 1)
    logprobs = make_scorer(setting.engine, folder).score(workload.prompts)
    (text,) = workload.texts
    losses = text.losses(logprobs).word_losses.astype(float)
    assert len(losses) == 60
    error = np.abs(np.array(kept, float) - losses)
    assert (error > 0).any()
    assert (error <= np.maximum(losses / 2048, 2.0**-25)).all()


def test_choices_without_their_questions_are_scored_where_a_task_asks(
    suite: Path, config: Callable[..., ExtractConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuneu.scoring import wanted as module

    plain = module.load_tasks

    def asking(*args: Any, **kwargs: Any) -> Any:
        return [
            replace(task, requests=tuple(
                replace(r, context="The cat sat.", unconditional=("", r.continuation))
                for r in task.requests
            ))
            for task in plain(*args, **kwargs)
        ]  # fmt: skip

    setting = config("blimp_first")
    score(setting)
    (plain_choices,) = Store(setting.store).choices()
    monkeypatch.setattr(module, "load_tasks", asking)
    with pytest.raises(StoreError, match="has another task 'blimp_first'"):
        score(setting)
    other = replace(setting, store=setting.store + "-2")
    score(other)
    (choices,) = Store(other.store).choices()
    assert choices.unconditional is not None
    # Without a context they are the sentences that the plain task scores.
    np.testing.assert_allclose(choices.unconditional, plain_choices.logprobs, rtol=1e-5)
    assert (choices.logprobs != choices.unconditional).any()
    assert "acc_uncond" in recompute(Store(other.store)).accuracies.column("metric").to_pylist()


def test_other_weights_of_a_scored_checkpoint_are_refused(
    config: Callable[..., ExtractConfig],
) -> None:
    setting = config("blimp_first")
    score(setting)
    wanted = load_wanted(config("*"))
    Store(setting.store).claim(wanted.records())
    worker = Worker(
        replace(setting, staging=Path(setting.store).parent / "s", staging_gb=1), wanted,
        host=in_process.InProcess,
    )  # fmt: skip
    (pending,) = group(list_local(setting.checkpoints)).pending
    outcome = worker.run(replace(pending, weights_hash="other", earlier_attempts=1))
    worker.close()
    assert outcome.status == "quarantined"
    assert "are not those that the store has results of (other)" in outcome.error
    status = extraction_status(config("*"))
    assert (status.quarantined, list(status.reasons)) == (1, [outcome.error])
    assert extraction_status(setting).done == 1


def test_tasks_of_an_upgraded_store_are_done_once_recognised(
    config: Callable[..., ExtractConfig],
) -> None:
    setting = config("*")
    score(setting)
    new, wanted = Store(setting.store), load_wanted(setting)
    # The same results as version 1 would have written them.
    old = Folder(f"{setting.store}-old")
    (text,) = wanted.corpora
    keys = {"corpus": text.name, "corpus_hash": text.hash, "tasks_hash": tasks_hash(wanted.tasks)}
    record = new.fingerprint() | keys | {"corpus_words": text.n_words}
    old.write("store.json", _json({"schema_version": "1", "fingerprint": record}))
    write_task_table(old, [task.name for task in wanted.tasks])
    write(old, "tiny/a/000000000001", _old_rows(new))

    there = replace(setting, store=str(old))
    assert extraction_status(there).done == 1  # read as it is
    with pytest.raises(StoreError, match="neuneu store upgrade"):
        score(there)
    upgrade(Store(old))
    assert extraction_status(there).done == 1
    with pytest.raises(StoreError, match="this run asks for 1 of them"):
        score(replace(config("blimp_first"), store=str(old)))
    with pytest.raises(StoreError, match="this run asks for other content"):
        score(replace(setting, store=str(old), limit=2))
    assert score(there).tokens == 0
    # Now that each is known by its content, one may be asked for.
    assert score(replace(config("blimp_first"), store=str(old))).tokens == 0
    assert list(Store(old).choices()) == []
    rescored = score(replace(there, missing_evidence=True))
    assert rescored.tokens > 0
    assert len(list(Store(old).choices())) == 2
    assert Store(old).accuracies() == new.accuracies()
    assert score(replace(there, missing_evidence=True)).tokens == 0


def test_corpus_is_a_path_or_several_by_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "checkpoints: a\nstore: b\ncorpus:\n  code: c.parquet\n  web: s3://b/w.parquet\n"
    )
    named = load_config(ExtractConfig, tmp_path / "c.yaml", ["corpus.prose=p.txt"])
    assert named.corpus == {"code": "c.parquet", "web": "s3://b/w.parquet", "prose": "p.txt"}
    assert load_config(ExtractConfig, tmp_path / "c.yaml", ["corpus=x.txt"]).corpus == "x.txt"


def test_a_text_named_like_a_task_is_refused(
    suite: Path, config: Callable[..., ExtractConfig]
) -> None:
    clash = {"blimp_first": str(suite / "code.parquet")}
    with pytest.raises(UserError, match="the text 'blimp_first' has the name of a task"):
        load_wanted(config("*", corpus=clash))
    with pytest.raises(UserError, match="corpus: expected a text"):
        load_wanted(config("*", corpus={}))


def _json(record: dict[str, Any]) -> bytes:
    import json

    return json.dumps(record).encode()


def _old_rows(store: Store) -> Any:
    """The one checkpoint of a store, without what version 1 did not have."""
    from neuneu.data.store.store import CheckpointRows

    (text,) = (slot[1] for slot in store.records() if slot[0] == "corpus")
    losses = [row for row in store.losses().to_pylist() if row["name"] == text]
    return CheckpointRows(
        checkpoint=store.checkpoints().to_pylist()[0],
        accuracies=store.accuracies().to_pylist(),
        losses=losses,
        token_losses=store.token_losses().to_pylist(),
    )
