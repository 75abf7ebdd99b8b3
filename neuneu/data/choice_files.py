"""Files of scored choices (`schemas.CHOICES`): one parquet file with the rows of many runs.

Rows are sorted by run, task and checkpoint, and written and read a part at a time: as columns of
numbers, 80,000 choices of 30 checkpoints take 20 MB, as rows of text hundreds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import DataError
from neuneu.core.files import atomic_path
from neuneu.data.choices import LENGTHS, Choices, ItemSet
from neuneu.data.schemas import CHOICES, check_version, conform

ROWS: Final = 1 << 18
"""Rows of a part, at most, unless one checkpoint of a task has more."""

FORMATS: Final = b"neuneu_task_formats"
"""Metadata of the file: the format of each task, which rows do not say."""

_TASK: Final = ("family", "suite", "run", "task", "task_hash", "num_fewshot")


def write_choices(parts: Sequence[Choices], path: Path) -> None:
    """Write scored choices as one parquet file, whole or not at all."""
    formats = {part.items.task_hash: part.items.format for part in parts}
    text = "\n".join(f"{task_hash} {kind}" for task_hash, kind in sorted(formats.items()))
    schema = CHOICES.with_metadata({**CHOICES.metadata, FORMATS: text.encode()})
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for part in sorted(parts, key=_order):
            most = max(1, ROWS // max(1, len(part.items.docs)))
            for start in range(0, len(part.steps), most):
                rows = part.at(slice(start, start + most)).table()
                writer.write_table(rows.cast(schema), row_group_size=max(rows.num_rows, 1))


def read_choices(path: Path) -> list[Choices]:
    """Read scored choices, one entry for each run and task, checkpoints in order.

    Raises:
        DataError: not such a file, or a task whose items differ between checkpoints.
    """
    name = str(path)
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name}: expected scored choices in parquet ({error}).") from error
    check_version(file.schema_arrow, name=name)
    formats = dict(
        line.split(" ", 1)
        for line in (file.schema_arrow.metadata or {}).get(FORMATS, b"").decode().splitlines()
    )
    found: dict[tuple, list[Choices]] = {}
    for key, part in _checkpoints(file, formats, name):
        found.setdefault(key, []).append(part)
    return [_joined(parts, name) for parts in found.values()]


def _order(part: Choices) -> tuple:
    return (part.family, part.suite, part.run, part.items.task, part.items.num_fewshot)


def _checkpoints(
    file: pq.ParquetFile, formats: dict[str, str], name: str
) -> Iterator[tuple[tuple, Choices]]:
    """Yield (run and task, the choices of one checkpoint)."""
    for group in range(file.num_row_groups):
        table = conform(file.read_row_group(group), CHOICES, name=name)
        if not table.num_rows:
            continue
        keys = [table.column(column).combine_chunks() for column in (*_TASK, "step")]
        codes = np.stack([key.dictionary_encode().indices.to_numpy() for key in keys])
        changed = (np.diff(codes, axis=1) != 0).any(axis=0)
        starts = np.append(0, np.flatnonzero(changed) + 1)
        arrays = {
            column: table.column(column).to_numpy()
            for column in (
                "doc", "choice", "label", "logprob", "unconditional_logprob", "tokens", "params",
                *LENGTHS,
            )
        }  # fmt: skip
        for start, stop in zip(starts, np.append(starts[1:], table.num_rows), strict=True):
            own = {column: values[start:stop] for column, values in arrays.items()}
            *who, step = (key[start].as_py() for key in keys)
            yield tuple(who), _checkpoint(dict(zip(_TASK, who, strict=True)), step, own, formats)


def _checkpoint(
    who: dict[str, Any], step: int, own: dict[str, Any], formats: dict[str, str]
) -> Choices:
    first = np.flatnonzero(np.diff(own["doc"], prepend=own["doc"][0] - 1))
    alone = own["unconditional_logprob"]
    return Choices(
        family=who["family"],
        suite=who["suite"],
        run=who["run"],
        params=float(own["params"][0]),
        items=ItemSet(
            task=who["task"],
            task_hash=who["task_hash"],
            format=formats.get(who["task_hash"], "rc"),
            num_fewshot=int(who["num_fewshot"]),
            docs=own["doc"].astype(np.int64),
            choices=own["choice"].astype(np.int64),
            labels=own["label"][first].astype(np.int64),
            **{name: np.nan_to_num(own[name]).astype(np.int64) for name in LENGTHS},
        ),
        steps=np.array([step], dtype=np.int64),
        tokens=own["tokens"][:1].astype(np.float64),
        logprobs=own["logprob"][None].astype(np.float32),
        unconditional=None if np.isnan(alone).any() else alone[None].astype(np.float32),
    )


def _joined(parts: Iterable[Choices], name: str) -> Choices:
    ordered = sorted(parts, key=lambda part: int(part.steps[0]))
    first = ordered[0]
    for part in ordered[1:]:
        same = all(
            np.array_equal(getattr(part.items, column), getattr(first.items, column))
            for column in ("docs", "choices", "labels")
        )
        if not same:
            raise DataError(
                f"{name}: task {first.items.task!r} of run {first.run!r} has other items at step "
                f"{part.steps[0]} than at step {first.steps[0]}; expected one task_hash to stand "
                "for the same items. Write the file again."
            )
    has_alone = all(part.unconditional is not None for part in ordered)
    return replace(
        first,
        steps=np.concatenate([part.steps for part in ordered]),
        tokens=np.concatenate([part.tokens for part in ordered]),
        logprobs=np.concatenate([part.logprobs for part in ordered]),
        unconditional=np.concatenate([part.unconditional for part in ordered])
        if has_alone
        else None,
    )
