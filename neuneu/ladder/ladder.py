"""A suite: a ladder of small language models, one run per size, recipe and seed."""

import json
from collections.abc import Sequence
from typing import Any

from neuneu.core.config import config_to_dict, save_config
from neuneu.core.errors import DataError, UserError
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.data.checkpoints import CheckpointRef, list_local
from neuneu.ladder.config import SuiteConfig
from neuneu.ladder.folders import SuiteFolder
from neuneu.ladder.runs import RunPlan, plan_runs
from neuneu.ladder.text import TextFolder, differences, prepare_text
from neuneu.ladder.tokenizer import tokenize_recipe, train_tokenizer


def train_suite(config: SuiteConfig, *, address: str | None = None) -> list[CheckpointRef]:
    """Train the missing runs of a ladder and list all its checkpoints.

    A rerun resumes an interrupted suite. Existing checkpoints are not written again, and all
    weights equal those of an undisturbed suite bit for bit. Sizes and seeds may be added to a
    suite, but settings that determine the weights of existing runs cannot change.

    Args:
        config: The ladder; `config.output` must be on a file system that all nodes share.
        address: Ray cluster; see `ray_session`. Ray is not started if there is no run to train.

    Returns:
        The checkpoints in `<output>/checkpoints`, sorted by run and step. The output also contains
        `text/`, `tokenizer/`, `training_losses.csv` and the resolved config `suite.yaml`.

    Raises:
        UserError: `output` has another suite, or another process is writing it.
        NeuneuError: A run failed, or workers died more often than `resources.max_failures`.
    """
    from filelock import FileLock, Timeout

    folder = SuiteFolder(config.output.resolve())
    folder.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.root / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder.root}: another process is making a suite here; wait for it, or use another "
            "output folder."
        ) from error
    with lock:
        return _train_suite(config, folder, address)


def _train_suite(
    config: SuiteConfig, folder: SuiteFolder, address: str | None
) -> list[CheckpointRef]:
    from neuneu.core.ray_session import ray_session

    text = prepare_text(config.text, folder.text)
    plans = plan_runs(config, text.recipes, folder)
    _claim(config, folder, plans)
    unfinished = [plan for plan in plans if not plan.finished]
    if unfinished:
        _prepare_tokens(config, folder, text, {plan.recipe for plan in unfinished})
        done_tokens = sum(plan.planned_tokens for plan in plans if plan.finished)
        with ray_session(address):
            # Imported here because Ray reads the settings of the session on import.
            from neuneu.ladder.ray_runs import train_runs

            train_runs(unfinished, folder, done_tokens, config.resources)
    _write_training_losses(folder, plans)
    save_config(config, folder.root / "suite.yaml")
    return list_local(folder.checkpoints)


def _claim(config: SuiteConfig, folder: SuiteFolder, plans: Sequence[RunPlan]) -> None:
    """Record what the suite is made from; refuse a folder of another suite."""
    wanted: dict[str, Any] = {
        "family": config.family,
        "suite": config.suite,
        "text": config_to_dict(config.text),
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
    }
    runs = {plan.name: plan.identity() for plan in plans}
    known_runs: dict[str, Any] = {}
    if folder.record.exists():
        try:
            found = json.loads(folder.record.read_text(encoding="utf-8"))
            known_runs = found.pop("runs")
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise DataError(f"{folder.record}: not readable as a suite's record.") from error
        changed = differences(found, wanted) + [
            f"run {name}: {change}"
            for name in runs
            if name in known_runs
            for change in differences(known_runs[name], runs[name])
        ]
        if changed:
            raise UserError(
                f"{folder.root} has a suite of another config ({'; '.join(changed)}). "
                "Use another output folder, or the config of this one."
            )
    record = wanted | {"runs": known_runs | runs}
    write_text_atomic(folder.record, json.dumps(record, indent=1) + "\n")


def _prepare_tokens(
    config: SuiteConfig, folder: SuiteFolder, text: TextFolder, recipes: set[str]
) -> None:
    with stage("tokenize", total=1 + len(recipes)) as bar:
        train_tokenizer(
            text, config.vocab_size, folder.tokenizer, context_length=config.context_length
        )
        bar.advance()
        for recipe in sorted(recipes):
            tokenize_recipe(text.train(recipe), folder.tokenizer, folder.tokens(recipe))
            bar.advance()


def _write_training_losses(folder: SuiteFolder, plans: Sequence[RunPlan]) -> None:
    lines = ["run,step,tokens,loss_nats"]
    for plan in plans:
        rows = folder.losses(plan.name).read_text(encoding="utf-8").splitlines()[1:]
        lines += [f"{plan.name},{row}" for row in rows]
    write_text_atomic(folder.training_losses, "\n".join(lines) + "\n")
