"""References to checkpoints: where a language model's weights are, and how far it was trained.

A suite of ours is a folder of ordinary Hugging Face checkpoints `<run>/step-<N>/`, on local disk
or S3, each with a `neuneu.json` beside `config.json` and `model.safetensors`. That file is
written last: a folder without it is an unfinished save and is not listed.
"""

import difflib
import itertools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from neuneu.core.errors import CheckpointError, DataError
from neuneu.core.files import parse_mapping, write_text_atomic
from neuneu.core.storage import THREADS, Folder
from neuneu.data.cells import quoted
from neuneu.data.checks import LARGEST

METADATA_FILE: Final = "neuneu.json"
_NAMES: Final = ("family", "suite", "run")
_NUMBERS: Final = ("params", "tokens", "flops", "planned_tokens")
# File names in a store have twelve digits for the step.
_STEPS: Final = 10**12


@dataclass(frozen=True, kw_only=True)
class CheckpointRef:
    """One checkpoint of one training run.

    `params` counts distinct weights; `tokens` were trained on up to `step`; `planned_tokens` is the
    planned end of the run (None if unknown); `flops` are in FLOPs, by convention
    6 x params x tokens. `uri` is a local folder, `s3://bucket/folder` or
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
    """A file of a checkpoint: its size in bytes, and its SHA-256 where the store has one."""

    size: int
    sha256: str | None = None


def write_metadata(folder: Path, ref: CheckpointRef) -> None:
    """Mark a checkpoint folder as complete; call it after all other files are written."""
    record = {key: value for key, value in asdict(ref).items() if key not in {"uri", "revision"}}
    write_text_atomic(folder / METADATA_FILE, json.dumps(record, indent=1) + "\n")


def list_local(root: str | Path) -> list[CheckpointRef]:
    """List a local folder; the locations of its checkpoints are absolute."""
    return list_folder(Folder(Path(root).resolve()))


def list_folder(root: Folder) -> list[CheckpointRef]:
    """List the finished checkpoints below `root`, sorted by suite, run and step; no hidden folders.

    Raises:
        DataError: none found, an invalid metadata file, or a checkpoint listed twice.
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
    """Sort checkpoints by suite, run and step.

    Raises:
        DataError: one of them occurs twice.
    """
    ordered = sorted(refs, key=lambda ref: ref.key)
    for ref, following in itertools.pairwise(ordered):
        if ref.key == following.key:
            raise DataError(
                f"checkpoint {ref.key} is in both {ref.uri} and {following.uri}; remove one."
            )
    return ordered


def check(ref: CheckpointRef, *, where: str) -> CheckpointRef:
    """Return the checkpoint after checking its names and numbers.

    Args:
        ref: the checkpoint.
        where: what messages call it.

    Raises:
        DataError: an impossible value, with what was expected.
    """
    for name in _NAMES:
        value: object = getattr(ref, name)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise DataError(
                f"{where}: {name} = {quoted(value)}; expected a name of printable characters."
            )
    # Neither True nor 1.0: a step is part of a file name.
    if type(ref.step) is not int or not 0 <= ref.step < _STEPS:
        raise DataError(
            f"{where}: step = {quoted(ref.step)}; expected a whole number from 0 to {_STEPS - 1}."
        )
    for name in _NUMBERS:
        value = getattr(ref, name)
        if name == "planned_tokens" and value is None:
            continue
        from_zero = ref.step == 0 and name in {"tokens", "flops"}
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
        if not (0 < number <= LARGEST or (from_zero and number == 0)):
            least = "a number of at least 0" if from_zero else "a positive number"
            optional = ", or null" if name == "planned_tokens" else ""
            raise DataError(
                f"{where}: {name} = {quoted(value)}; expected {least} of at most "
                f"{LARGEST:g}{optional}."
            )
    return ref


def _read_metadata(root: Folder, name: str) -> CheckpointRef:
    where = f"{root}/{name}"
    try:
        record = parse_mapping(root.read(name), METADATA_FILE)
    except CheckpointError as error:
        raise DataError(f"{root}/{name.removesuffix(METADATA_FILE)}{error}") from error
    fields = (*_NAMES, "step", *_NUMBERS)
    for unknown in sorted(record.keys() - set(fields)):
        near = difflib.get_close_matches(unknown, fields, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}."
        raise DataError(f"{where}: unknown key {quoted(unknown)}; {hint}")
    for missing in (field for field in fields if field not in record):
        raise DataError(f"{where}: {missing} is missing; expected {', '.join(fields)}.")
    ref = CheckpointRef(**record, uri=where.removesuffix(f"/{METADATA_FILE}"))
    return check(ref, where=where)
