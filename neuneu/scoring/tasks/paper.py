"""The 66 tasks of *Neural Neural Scaling Laws* (arXiv 2601.19831).

Nine OLMES tasks and the 57 MMLU subjects, all five-shot in the cloze format: the paper reads
DataDecide's evaluations, which are OLMES' with "cloze formulation" (the card of the data set
allenai/DataDecide-eval-instances).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from neuneu.core.errors import DataError
from neuneu.scoring.requests import Task
from neuneu.scoring.tasks.mmlu import N_SUBJECTS, load_mmlu
from neuneu.scoring.tasks.olmes import load_olmes

PAPER_REGIME: Final = "rc_5shot"
_OLMES_TASKS: Final = frozenset(
    f"{name}_{PAPER_REGIME}"
    for name in (
        "arc_challenge",
        "arc_easy",
        "boolq",
        "csqa",
        "hellaswag",
        "openbookqa",
        "piqa",
        "socialiqa",
        "winogrande",
    )
)


def load_paper66(root: Path, *, wanted: Callable[[str], bool]) -> list[Task]:
    """Reads the 66 tasks: the OLMES ones, then MMLU, by name.

    Args:
        root: a folder with `olmes` and `mmlu.parquet`, as `load_olmes` and `load_mmlu` take.
        wanted: says of a task's name whether to keep it.

    Raises:
        DataError: a task is not there (the first missing ones are named), or as the two raise.
    """
    olmes = load_olmes(root / "olmes", wanted=lambda name, _: name in _OLMES_TASKS)
    missing = sorted(_OLMES_TASKS - {task.name for task in olmes})
    if missing:
        raise DataError(f"paper66 {root / 'olmes'}: expected 9 tasks, missing {missing}.")
    mmlu = load_mmlu(root / "mmlu.parquet", wanted=lambda _, regime: regime == PAPER_REGIME)
    if len(mmlu) != N_SUBJECTS:
        raise DataError(
            f"paper66 {root / 'mmlu.parquet'}: expected {N_SUBJECTS} subjects, found {len(mmlu)}."
        )
    return [task for task in (*olmes, *mmlu) if wanted(task.name)]
