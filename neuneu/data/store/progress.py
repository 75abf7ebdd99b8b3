"""What a store has of each checkpoint, counted for tens of thousands of them at once."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.data.arrays import IntArray
from neuneu.data.store.checkpoint_files import KEYS, Key, codes
from neuneu.data.store.parts import Part, Progress, Slot

_CHECKPOINT: Final = ("suite", "run", "step")
_TEXTS: Final = ("kind", "name", "hash")
_NUMBERS: Final = ("num_fewshot", "n_choices")


def progress_by_checkpoint(
    pieces: Iterable[pa.Table], meanings: Mapping[Slot, str]
) -> dict[Key, Progress]:
    """Return what was committed of each checkpoint, by (suite, run, step).

    Args:
        pieces: rows that count, from `checkpoint_files.winners`; those of a checkpoint follow each
            other.
        meanings: hashes of the names of parts, for rows without one (version 1).
    """
    rows = pa.concat_tables([piece.select(KEYS.names) for piece in pieces] or [KEYS.empty_table()])
    if not rows.num_rows:
        return {}
    starts = _starts(rows)
    kinds = rows.column("kind")
    done, quarantined = (
        np.logical_or.reduceat(np.asarray(pc.equal(kinds, kind)), starts)
        for kind in ("done", "quarantined")
    )
    attempts = np.maximum.reduceat(_numbers(rows.column("attempts")), starts)
    keys = rows.select(_CHECKPOINT).take(pa.array(starts))
    columns = (keys.column(name).to_pylist() for name in _CHECKPOINT)
    values = (done.tolist(), quarantined.tolist(), attempts.tolist())
    parts = _parts(rows, starts, meanings)
    return {
        key: Progress(parts=mapping, done=is_done, quarantined=failed, attempts=number)
        for key, mapping, is_done, failed, number in zip(
            zip(*columns, strict=True), parts, *values, strict=True
        )
    }


def _starts(rows: pa.Table) -> IntArray:
    """(C,) index of the first row of each checkpoint."""
    suite, run = (codes(rows.column(name)) for name in ("suite", "run"))
    columns = (suite, run, _numbers(rows.column("step")))
    changes = np.any([np.diff(values, prepend=-1) != 0 for values in columns], axis=0)
    return np.flatnonzero(changes)


def _parts(
    rows: pa.Table, starts: IntArray, meanings: Mapping[Slot, str]
) -> list[Mapping[Part, int]]:
    """(C,) the parts of each checkpoint; checkpoints with the same parts share one mapping."""
    scored = np.asarray(pc.is_in(rows.column("kind"), pa.array(["task", "corpus"])))
    if not scored.any():
        return [{}] * len(starts)
    stops = np.cumsum(np.add.reduceat(scored.astype(np.int64), starts))
    table = rows.filter(pa.array(scored))
    # Equal rows get equal numbers; the next column splits them further.
    numbers = np.zeros(table.num_rows, np.int64)
    for values in (
        *(codes(pc.fill_null(table.column(name), "")) for name in _TEXTS),
        *(_numbers(table.column(name)) for name in _NUMBERS),
    ):
        numbers = numbers * (values.max(initial=0) + 1) + values
        numbers = np.unique(numbers, return_inverse=True)[1]
    first = np.unique(numbers, return_index=True)[1]
    distinct = [
        (_part(row, meanings), row["n_choices"] or 0)
        for row in table.take(pa.array(first)).to_pylist()
    ]
    known: dict[bytes, Mapping[Part, int]] = {}
    found = []
    for start, stop in itertools.pairwise([0, *stops.tolist()]):
        own = numbers[start:stop]
        pattern = own.tobytes()
        if pattern not in known:
            known[pattern] = dict(distinct[number] for number in own)
        found.append(known[pattern])
    return found


def _part(row: Mapping[str, str | int], meanings: Mapping[Slot, str]) -> Part:
    part = Part(row["kind"], row["name"], row["num_fewshot"], row["hash"])  # type: ignore[arg-type]
    return part if part.hash else Part(*part.slot, hash=meanings.get(part.slot, ""))


def _numbers(column: pa.ChunkedArray) -> IntArray:
    return np.asarray(pc.fill_null(column, 0), np.int64)
