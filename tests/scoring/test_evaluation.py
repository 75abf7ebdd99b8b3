import math
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import make_ref

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.data.store.store import Part, Store
from neuneu.scoring.checkpoints.preflight import Preflight
from neuneu.scoring.corpus import EncodedCorpus
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.evaluation import (
    EncodedChoices,
    EncodedTask,
    EncodedText,
    Workload,
    evaluate,
    quarantined,
)
from neuneu.scoring.multiple_choice import Request, Task, item_set

CHECKED = Preflight(
    ref=make_ref(Path("nowhere"), step=5),
    config_hash="c",
    tokenizer_hash="t",
    weights_hash="w",
    architecture="Llama",
    max_positions=8,
    vocab_size=10,
)

TASK, TEXT = Part("task", "t", 3, "th"), Part("corpus", "text", 0, "h")


class FakeScorer:
    """Every token t has log-probability -t / 4, or what `special` says."""

    max_prompt_tokens = 8
    proof = "faked"

    def __init__(self, special: dict[int, float] | None = None) -> None:
        self.special = special or {}
        self.computed_tokens = 0
        self.seen: list[Prompts] = []

    def load(self, folder: Path) -> None:
        raise AssertionError("evaluation does not load weights")

    def score(self, prompts: Prompts) -> np.ndarray:
        self.seen.append(prompts)
        self.computed_tokens += len(prompts.tokens)
        scored = [t for i in range(len(prompts)) for t in prompts[i][-prompts.last[i] :].tolist()]
        return np.array([self.special.get(t, -t / 4) for t in scored], dtype=np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def workload() -> Workload:
    """Two documents of two choices after context (0, 1), and a corpus of two windows.

    Continuations: document 0 "ab" = (2,) against "c" = (1,); document 1 "abcd" = (3,) against
    "ef" = (2,): the right ones have -0.5 and -0.75 nats, the wrong ones -0.25 and -0.5.
    """
    texts = [("ab", 2), ("c", 1), ("abcd", 3), ("ef", 2)]
    requests = tuple(
        Request(task="t", doc=i // 2, choice=i % 2, context="x", continuation=text, label=0)
        for i, (text, _) in enumerate(texts)
    )
    task = Task(
        name="t",
        base_task="t",
        format="rc",
        split="test",
        group="g",
        num_fewshot=3,
        chance=0.5,
        requests=requests,
    )
    # Prompt (0, 1, 2) is the corpus' first and document 0's first choice.
    prompts = Prompts.of([(0, 1, 2), (0, 1, 1), (0, 1, 3), (1, 2, 4)], [2, 1, 1, 1])
    rows = np.array([0, 1, 2, 0])
    return Workload(
        prompts=prompts,
        of_tasks=np.array([0, 1, 2]),
        of_texts=np.array([0, 3]),
        tasks=[
            EncodedTask(
                part=TASK,
                items=item_set(task, task_hash="th", n_tokens=[1] * 4),
                choices=EncodedChoices(
                    places=prompts.places(rows, np.ones(4, np.int64)), starts=np.arange(4)
                ),
            )
        ],
        texts=[
            EncodedText(
                part=TEXT,
                corpus=EncodedCorpus(
                    prompts=Prompts.of([(0, 1, 2), (1, 2, 4)], [2, 1]),
                    token_words=np.array([0, 0, 1]),
                    n_words=2,
                    n_bytes=10,
                ),
                places=prompts.places(np.array([0, 3]), np.array([2, 1])),
            )
        ],
    )


def test_evaluate_hand_worked_rows(workload: Workload) -> None:
    unit = evaluate(FakeScorer(), workload, CHECKED, attempts=2)
    # acc: the wrong choice has the larger sum both times. acc_norm: -0.5 / 2 against -0.25 / 1
    # is a tie that the first wins; -0.75 / 4 is above -0.5 / 2. Both are right.
    found = {row["metric"]: (row["value"], row["stderr"]) for row in unit.accuracies}
    assert found == {"acc": (0.0, 0.0), "acc_norm": (1.0, 0.0), "acc_bytes": (1.0, 0.0)}
    assert {row["num_fewshot"] for row in unit.accuracies} == {3}
    assert {row["planned_tokens"] for row in unit.accuracies} == {1e4}
    # Corpus tokens 1, 2 (word 0) and 4 (word 1): 0.25 + 0.5 and 1.0 nats.
    losses = {row["metric"]: row["value"] for row in unit.losses if row["name"] == "text"}
    assert losses == pytest.approx(
        {
            "cross_entropy_loss": 1.75 / 3,
            "nll_per_word": 1.75 / 2,
            "bpb": 1.75 / math.log(2) / 10,
        }
    )
    # Continuous metrics of the task: the right choices have -0.5 and -0.75 nats, 2 and 4 bytes.
    own = {row["metric"]: row["value"] for row in unit.losses if row["name"] == "t"}
    p_gold = [1 / (1 + math.exp(0.25))] * 2
    assert own == pytest.approx(
        {
            "bpb": (0.5 / 2 + 0.75 / 4) / math.log(2) / 2,
            "p_gold": p_gold[0],
            "margin": ((-0.5 / 2 + 0.25 / 1) + (-0.75 / 4 + 0.5 / 2)) / 2,
            "brier": 2 * (1 - p_gold[0]) ** 2,
        }
    )
    assert {(row["name"], row["num_fewshot"]) for row in unit.losses} == {("text", 0), ("t", 3)}
    evidence = unit.evidence[TASK]
    assert evidence.logprobs.tolist() == [-0.5, -0.25, -0.75, -0.5]
    assert (evidence.logprobs.dtype, evidence.unconditional) == (np.float32, None)
    (words,) = unit.token_losses
    assert words["losses"].dtype == np.float16
    np.testing.assert_array_equal(words["losses"], [0.75, 1.0])
    assert (words["unit"], words["start"], words["count"]) == ("word", 0, 2)
    assert (words["corpus_hash"], words["tokenizer_hash"]) == ("h", "t")
    assert unit.checkpoint["status"] == "done"
    assert unit.checkpoint["attempts"] == 2
    assert (unit.checkpoint["proof"], unit.checkpoint["ties"]) == ("faked", 0)


def test_evaluate_counts_items_that_the_order_of_choices_decides(workload: Workload) -> None:
    # Document 0's choices both have -0.5 nats; document 1's -0.75 and -0.5.
    unit = evaluate(FakeScorer({1: -0.5}), workload, CHECKED, attempts=1)
    assert unit.checkpoint["ties"] == 1
    # And here those of document 1, too.
    unit = evaluate(FakeScorer({1: -0.5, 3: -0.5}), workload, CHECKED, attempts=1)
    assert unit.checkpoint["ties"] == 2


def test_evaluate_scores_each_prompt_once(workload: Workload) -> None:
    scorer = FakeScorer()
    evaluate(scorer, workload, CHECKED, attempts=1)
    assert scorer.seen == [workload.prompts]
    assert workload.n_tokens == 12


def test_evaluate_unit_is_accepted_by_the_store(workload: Workload, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.bind({"a": 1})
    store.commit(evaluate(FakeScorer(), workload, CHECKED, attempts=1))
    store.commit(quarantined(make_ref(Path("x"), step=9), "no weights", attempts=3))
    assert store.status() == {("tiny", "a", 5): "done", ("tiny", "a", 9): "quarantined"}
    assert store.token_losses().column("losses").to_pylist() == [[0.75, 1.0]]
    assert store.accuracies().num_rows == 3
    assert store.progress()["tiny", "a", 5].parts == {TASK: 4, TEXT: 0}


def test_evaluate_huge_word_loss_is_clipped_to_finite_float16(workload: Workload) -> None:
    unit = evaluate(FakeScorer({4: -1e6}), workload, CHECKED, attempts=1)
    assert unit.token_losses[0]["losses"].tolist() == [0.75, 65504.0]
    (mean,) = [row["value"] for row in unit.losses if row["metric"] == "cross_entropy_loss"]
    assert mean == pytest.approx((1e6 + 0.75) / 3)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_evaluate_not_finite_is_the_checkpoints_fault(workload: Workload, value: float) -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        evaluate(FakeScorer({3: value}), workload, CHECKED, attempts=1)


def test_evaluate_lost_results_are_the_engines_fault(workload: Workload) -> None:
    class Forgetful(FakeScorer):
        def score(self, prompts: Prompts) -> np.ndarray:
            return super().score(prompts)[:-1]

    with pytest.raises(EngineError, match="4 results for 5 tokens"):
        evaluate(Forgetful(), workload, CHECKED, attempts=1)


def test_evaluate_word_losses_keep_the_documented_error_bound(workload: Workload) -> None:
    for loss in (1e-6, 0.0123, 0.75, 3.3, 7.9999, 19.87, 200.5):
        unit = evaluate(FakeScorer({4: -loss}), workload, CHECKED, attempts=1)
        stored = float(unit.token_losses[0]["losses"][1])
        assert abs(stored - loss) <= max(loss / 2048, 3e-8)
