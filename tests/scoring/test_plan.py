"""What an extraction would cost, against what it does."""

from pathlib import Path

import pytest
from tiny_checkpoints import WINDOW, extract_config, save_two_runs

from neuneu.core.config import load_config
from neuneu.scoring.corpus import load_corpus
from neuneu.scoring.evaluation import make_workload
from neuneu.scoring.plan import HardwareProfile, extraction_status, plan_extraction
from neuneu.scoring.tasks import load_tasks

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
    tasks = load_tasks(config.tasks, limit=None, seed=0, text=None)
    corpus = load_corpus(config.corpus, max_words=400)
    tokenizer = AutoTokenizer.from_pretrained(root / "checkpoints/a/step-1")
    workload = make_workload(tasks, corpus, tokenizer, max_tokens=WINDOW - 1)
    assert plan.corpus_tokens + plan.task_tokens == 4 * workload.n_tokens
    assert plan.corpus_tokens == 4 * sum(map(len, workload.corpus.prompts))
    assert plan.task_tokens_shared <= plan.task_tokens
    assert (plan.to_score, plan.architectures, plan.tokenizers) == (4, 2, 1)
    assert plan.gigabytes_to_move == 0
    assert plan.engine_hours is not None
    scored = PROFILE.score_s(1e5, (plan.corpus_tokens + plan.task_tokens_shared) / 4)
    assert plan.engine_hours * 3600 == pytest.approx(4 * scored + 4 * 2 + 2 * 5)


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
