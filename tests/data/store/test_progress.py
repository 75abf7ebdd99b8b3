"""Progress of many checkpoints at once is that of a plain loop over their rows."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.data.store.checkpoint_files import KEYS, Key, winners
from neuneu.data.store.parts import Part, Progress, Slot
from neuneu.data.store.progress import progress_by_checkpoint

MEANINGS: dict[Slot, str] = {("task", "a", 0): "h9", ("corpus", "v", 0): "hv"}

CHECKPOINT = st.fixed_dictionaries(
    {
        "suite": st.sampled_from(["s", "t"]),
        "run": st.sampled_from(["r", "r2"]),
        "step": st.integers(1, 3),
        "attempts": st.one_of(st.none(), st.integers(1, 3)),
    }
)
OWN = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["done", "quarantined"]),
        "name": st.just(""), "num_fewshot": st.just(0), "hash": st.just(""),
        "n_choices": st.just(0),
    }
)  # fmt: skip
PART = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["task", "corpus"]),
        "name": st.sampled_from(["a", "b", "v"]),
        "num_fewshot": st.sampled_from([0, 5]),
        "hash": st.sampled_from(["", "h1", "h2"]),
        "n_choices": st.one_of(st.none(), st.integers(0, 2)),
    }
)
FILES = st.lists(
    st.lists(st.builds(lambda a, b: a | b, CHECKPOINT, st.one_of(OWN, PART)), max_size=12),
    max_size=4,
)


def naive(pieces: list[pa.Table], meanings: Mapping[Slot, str]) -> dict[Key, Progress]:
    found: dict[Key, dict[str, Any]] = {}
    for row in (row for piece in pieces for row in piece.to_pylist()):
        key = (row["suite"], row["run"], row["step"])
        empty = {"parts": {}, "done": False, "quarantined": False, "attempts": 0}
        one = found.setdefault(key, empty)
        one["attempts"] = max(one["attempts"], row["attempts"] or 0)
        if row["kind"] in {"done", "quarantined"}:
            one[row["kind"]] = True
            continue
        part = Part(row["kind"], row["name"], row["num_fewshot"], row["hash"])
        if not part.hash:
            part = Part(*part.slot, hash=meanings.get(part.slot, ""))
        one["parts"][part] = row["n_choices"] or 0
    return {key: Progress(**one) for key, one in found.items()}


@given(FILES)
def test_progress_equals_that_of_a_loop(files: list[list[dict[str, Any]]]) -> None:
    tables = {f"{i}": pa.Table.from_pylist(rows, schema=KEYS) for i, rows in enumerate(files)}
    pieces = winners(tables)
    found, expected = progress_by_checkpoint(pieces, MEANINGS), naive(pieces, MEANINGS)
    assert found == expected
    assert list(found) == list(expected)
    assert [list(one.parts) for one in found.values()] == [
        list(one.parts) for one in expected.values()
    ]


@pytest.mark.parametrize("pieces", [[], [KEYS.empty_table()]])
def test_progress_of_nothing_is_empty(pieces: list[pa.Table]) -> None:
    assert progress_by_checkpoint(pieces, MEANINGS) == {}
