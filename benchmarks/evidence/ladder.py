"""A small ladder on real text, every choice of every item of which is scored and kept.

    .venv/bin/python benchmarks/evidence/ladder.py ../shared WORK

Eight Llama-shaped runs (four sizes, two mixes of English text) with 15 checkpoints each, scored on
17 of BLiMP's tasks and on the generated tasks, 300 items each, with transformers on one core. An
interrupted run resumes: finished checkpoints and scores are kept.

WORK/scores/RUN/STEP.npz has `logprobs` (R,) float32, the summed log-probability of each request in
nats, and `loss`, the mean loss of a validation text in nats per token; WORK/items.npz describes the
R requests of all tasks, and WORK/scores.json the tasks and what was spent.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.data.choice_metrics import item_starts
from neuneu.ladder.config import SizeConfig, SuiteConfig
from neuneu.ladder.folders import SuiteFolder
from neuneu.ladder.runs import RunPlan, plan_runs
from neuneu.ladder.text import TextConfig, prepare_text
from neuneu.ladder.tokenizer import load_tokenizer, tokenize_recipe, train_tokenizer
from neuneu.ladder.trainer import RunTrainer
from neuneu.scoring.corpus import load_corpus
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packed_scorer import PackedScorer
from neuneu.scoring.evaluation import Workload, make_workload
from neuneu.scoring.multiple_choice import Task
from neuneu.scoring.tasks import load_tasks
from neuneu.scoring.wanted import Wanted

SIZES: Final = {
    "xxs": SizeConfig(width=48, layers=2, heads=2, tokens=1_000_000, batch_tokens=2_048,
                      tied_embeddings=True),
    "xs": SizeConfig(width=64, layers=2, heads=2, tokens=950_000, batch_tokens=2_048,
                     tied_embeddings=True),
    "s": SizeConfig(width=96, layers=3, heads=3, tokens=850_000, batch_tokens=2_048,
                    tied_embeddings=True),
    "m": SizeConfig(width=128, layers=4, heads=4, tokens=750_000, batch_tokens=2_048,
                    tied_embeddings=True),
}  # fmt: skip
RECIPES: Final = {"press": ("brown", "news"), "mixed": ("books", "reviews", "web")}
ITEMS: Final = 300
BLIMP_EVERY: Final = 4
CORPUS_WORDS: Final = 2_500
BATCH_TOKENS: Final = 4_096


def suite_config(shared: Path, work: Path) -> SuiteConfig:
    """Return the config of the ladder."""
    return SuiteConfig(
        output=work / "suite",
        suite="evidence",
        text=TextConfig(path=shared / "corpus" / "english.parquet", recipes=RECIPES),
        context_length=128,
        sizes=SIZES,
        checkpoints=15,
        early_checkpoints=4,
    )


def study_tasks(shared: Path, text: Path) -> list[Task]:
    """Return every fourth task of BLiMP, by name, and the generated ones."""
    blimp = load_tasks([f"blimp:{shared / 'tasks' / 'blimp.parquet'}"], limit=ITEMS, seed=0,
                       text=None)  # fmt: skip
    made = load_tasks(["generated"], limit=ITEMS, seed=0, text=text)
    return [*sorted(blimp, key=lambda task: task.name)[::BLIMP_EVERY], *made]


def write_items(workload: Workload, path: Path) -> None:
    """Write what the requests of all tasks are, in the order of the scores."""
    items = [task.items for task in workload.tasks]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(of, name) for of in items]).astype(np.int32)
        for name in ("docs", "choices", "n_tokens", "n_chars", "n_bytes")
    }
    labels = [
        np.repeat(of.labels, np.diff(item_starts(of.docs), append=len(of.docs))) for of in items
    ]
    columns["labels"] = np.concatenate(labels).astype(np.int32)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)


def score(scorer: PackedScorer, workload: Workload, path: Path) -> None:
    """Score the weights that the scorer holds and write `path`."""
    logprobs = scorer.score(workload.prompts)
    sums = [task.choices.sums(logprobs) for task in workload.tasks]
    (text,) = workload.texts
    losses = text.losses(logprobs)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, logprobs=np.concatenate(sums), loss=losses.nats_per_token)


def train(plan: RunPlan) -> float:
    """Train a run unless it is finished; return the CPU seconds that it took."""
    started = time.process_time()
    if not plan.finished:
        RunTrainer(plan, torch.device("cpu")).train()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with corpus/ and tasks/")
    parser.add_argument("work", type=Path, help="folder for the ladder and its scores")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shared, work = arguments.shared.resolve(), arguments.work.resolve()
    config = suite_config(shared, work)
    folder = SuiteFolder(config.output)
    text = prepare_text(config.text, folder.text)
    plans = plan_runs(config, text.recipes, folder)
    train_tokenizer(text, config.vocab_size, folder.tokenizer, context_length=config.context_length)
    for recipe in text.recipes:
        if not folder.tokens(recipe).exists():
            tokenize_recipe(text.train(recipe), folder.tokenizer, folder.tokens(recipe))
    tasks = study_tasks(shared, text.tasks)
    engine = EngineConfig(kind="packed", dtype="float32", max_num_batched_tokens=BATCH_TOKENS)
    wanted = Wanted(tasks=tasks, corpora=[load_corpus(text.validation, max_words=CORPUS_WORDS)])
    tokenizer = load_tokenizer(folder.tokenizer)
    workload = make_workload(wanted, tokenizer, max_tokens=config.context_length - 1)
    write_items(workload, work / "items.npz")
    record_path = work / "scores.json"
    spent = {"train": 0.0, "score": 0.0}
    if record_path.exists():
        spent = json.loads(record_path.read_text(encoding="utf-8"))["cpu_seconds"]
    for plan in plans:
        spent["train"] += train(plan)
        for step in plan.checkpoint_steps[1:]:
            path = work / "scores" / plan.name / f"{step:06d}.npz"
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            started = time.process_time()
            score(PackedScorer(engine, plan.checkpoint(step)), workload, path)
            spent["score"] += time.process_time() - started
        record = {
            "cpu_seconds": spent,
            "tokens_per_checkpoint": workload.n_tokens,
            "runs": {
                p.name: {
                    "params": p.cost_flops / 6 / p.planned_tokens,
                    "recipe": p.recipe,
                    "batch_tokens": p.size.batch_tokens,
                    "planned_tokens": p.planned_tokens,
                }
                for p in plans
            },
            "tasks": [
                {"task": t.name, "format": t.format, "chance": t.chance, "group": t.group,
                 "requests": len(t.requests), "items": t.n_items}
                for t in tasks
            ],
        }  # fmt: skip
        write_text_atomic(record_path, json.dumps(record, indent=1) + "\n")
        print(plan.name, {name: round(value) for name, value in spent.items()}, flush=True)


if __name__ == "__main__":
    main()
