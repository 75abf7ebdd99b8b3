"""Word losses of a validation text at every checkpoint of the ladder, for what reads them.

    .venv/bin/python benchmarks/evidence/tokens.py ../shared WORK

Scores the checkpoints that `ladder.py` left in WORK with transformers in float32. An interrupted
run resumes, and runs that were not finished are scored the next time.

WORK/tokens/RUN/STEP.npz has `words` (W,) float16, the losses of the words in nats, clipped and
rounded as a store keeps them, and `loss`, the mean in nats per token; WORK/tokens/tokens.json says
which text it was and what was spent.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

import numpy as np
import torch

from evidence.ladder import BATCH_TOKENS, RECIPES, suite_config
from neuneu.core.errors import UserError
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.ladder.folders import SuiteFolder
from neuneu.ladder.runs import RunPlan, plan_runs
from neuneu.ladder.text import TextFolder
from neuneu.ladder.tokenizer import load_tokenizer
from neuneu.scoring.corpus import Corpus, EncodedCorpus, encode_corpus, load_corpus, prefix_token
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packed_scorer import PackedScorer

WORDS: Final = 10_000
ENGINE: Final = EngineConfig(kind="packed", dtype="float32", max_num_batched_tokens=BATCH_TOKENS)
_MAX_FLOAT16: Final = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """The validation text, as it is and as prompts."""

    corpus: Corpus
    encoded: EncodedCorpus

    def describe(self) -> dict[str, Any]:
        """Return what identifies the text, and its size."""
        return {
            "corpus_hash": self.corpus.hash,
            "words": self.corpus.n_words,
            "tokens": len(self.encoded.token_words),
        }


def read_text(folder: SuiteFolder, *, context_length: int, words: int = WORDS) -> Text:
    """Read the first words of the ladder's validation text.

    Raises:
        UserError: The ladder has none yet.
    """
    path = TextFolder(path=folder.text, recipes=tuple(RECIPES)).validation
    if not path.exists() or not folder.tokenizer.exists():
        raise UserError(f"{path}: found nothing; run benchmarks/evidence/ladder.py first.")
    corpus = load_corpus(path, max_words=words)
    tokenizer = load_tokenizer(folder.tokenizer)
    encoded = encode_corpus(
        corpus, tokenizer, prefix_token=prefix_token(tokenizer), max_tokens=context_length - 1
    )
    return Text(corpus=corpus, encoded=encoded)


def score_run(plan: RunPlan, text: Text, folder: Path) -> float:
    """Score the checkpoints of a run that `folder` lacks; return the CPU seconds that it took."""
    started = time.process_time()
    for step in plan.checkpoint_steps[1:]:
        path = folder / plan.name / f"{step:06d}.npz"
        if path.exists():
            continue
        scorer = PackedScorer(ENGINE, plan.checkpoint(step))
        losses = text.encoded.losses(scorer.score(text.encoded.prompts))
        words = losses.word_losses.clip(0, _MAX_FLOAT16).astype(np.float16)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, words=words, loss=losses.nats_per_token)
    return time.process_time() - started


def read_record(path: Path, text: Text) -> dict[str, Any]:
    """Return what was scored so far.

    Raises:
        UserError: It was another text.
    """
    record: dict[str, Any] = text.describe() | {"cpu_seconds": 0.0}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
    if record["corpus_hash"] != text.corpus.hash:
        raise UserError(
            f"{path}: expected losses of the text {text.corpus.hash}, found those of "
            f"{record['corpus_hash']}; delete {path.parent} to score the new text."
        )
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with corpus/")
    parser.add_argument("work", type=Path, help="folder that ladder.py wrote")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = arguments.work.resolve()
    config = suite_config(arguments.shared.resolve(), work)
    folder = SuiteFolder(config.output)
    target = work / "tokens"
    try:
        text = read_text(folder, context_length=config.context_length)
        record = read_record(target / "tokens.json", text)
    except UserError as error:
        raise SystemExit(str(error)) from error
    for plan in plan_runs(config, list(RECIPES), folder):
        if not plan.finished:
            print(plan.name, "is not finished", flush=True)
            continue
        record["cpu_seconds"] += score_run(plan, text, target)
        write_text_atomic(target / "tokens.json", json.dumps(record, indent=1) + "\n")
        print(plan.name, f"{record['cpu_seconds']:.0f} CPU seconds so far", flush=True)


if __name__ == "__main__":
    main()
