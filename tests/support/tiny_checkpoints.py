"""Tiny Llama checkpoints with a byte-level tokenizer, and a corpus and tasks to score them on."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.data.checkpoints import CheckpointRef, write_metadata
from neuneu.scoring.config import ExtractConfig

VOCAB_SIZE = 320
WINDOW = 128
TEXT = [
    "The quick brown fox jumps over the lazy dog. It is 3.5 km away,  said   she.",
    "naïve café — “quotes” … 你好 世界 and the cat sat on the mat.\n\nThe end of it.",
    " ".join(f"word{i % 7} and the number {i}" for i in range(120)),
]


def save_model(folder: Path, *, tied: bool, seed: int, **changes: Any) -> None:
    """Save a Llama with two layers, random weights and a tokenizer, as `save_pretrained` does."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    settings: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": WINDOW,
        "tie_word_embeddings": tied,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # Large enough for differences of several nats between checkpoints.
            parameter.normal_(float(parameter.ndim == 1), 0.15, generator=generator)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)


def make_ref(folder: Path, *, run: str = "a", step: int = 1, suite: str = "tiny") -> CheckpointRef:
    """Write the metadata of a checkpoint folder, with tokens proportional to the step."""
    return CheckpointRef(
        family="tiny",
        suite=suite,
        run=run,
        params=1e5,
        step=step,
        tokens=1000.0 * step,
        flops=6e8 * step,
        planned_tokens=1e4,
        uri=str(folder),
    )


def save_checkpoint(root: Path, *, run: str, step: int, tied: bool, **changes: Any) -> Path:
    """Write a checkpoint `<root>/<run>/step-<step>`; weights depend on run and step."""
    folder = root / run / f"step-{step}"
    save_model(folder, tied=tied, seed=1000 * sum(map(ord, run)) + step, **changes)
    write_metadata(folder, make_ref(folder, run=run, step=step))
    return folder


def save_two_runs(root: Path) -> Path:
    """Write the inputs of `extract_config`: two runs of two architectures, two steps each."""
    for run, tied in (("a", True), ("b", False)):
        for step in (1, 2):
            save_checkpoint(root / "checkpoints", run=run, step=step, tied=tied)
    write_inputs(root)
    return root


def save_models(root: Path) -> Path:
    """Write models `tied`, `untied` and `later`, which is `untied` with other weights."""
    save_model(root / "tied", tied=True, seed=1)
    save_model(root / "untied", tied=False, seed=1)
    save_model(root / "later", tied=False, seed=2)
    return root


def change_config(folder: Path, **changes: object) -> None:
    """Set keys of `config.json`."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_weights(folder: Path, changes: Mapping[str, Any]) -> None:
    """Replace tensors of `model.safetensors`; None removes a tensor."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors") | dict(changes)
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder: Path, *, by: int = 100) -> None:
    """Truncate `model.safetensors`."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-by])


def copy_of(folder: Path, to: Path) -> Path:
    """Return a copy of a checkpoint, to be broken."""
    shutil.copytree(folder, to)
    return to


def write_inputs(root: Path, *, documents: list[str] | None = None, pairs: int = 6) -> None:
    """Write `corpus.parquet` and `pairs.parquet` (two minimal-pair tasks) to `root`."""
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": documents or TEXT}), root / "corpus.parquet")
    rows = [
        {
            "task": task,
            "field": "order",
            "pair_id": i,
            "sentence_good": f"The {noun} number {i} is {task}.",
            "sentence_bad": f"The {noun} number is {task} {i}.",
        }
        for task, noun in (("first", "cat"), ("second", "dog"))
        for i in range(pairs)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "pairs.parquet")


def extract_config(root: Path, **changes: Any) -> ExtractConfig:
    """Return a config that scores `root/checkpoints` into `root/store`."""
    settings: dict[str, Any] = {
        "checkpoints": root / "checkpoints",
        "store": root / "store",
        "corpus": root / "corpus.parquet",
        "corpus_words": 400,
        "tasks": (f"blimp:{root / 'pairs.parquet'}",),
        "engine": {"kind": "packed", "max_model_len": WINDOW, "max_num_batched_tokens": 512},
        "actors": 1,
    }
    return ExtractConfig(**(settings | changes))


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer
