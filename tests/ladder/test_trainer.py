import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuneu.core.config import build_config
from neuneu.core.errors import DataError, NeuneuError
from neuneu.data.checkpoints import list_local
from neuneu.ladder.config import SuiteConfig
from neuneu.ladder.folders import SuiteFolder
from neuneu.ladder.runs import RunPlan, plan_runs
from neuneu.ladder.text import prepare_text
from neuneu.ladder.tokenizer import tokenize_recipe, train_tokenizer
from neuneu.ladder.trainer import RunTrainer

from .conftest import weight_hashes

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


class InterruptedRunError(Exception):
    """Stands for anything that ends a process."""


def _plans(suite: dict[str, Any], root: Path) -> dict[str, RunPlan]:
    config = build_config(SuiteConfig, suite | {"output": str(root)})
    folder = SuiteFolder(root)
    text = prepare_text(config.text, folder.text)
    train_tokenizer(text, config.vocab_size, folder.tokenizer, context_length=config.context_length)
    for recipe in text.recipes:
        tokenize_recipe(text.train(recipe), folder.tokenizer, folder.tokens(recipe))
    return {plan.size_name: plan for plan in plan_runs(config, text.recipes, folder)}


@pytest.mark.parametrize("size", ["tied", "untied"])
def test_run_saves_checkpoints_that_transformers_loads_and_its_loss_falls(
    tiny_suite: dict[str, Any], tmp_path: Path, size: str
) -> None:
    plan = _plans(tiny_suite, tmp_path)[size]
    RunTrainer(plan, CPU).train()

    assert plan.finished
    refs = list_local(tmp_path / "checkpoints")
    assert [ref.step for ref in refs] == list(plan.checkpoint_steps)
    assert {ref.run for ref in refs} == {f"{size}-all-s0"}
    assert refs[-1].tokens == refs[-1].planned_tokens == plan.size.total_steps * 128
    model = AutoModelForCausalLM.from_pretrained(refs[-1].uri)
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings == (size == "tied")
    assert refs[-1].params == sum(weight.numel() for weight in model.parameters())
    assert refs[-1].flops == 6 * refs[-1].params * refs[-1].tokens
    assert len(AutoTokenizer.from_pretrained(refs[-1].uri)) == model.config.vocab_size

    steps, tokens, losses = np.loadtxt(
        plan.folder.losses(plan.name), delimiter=",", skiprows=1, unpack=True
    )
    assert steps.tolist() == list(range(1, plan.size.total_steps + 1))
    assert (tokens == 128 * steps).all()
    assert losses[0] == pytest.approx(np.log(300), abs=0.3)
    assert losses[-10:].mean() < losses[0] - 2


@pytest.mark.parametrize("stop_after", [3, 40, 250])
def test_interrupted_run_gives_the_same_weights_and_keeps_finished_checkpoints(
    tiny_suite: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    undisturbed = _plans(tiny_suite, tmp_path / "a")["tied"]
    RunTrainer(undisturbed, CPU).train()
    plan = _plans(tiny_suite, tmp_path / "b")["tied"]
    train_step = RunTrainer._train_step

    def interrupted_step(trainer: RunTrainer) -> None:
        if trainer.step == stop_after:
            raise InterruptedRunError
        train_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "_train_step", interrupted_step)
        with pytest.raises(InterruptedRunError):
            RunTrainer(plan, CPU).train()
    saved = {step: plan.checkpoint(step).stat() for step in plan.checkpoint_steps[:-1]
             if step <= stop_after}  # fmt: skip
    assert saved
    assert not plan.finished

    trainer = RunTrainer(plan, CPU)
    assert trainer.step == max(saved)
    trainer.train()
    assert weight_hashes(tmp_path / "b/checkpoints") == weight_hashes(tmp_path / "a/checkpoints")
    assert (
        plan.folder.losses(plan.name).read_text()
        == undisturbed.folder.losses(undisturbed.name).read_text()
    )
    for step, stat in saved.items():
        assert plan.checkpoint(step).stat().st_mtime_ns == stat.st_mtime_ns


def test_run_stopped_between_state_and_checkpoint_writes_it_from_the_state(
    tiny_suite: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plans(tiny_suite, tmp_path)["untied"]
    RunTrainer(plan, CPU).train()
    expected = weight_hashes(plan.folder.checkpoints)
    last = plan.checkpoint(plan.size.total_steps)
    for file in last.iterdir():
        file.unlink()
    last.rmdir()

    def no_step(_: RunTrainer) -> None:
        raise AssertionError("no step should be trained again")

    monkeypatch.setattr(RunTrainer, "_train_step", no_step)
    RunTrainer(plan, CPU).train()
    assert weight_hashes(plan.folder.checkpoints) == expected


def test_removed_checkpoint_is_trained_again_from_the_start(
    tiny_suite: dict[str, Any], tmp_path: Path
) -> None:
    plan = _plans(tiny_suite, tmp_path)["untied"]
    RunTrainer(plan, CPU).train()
    expected = weight_hashes(plan.folder.checkpoints)
    removed = plan.checkpoint(plan.checkpoint_steps[2])
    removed.rename(tmp_path / "moved away")
    trainer = RunTrainer(plan, CPU)
    assert trainer.step == 0
    trainer.train()
    assert weight_hashes(plan.folder.checkpoints) == expected


def test_unfinished_saves_of_a_killed_process_are_not_listed(
    tiny_suite: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plans(tiny_suite, tmp_path)["tied"]
    RunTrainer(plan, CPU).train()
    last = plan.checkpoint(plan.size.total_steps)
    leftover = plan.folder.scratch(plan.name) / ".step.tmp"
    last.rename(leftover)
    assert plan.size.total_steps not in {ref.step for ref in list_local(plan.folder.checkpoints)}
    RunTrainer(plan, CPU).train()
    assert plan.finished
    assert not leftover.exists()


def test_state_that_is_no_state_is_refused_with_what_to_do(
    tiny_suite: dict[str, Any], tmp_path: Path
) -> None:
    plan = _plans(tiny_suite, tmp_path)["tied"]
    state = plan.folder.state(plan.name)
    state.parent.mkdir(parents=True)
    state.write_bytes(b"not a state")
    with pytest.raises(DataError, match=r"state\.pt: not readable .* delete it"):
        RunTrainer(plan, CPU)


def test_state_with_code_is_not_executed(tiny_suite: dict[str, Any], tmp_path: Path) -> None:
    plan = _plans(tiny_suite, tmp_path)["tied"]
    plan.folder.state(plan.name).parent.mkdir(parents=True)
    torch.save({"step": Path("/")}, plan.folder.state(plan.name))
    with pytest.raises(DataError, match="not readable as a training state"):
        RunTrainer(plan, CPU)


def test_loss_that_is_not_finite_stops_the_run(tiny_suite: dict[str, Any], tmp_path: Path) -> None:
    plan = _plans(tiny_suite, tmp_path)["tied"]
    trainer = RunTrainer(plan, CPU)
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NeuneuError, match=r"loss is nan at step 1; lower sizes\.tied\.lr"):
        trainer.train()
    progress = json.loads(plan.folder.progress(plan.name).read_text())
    assert progress == {"step": 0, "tokens": 0}
