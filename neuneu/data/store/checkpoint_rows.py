"""What one commit adds to a store: a checkpoint's record, and the results of some of its parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray32
from neuneu.data.schemas import ACCURACIES, validate_accuracies
from neuneu.data.store.checkpoint_files import FILE_SCHEMA, LISTS
from neuneu.data.store.parts import Part
from neuneu.data.token_losses import check_stored

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskEvidence:
    """What a checkpoint makes of a task's R choices.

    `logprobs` and `unconditional` (R,) are sums in nats; `ties` counts the items whose best choice
    several share.
    """

    logprobs: FloatArray32
    unconditional: FloatArray32 | None = None
    ties: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckpointRows:
    """One checkpoint, as rows of the tidy tables.

    Each row belongs to a part: accuracies to the task, losses to the text or task of their name,
    token losses to the text of their hash. `parts` says what else is known about these; those it
    leaves out have no hash.
    """

    checkpoint: dict[str, Any]
    accuracies: Rows
    losses: Rows
    token_losses: Rows
    parts: Sequence[Part] = ()
    evidence: Mapping[Part, TaskEvidence] = field(default_factory=dict)

    def table(self) -> pa.Table:
        """Return rows of `FILE_SCHEMA`: the checkpoint, then its parts.

        Raises:
            DataError: rows that do not fit their schemas, or belong to another checkpoint; token
                losses that float16 does not hold.
        """
        identity = {key: self.checkpoint[key] for key in ("suite", "run", "step")}
        for name in LISTS:
            if any(not identity.items() <= row.items() for row in getattr(self, name)):
                raise DataError(f"{name}: a row does not belong to checkpoint {identity}.")
        if self.accuracies:
            rows = pa.Table.from_pylist(self.accuracies, schema=ACCURACIES)
            validate_accuracies(rows, name=f"accuracies of {identity}")
        for row in self.token_losses:
            check_stored(row["losses"], name=f"token losses of {identity}")
        own = identity | {"attempts": self.checkpoint["attempts"] or 0, "n_choices": 0}
        status = self.checkpoint["status"]
        empty: dict[str, Any] = {"name": "", "num_fewshot": 0, "hash": ""}
        table = [own | empty | {"kind": status, "checkpoint": self.checkpoint}]
        for part, lists in self._by_part().items():
            found = self.evidence.get(part)
            row = own | vars(part) | lists
            if found is not None:
                row |= {name: getattr(found, name) for name in ("logprobs", "unconditional")}
                row |= {"ties": found.ties, "n_choices": len(found.logprobs)}
            table.append(row)
        columns = [[row.get(column) for row in table] for column in FILE_SCHEMA.names]
        try:
            arrays = [
                pa.array(column, kind)
                for column, kind in zip(columns, FILE_SCHEMA.types, strict=True)
            ]
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"checkpoint {identity}: {error}.") from error
        return pa.Table.from_arrays(arrays, schema=FILE_SCHEMA)

    def _by_part(self) -> dict[Part, dict[str, Rows]]:
        slots = {part.slot: part for part in self.parts}
        texts = {part.hash: part for part in self.parts if part.kind == "corpus"}
        found: dict[Part, dict[str, Rows]] = {part: {} for part in self.parts}

        def add(part: Part, name: str, row: dict[str, Any]) -> None:
            found.setdefault(part, {}).setdefault(name, []).append(row)

        for row in self.accuracies:
            part = Part("task", row["task"], row["num_fewshot"] or 0)
            add(slots.get(part.slot, part), "accuracies", row)
        for row in self.losses:
            text = Part("corpus", row["name"])
            task = slots.get(("task", row["name"], row["num_fewshot"] or 0))
            add(slots.get(text.slot) or task or text, "losses", row)
        text = next((part for part in found if part.kind == "corpus"), Part("corpus", ""))
        for row in self.token_losses:
            add(texts.get(row["corpus_hash"], text), "token_losses", row)
        return found
