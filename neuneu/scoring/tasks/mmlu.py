"""MMLU: 57 subjects of four-choice questions, prompted as OLMES does.

Hendrycks et al. 2021 (arXiv 2009.03300). Every prompt of a subject begins with one line about
it and with its five dev questions, answered, in their order. The regime says what is asked:

* `rc_5shot` (cloze): the question alone; the choices' texts are the continuations.
* `mc_5shot`: the question and the lettered choices; the letters are the continuations.

The documents are those of the test split. Tasks are named `mmlu_<subject>_<regime>`.
`docs/tasks.md` says how sure the format is and what these numbers equal.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

from neuneu.core.errors import DataError
from neuneu.scoring.requests import Request, Task, TaskFormat
from neuneu.scoring.tasks.tables import read_columns

MMLU_REGIMES: Final = ("rc_5shot", "mc_5shot")
N_SUBJECTS: Final = 57
_N_SHOTS: Final = 5
_LETTERS: Final = "ABCD"
_COLUMNS: Final = ("subject", "split", "doc_id", "question", "choices", "answer")

Row = dict[str, Any]


def load_mmlu(path: Path, *, wanted: Callable[[str, str], bool]) -> list[Task]:
    """Reads MMLU tasks from a parquet file, by subject in alphabetical order.

    Args:
        path: parquet with strings subject, split (dev, test; others are left out) and question,
            integers doc_id (unique within a subject's split, its order) and answer (index of
            the right choice), and choices, a list of four strings.
        wanted: says of a subject and a regime whether to make the task.

    Raises:
        DataError: unreadable, missing columns or values, a document given twice or without four
            choices, or a subject without five dev documents or without test documents.
    """
    tasks = []
    for subject, splits in sorted(_read(path).items()):
        for regime in MMLU_REGIMES:
            if wanted(subject, regime):
                tasks.append(_task(path, subject, regime, splits))
    return tasks


def _task(path: Path, subject: str, regime: str, splits: dict[str, dict[int, Row]]) -> Task:
    dev, test = splits.get("dev", {}), splits.get("test", {})
    if len(dev) < _N_SHOTS or not test:
        raise DataError(
            f"MMLU {path}: subject {subject}: expected at least {_N_SHOTS} dev documents and one "
            f"test document, found {len(dev)} and {len(test)}."
        )
    form, _, _ = regime.partition("_")
    name = f"mmlu_{subject}_{regime}"
    shots = [dev[doc] for doc in sorted(dev)[:_N_SHOTS]]
    beginning = (
        "The following are multiple choice questions (with answers) about "
        f"{subject.replace('_', ' ')}.\n\n"
    ) + "".join(f"{_query(row, form)} {_choices(row, form)[row['answer']]}\n\n" for row in shots)
    requests = []
    for doc in sorted(test):
        row = test[doc]
        context = beginning + _query(row, form)
        requests += [
            Request(
                task=name,
                doc=doc,
                choice=choice,
                context=context,
                continuation=f" {text}",
                label=row["answer"],
            )
            for choice, text in enumerate(_choices(row, form))
        ]
    return Task(
        name=name,
        base_task=f"mmlu_{subject}",
        format=cast(TaskFormat, form),
        split="test",
        group="mmlu",
        num_fewshot=_N_SHOTS,
        chance=1 / len(_LETTERS),
        requests=tuple(requests),
    )


def _query(row: Row, form: str) -> str:
    lines = [f"Question: {row['question']}"]
    if form == "mc":
        lines += [
            f" {letter}. {text}" for letter, text in zip(_LETTERS, row["choices"], strict=True)
        ]
    return "\n".join([*lines, "Answer:"])


def _choices(row: Row, form: str) -> Sequence[str]:
    return _LETTERS if form == "mc" else row["choices"]


def _read(path: Path) -> dict[str, dict[str, dict[int, Row]]]:
    """Rows by subject, split and document."""
    rows: dict[str, dict[str, dict[int, Row]]] = {}
    for row in read_columns(path, _COLUMNS, what="MMLU").to_pylist():
        where = f"MMLU {path}: {row['subject']}, {row['split']} document {row['doc_id']}"
        choices = row["choices"]
        if len(choices) != len(_LETTERS) or None in choices:
            raise DataError(f"{where}: expected {len(_LETTERS)} choices, found {choices}.")
        if row["answer"] not in range(len(_LETTERS)):
            raise DataError(f"{where}: expected an answer from 0 to 3, found {row['answer']}.")
        documents = rows.setdefault(row["subject"], {}).setdefault(row["split"], {})
        if row["doc_id"] in documents:
            raise DataError(f"{where}: stands twice.")
        documents[row["doc_id"]] = row
    return rows
