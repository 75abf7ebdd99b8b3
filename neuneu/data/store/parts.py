"""Parts of a store: the tasks and validation texts that its checkpoints are scored on.

Results are keyed by checkpoint and part, so that a further task or text costs only itself. A name
means one content within a store: `parts/` has a file for each, created by the first extraction
that asks for it, and another content under that name is refused.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from neuneu.core.errors import StoreError
from neuneu.core.storage import THREADS, Folder
from neuneu.data.store.names import safe_name

PARTS: Final = "parts"
"""The folder of a store that says what its names of tasks and texts mean."""

PartKind = Literal["task", "corpus"]
Slot = tuple[PartKind, str, int]
"""(kind, name, num_fewshot): what may have one content in a store."""


@dataclass(frozen=True, order=True)
class Part:
    """A task with its number of shots, or a validation text (0 shots).

    `hash` identifies the content; it is "" in results of version 1 whose content is unknown.
    """

    kind: PartKind
    name: str
    num_fewshot: int = 0
    hash: str = ""

    @property
    def slot(self) -> Slot:
        """What may have one content in a store."""
        return (self.kind, self.name, self.num_fewshot)

    def __str__(self) -> str:
        """How messages name it."""
        shots = f" ({self.num_fewshot}-shot)" if self.num_fewshot else ""
        return f"{'task' if self.kind == 'task' else 'text'} {self.name!r}{shots}"


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """A part and its rows of the task table (`schemas.TASKS`); a text has none."""

    part: Part
    tasks: tuple[Mapping[str, Any], ...] = ()

    def encode(self) -> bytes:
        """The content of the part's file."""
        record = {**vars(self.part), "tasks": [dict(row) for row in self.tasks]}
        return (json.dumps(record, indent=1) + "\n").encode()


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a store has of one checkpoint.

    `parts` maps its parts to the number of stored log-probabilities, 0 for texts and where only
    the scores are known. `quarantined` is whether the last attempt failed.
    """

    parts: Mapping[Part, int] = field(default_factory=dict)
    done: bool = False
    quarantined: bool = False
    attempts: int = 0

    def missing(self, wanted: Iterable[Part], *, evidence: bool = False) -> list[Part]:
        """The wanted parts that are not there, with `evidence` also tasks without any."""
        return [
            part
            for part in wanted
            if part not in self.parts or (evidence and part.kind == "task" and not self.parts[part])
        ]


def record_name(slot: Slot) -> str:
    """The name in a store of a part's file."""
    kind, name, num_fewshot = slot
    return f"{PARTS}/{kind}-{num_fewshot}-{safe_name(name)}.json"


def read_records(folder: Folder) -> dict[Slot, PartRecord]:
    """Read what the names of a store mean.

    Raises:
        StoreError: a file that is no such record.
    """
    names = [f"{PARTS}/{name}" for name in (folder / PARTS).files(".json")]
    with ThreadPoolExecutor(THREADS) as pool:
        records = list(pool.map(lambda name: _read(folder, name), names))
    return {record.part.slot: record for record in records}


def claim(folder: Folder, records: Iterable[PartRecord]) -> None:
    """Give names their meanings in a store; of several extractions at once, one wins.

    Raises:
        StoreError: a name that means another content there.
    """

    def create(record: PartRecord) -> None:
        name, content = record_name(record.part.slot), record.encode()
        if folder.create(name, content):
            return
        found = _read(folder, name)
        if found.part.hash != record.part.hash:
            raise StoreError(
                f"store {folder} has another {record.part} (content {found.part.hash}, this run "
                f"{record.part.hash}): other documents, prompts, limit, seed or number of words. "
                "Write to another store, or use the setting of this one."
            )
        if found != record:  # more is known about it, such as further metrics
            folder.write(name, content)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(create, records))


def _read(folder: Folder, name: str) -> PartRecord:
    try:
        record = json.loads(folder.read(name))
        tasks = tuple(record.pop("tasks"))
        return PartRecord(part=Part(**record), tasks=tasks)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{folder}/{name}: not readable as a record of a task or text. Delete this file and "
            "run the extraction again: it writes the record first."
        ) from error
