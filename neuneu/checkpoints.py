"""Checkpoints as rows: where the weights of a language model lie and how far it was trained.

A suite of ours is a folder of ordinary Hugging Face checkpoints `<run>/step-<N>/`, on local disk
or S3, each with a `neuneu.json` beside `config.json` and `model.safetensors`. That file is
written last: a folder without it is an unfinished save and is not listed.
"""

import itertools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from neuneu.errors import DataError
from neuneu.files import write_text_atomic
from neuneu.storage import THREADS, Folder

METADATA_FILE: Final = "neuneu.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointRef:
    """One checkpoint of one training run.

    `params` counts every distinct weight; `tokens` were seen in training up to `step`;
    `planned_tokens` is the intended end of the run (None if unknown); `flops` are in FLOPs,
    by convention 6 x params x tokens. `uri` is a local folder, `s3://bucket/folder` or
    `hf://org/repo@branch`; `revision` the commit of that branch, None elsewhere.
    """

    family: str
    suite: str
    run: str
    params: float
    step: int
    tokens: float
    flops: float
    planned_tokens: float | None
    uri: str
    revision: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """(suite, run, step): unique in a store."""
        return (self.suite, self.run, self.step)


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint: its size in bytes, and its SHA-256 where the store tells."""

    size: int
    sha256: str | None = None


def write_metadata(folder: Path, ref: CheckpointRef) -> None:
    """Marks a checkpoint folder as complete; call it after every other file is written."""
    record = {key: value for key, value in asdict(ref).items() if key not in {"uri", "revision"}}
    write_text_atomic(folder / METADATA_FILE, json.dumps(record, indent=1) + "\n")


def list_local(root: str | Path) -> list[CheckpointRef]:
    """`list_folder` of a local folder; the addresses of the checkpoints are absolute."""
    return list_folder(Folder(Path(root).resolve()))


def list_folder(root: Folder) -> list[CheckpointRef]:
    """Every finished checkpoint below `root`, sorted by suite, run and step; no hidden folders.

    Raises:
        DataError: none found, a metadata file that is not one, or a checkpoint given twice.
    """
    names = [name for name in root.files(METADATA_FILE) if Path(name).name == METADATA_FILE]
    if not names:
        raise DataError(
            f"{root}: expected checkpoints (folders holding {METADATA_FILE}), found none; "
            "train a ladder with `neuneu suite`, or describe your own (docs/checkpoints.md)."
        )
    with ThreadPoolExecutor(THREADS) as pool:
        return in_order(pool.map(lambda name: _read_metadata(root, name), names))


def in_order(refs: Iterable[CheckpointRef]) -> list[CheckpointRef]:
    """Checkpoints by suite, run and step.

    Raises:
        DataError: one of them stands there twice.
    """
    ordered = sorted(refs, key=lambda ref: ref.key)
    for ref, following in itertools.pairwise(ordered):
        if ref.key == following.key:
            raise DataError(
                f"checkpoint {ref.key} stands in {ref.uri} and in {following.uri}; remove one."
            )
    return ordered


def _read_metadata(root: Folder, name: str) -> CheckpointRef:
    content = root.read(name)
    try:
        record = json.loads(content)
        return CheckpointRef(**record, uri=f"{root}/{name}".removesuffix(f"/{METADATA_FILE}"))
    except (ValueError, TypeError) as error:
        raise DataError(f"{root}/{name}: not a checkpoint's metadata ({error}).") from error
