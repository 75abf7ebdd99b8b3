"""What an extraction would cost, against what it does."""

from pathlib import Path

import numpy as np
import pytest
from rows import accuracy, checkpoint_rows, loss
from tiny_checkpoints import WINDOW, extract_config, save_two_runs

from neuneu.core.config import load_config
from neuneu.data.choice_metrics import CONTINUOUS_METRICS, METRICS
from neuneu.data.store.checkpoint_files import encode
from neuneu.data.store.store import CheckpointRows, Part, TaskEvidence
from neuneu.scoring.evaluation import make_workload
from neuneu.scoring.plan import (
    HardwareProfile,
    checkpoint_file_bytes,
    extraction_status,
    plan_extraction,
)
from neuneu.scoring.wanted import load_wanted

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
PROFILE = HardwareProfile(
    name="p", source="made up", overhead_s=2, start_s=5, token_s=1e-3, flops_per_s=1e9
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return save_two_runs(tmp_path)


def test_score_s_is_the_documented_formula() -> None:
    assert PROFILE.score_s(5e8, 100) == pytest.approx(100 * (1e-3 + 1.0))


def test_plan_counts_the_tokens_that_would_be_scored(root: Path) -> None:
    from transformers import AutoTokenizer

    config = extract_config(root)
    plan = plan_extraction(config, PROFILE)
    tokenizer = AutoTokenizer.from_pretrained(root / "checkpoints/a/step-1")
    workload = make_workload(load_wanted(config), tokenizer, max_tokens=WINDOW - 1)
    assert plan.corpus_tokens + plan.task_tokens == 4 * workload.n_tokens
    assert plan.corpus_tokens == 4 * len(workload.texts[0].corpus.prompts.tokens)
    assert plan.task_tokens_shared <= plan.task_tokens
    assert (plan.to_score, plan.architectures, plan.tokenizers) == (4, 2, 1)
    assert plan.gigabytes_to_move == 0
    assert plan.engine_hours is not None
    scored = PROFILE.score_s(1e5, (plan.corpus_tokens + plan.task_tokens_shared) / 4)
    assert plan.engine_hours * 3600 == pytest.approx(4 * scored + 4 * 2 + 2 * 5)


@pytest.mark.parametrize(("n_tasks", "choices", "words"), [(0, 0, 3_000), (66, 81_000, 256_000)])
def test_size_of_a_checkpoint_is_that_of_its_file(n_tasks: int, choices: int, words: int) -> None:
    rng = np.random.default_rng(0)
    base = checkpoint_rows(10)
    text = Part("corpus", "v", 0, "k")
    tasks = [Part("task", f"t{i}", 5, f"{i:016x}") for i in range(n_tasks)]
    own = {"suite": "s", "run": "r", "step": 10, "num_fewshot": 5}
    rows = CheckpointRows(
        checkpoint=base.checkpoint,
        accuracies=[
            accuracy(**own, task=part.name, metric=metric, value=rng.random(), stderr=rng.random())
            for part in tasks
            for metric in METRICS
        ],
        losses=base.losses + [
            loss(**own, name=part.name, metric=metric, value=rng.random())
            for part in tasks
            for metric in CONTINUOUS_METRICS
        ],
        token_losses=[
            row | {"count": words, "losses": rng.gamma(2, 3, words).astype(np.float16)}
            for row in base.token_losses
        ],
        parts=[*tasks, text],
        evidence={
            part: TaskEvidence(logprobs=-rng.gamma(8, 2, choices // n_tasks).astype(np.float32))
            for part in tasks
        },
    )  # fmt: skip
    size = len(encode(rows.table()))
    assert checkpoint_file_bytes(words, n_tasks, choices) == pytest.approx(size, rel=0.1)


def test_plan_without_a_profile_has_no_hours(root: Path) -> None:
    plan = plan_extraction(extract_config(root), None)
    assert plan.engine_hours is None
    assert plan.store_gigabytes > 0


def test_status_of_an_extraction_that_has_not_begun(root: Path) -> None:
    status = extraction_status(extract_config(root))
    assert (status.listed, status.done, status.left, status.running) == (4, 0, 4, 0)
    assert not (root / "store").exists()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "jobs/configs/hardware").glob("*.yaml")), ids=lambda path: path.stem
)
def test_profiles_load_and_say_where_they_are_from(path: Path) -> None:
    profile = load_config(HardwareProfile, path)
    assert profile.name == path.stem
    assert profile.source
