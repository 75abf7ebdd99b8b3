"""A small text and a tiny ladder's config, shared by the tests of suites."""

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

_WORDS = ("the", "cat", "dog", "house", "runs", "jumps", "under", "red", "blue", "large", "then")


def _document(rng: random.Random) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(80)) + f" {rng.random()}.\n"


@pytest.fixture
def write_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Writes a parquet of documents a source and returns its path."""

    def write(documents: dict[str, int] | None = None, name: str = "corpus.parquet") -> Path:
        rng = random.Random(0)
        rows = [
            {"source": source, "doc_id": f"{source}-{number}", "text": _document(rng)}
            for source, count in (documents or {"news": 60, "books": 40, "web": 50}).items()
            for number in range(count)
        ]
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    return write


@pytest.fixture
def tiny_suite(write_corpus: Callable[..., Path]) -> dict[str, Any]:
    """A ladder of two sizes (tied and untied) and one recipe, as its YAML would hold it."""
    return {
        "text": {"path": str(write_corpus()), "recipes": {"all": ["news", "books", "web"]}},
        "vocab_size": 300,
        "context_length": 32,
        "checkpoints": 5,
        "early_checkpoints": 1,
        "sizes": {
            "tied": {
                "width": 32,
                "layers": 1,
                "heads": 2,
                "tokens": 40_000,
                "batch_tokens": 128,
                "tied_embeddings": True,
            },
            "untied": {
                "width": 48,
                "layers": 1,
                "heads": 2,
                "tokens": 40_000,
                "batch_tokens": 128,
            },
        },
        "resources": {"max_concurrent_runs": 1},
    }


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch with one thread, as a run has by default."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weight_hashes(checkpoints: Path) -> dict[str, str]:
    """`<run>/step-<N>` -> the hash of its weights file."""
    return {
        path.parent.relative_to(checkpoints).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(checkpoints.glob("*/*/model.safetensors"))
    }
