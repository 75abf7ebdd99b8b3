"""Model sizes read from the names of runs (`pythia-410m`, `1.4b-c4-300B`), where no table has them.

A wrong size is worse than none: numbers of tokens, batch sizes and the like are not sizes, and a
name that could mean two sizes has none.
"""

import math
import re
from collections.abc import Collection, Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.formatting import format_count
from neuneu.data.cells import as_floats, quoted, without_nan

SMALLEST: Final = 1e6
LARGEST: Final = 99e9
"""Parameters of a model; larger numbers in names, `fineweb-100B`, count tokens."""

TOKENS: Final = 10e9
TOKENS_PER_PARAMETER: Final = 20.0
"""Beside a size, a number counts tokens if it is at least both of these."""

NAMED: Final = 3
"""Maximum number of runs to name in a note."""

SAME: Final = 0.02
"""A number within this share of a run's tokens counts tokens."""

_UNITS: Final = {"m": 1e6, "b": 1e9, "t": 1e12}
_NUMBER: Final = re.compile(r"(?<![a-z0-9.,])(?<!\d_)(\d+(?:\.\d+)?)([mbt])(?![a-z0-9])", re.I)
_BEFORE: Final = re.compile(
    r"(?:^|[^a-z])(?:m?bs|gbs|batch(?:[\W_]*size)?|bsz|seq(?:[\W_]*len)?|len|length|ctx|context"
    r"|window|vocab|warmup|steps?|tok|tokens?|data|distill?(?:ed)?|teacher|draft|from|lr)[\W_]*$",
    re.I,
)
_AFTER: Final = re.compile(
    r"^[\W_]*(?:tok|toks|tokens?|steps?|batch|bs|gbs|examples?|samples?|docs?|documents?|words?"
    r"|context|ctx|vocab|seq|data|teacher|draft)(?![a-z])",
    re.I,
)
"""Words beside a number that say that it is something else."""


def size_in_name(name: str, tokens: Iterable[float] = ()) -> float | None:
    """The number of parameters that a run's name says; None where it does not for certain.

    Args:
        name: of a run.
        tokens: what it was or will be trained on; a number like that is no size.
    """
    found = set()
    for match in _NUMBER.finditer(name):
        number = float(match[1]) * _UNITS[match[2].lower()]
        before, after = name[: match.start()], name[match.end() :]
        counts = any(math.isclose(number, count, rel_tol=SAME) for count in tokens)
        if not (counts or _BEFORE.search(before) or _AFTER.match(after)):
            found.add(number)
    size = min(found, default=0.0)
    others = found - {size}
    if any(other < max(TOKENS, TOKENS_PER_PARAMETER * size) for other in others):
        return None
    return size if SMALLEST <= size <= LARGEST else None


def read_sizes(table: pa.Table, *, name: str) -> tuple[pa.Table, list[str]]:
    """Fills in the sizes of runs without any from their names.

    Where FLOPs stand for tokens, sizes turn them into tokens: then every run gets one or none does.

    Args:
        table: accuracies with the types of their schema, with `run`.
        name: what messages call it.

    Returns:
        The table, and a note on what was read.
    """
    told = {
        column: without_nan(as_floats(table.column(column)))
        for column in ("params", "tokens", "planned_tokens", "step")
        if column in table.column_names
    }
    if "params" in told and not told["params"].null_count:
        return table, []
    params = told.get("params", pa.nulls(table.num_rows, pa.float64()))
    known = pa.table({"run": table.column("run"), **told, "params": params})
    runs = known.group_by("run").aggregate([(c, "max") for c in known.column_names[1:]]).to_pylist()
    nameless = {row["run"]: row for row in runs if row["params_max"] is None and row["run"]}
    sizes = {}
    for run, row in nameless.items():
        count = row.get("planned_tokens_max") or row.get("tokens_max")
        size = size_in_name(run, [count] if count else [])
        if size is not None and not _is_letter(run, nameless):
            sizes[run] = size
    has_tokens = any(told[c].null_count < table.num_rows for c in ("tokens", "step") if c in told)
    if not sizes or (len(sizes) < len(nameless) and not has_tokens):
        return table, []
    read = pa.array([sizes.get(run) for run in table.column("run").to_pylist()], pa.float64())
    filled = pc.coalesce(params, read)
    if "params" in told:
        table = table.set_column(table.column_names.index("params"), "params", filled)
    else:
        table = table.append_column("params", filled)
    some = [f"{format_count(sizes[run])} of {quoted(run)}" for run in sorted(sizes)[:NAMED]]
    more = f" and {len(sizes) - NAMED} more" if len(sizes) > NAMED else ""
    return table, [f"{name}: sizes read from the names of runs: {', '.join(some)}{more}"]


def _is_letter(run: str, others: Collection[str]) -> bool:
    """Whether the b of `exp-1b` counts variants, since there is an `exp-1a` or `exp-1c`."""
    for match in _NUMBER.finditer(run):
        place = match.end() - 1
        for letter in "acAC":
            if f"{run[:place]}{letter}{run[place + 1 :]}" in others:
                return True
    return False
