"""Checkpoints as rows: where the weights of a language model lie and how far it was trained.

A local suite is a folder of ordinary Hugging Face checkpoints `<run>/step-<N>/`, each with a
`neuneu.json` beside `config.json` and `model.safetensors`. That file is written last: a folder
without it is an unfinished save and is not listed.
"""

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from neuneu.errors import DataError
from neuneu.files import write_text_atomic

METADATA_FILE: Final = "neuneu.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointRef:
    """One checkpoint of one training run.

    `params` counts every distinct weight; `tokens` were seen in training up to `step`;
    `planned_tokens` is the intended end of the run (None if unknown); `flops` are in FLOPs,
    by convention 6 x params x tokens; `uri` is a folder.
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


def write_metadata(folder: Path, ref: CheckpointRef) -> None:
    """Marks a checkpoint folder as complete; call it after every other file is written."""
    record = {key: value for key, value in asdict(ref).items() if key not in {"uri", "revision"}}
    write_text_atomic(folder / METADATA_FILE, json.dumps(record, indent=1) + "\n")


def list_local(root: str | Path) -> list[CheckpointRef]:
    """Every finished checkpoint below `root`, sorted by suite, run and step; no hidden folders.

    Raises:
        DataError: no such folder, none found in it, or a metadata file that is not one.
    """
    root = Path(root)
    files = [
        path
        for path in sorted(root.glob(f"**/{METADATA_FILE}"))
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not files:
        raise DataError(
            f"{root}: expected checkpoints (folders holding {METADATA_FILE}), found none; "
            "train a ladder with `neuneu suite`, or describe your own (docs/data-contract.md)."
        )
    refs = []
    for path in files:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            refs.append(CheckpointRef(**record, uri=str(path.parent.resolve())))
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(f"{path}: not a checkpoint's metadata ({error}).") from error
    refs.sort(key=lambda ref: ref.key)
    for ref, following in itertools.pairwise(refs):
        if ref.key == following.key:
            raise DataError(
                f"checkpoint {ref.key} stands in {ref.uri} and in {following.uri}; remove one."
            )
    return refs
