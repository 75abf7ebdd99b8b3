"""BLiMP: which sentence of a minimal pair does a model find more likely?

67 tasks of 1,000 pairs (Warstadt et al. 2020), named `blimp_<task>`. The context is empty, the
continuations are the two sentences, and the good one is always the first, as in
lm-evaluation-harness. So that the fixed place is worth nothing, `accuracies` counts a minimal
pair as right only when the good sentence is strictly more likely.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from neuneu.core.errors import DataError
from neuneu.scoring.requests import Request, Task
from neuneu.scoring.tasks.tables import read_columns

_COLUMNS: Final = ("task", "field", "pair_id", "sentence_good", "sentence_bad")


def load_blimp(path: Path, *, wanted: Callable[[str], bool]) -> list[Task]:
    """Reads BLiMP tasks from a parquet file, in the file's order.

    Args:
        path: parquet with string columns task, field, sentence_good and sentence_bad, and an
            integer column pair_id that is unique within a task.
        wanted: says of a task's name whether to make it.

    Raises:
        DataError: unreadable, missing columns, a missing value, or a pair given twice.
    """
    rows_by_task: dict[str, dict[int, dict[str, str]]] = {}
    for row in read_columns(path, _COLUMNS, what="BLiMP").to_pylist():
        pairs = rows_by_task.setdefault(f"blimp_{row['task']}", {})
        if row["pair_id"] in pairs:
            raise DataError(
                f"BLiMP {path}: task {row['task']}: pair {row['pair_id']} stands twice."
            )
        pairs[row["pair_id"]] = row
    return [_task(name, pairs) for name, pairs in rows_by_task.items() if wanted(name)]


def _task(name: str, pairs: dict[int, dict[str, str]]) -> Task:
    requests = tuple(
        Request(
            task=name,
            doc=doc,
            choice=choice,
            context="",
            continuation=pairs[doc][column],
            label=0,
        )
        for doc in sorted(pairs)
        for choice, column in enumerate(("sentence_good", "sentence_bad"))
    )
    return Task(
        name=name,
        base_task=name,
        format="minimal_pair",
        split="",
        group="blimp",
        num_fewshot=0,
        chance=0.5,
        requests=requests,
    )
