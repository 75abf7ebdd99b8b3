"""OLMES: rendered multiple-choice requests, as allenai/OLMo ships them.

A folder contains `<task>/<regime>/requests.jsonl.gz` and `config.json` beside it; regimes are
`rc_0shot`, `rc_5shot`, `mc_5shot` and the like. Each line is one (document, choice). The
unconditional requests in between (context "Answer:", document ids from 1,000,000) score the choice
of the same number without its question, for `acc_uncond`.

Tasks are named `<task>_<regime>`, such as `arc_challenge_rc_0shot`. Winogrande has one continuation
and one context per choice, which makes no difference to a request.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from neuneu.core.errors import DataError
from neuneu.data.base_tasks import base_task_of, group_of, split_name
from neuneu.scoring.multiple_choice import Request, Task, TaskFormat

_REGIME: Final = re.compile(r"(rc|mc)_(\d+)shot")
_UNCONDITIONAL_FROM: Final = 1_000_000


def load_olmes(root: Path, *, wanted: Callable[[str, str], bool]) -> list[Task]:
    """Read OLMES tasks, sorted by name.

    Args:
        root: The folder described above.
        wanted: Whether to read the task of a name and regime.

    Raises:
        DataError: A file is missing, or a line is not a request.
    """
    return [
        _load_task(folder, name)
        for name, folder in olmes_tasks(root).items()
        if wanted(name, folder.name)
    ]


def olmes_tasks(root: Path) -> dict[str, Path]:
    """The folder of each task by the task's name."""
    return {
        f"{folder.parent.name}_{folder.name}": folder
        for folder in sorted(root.glob("*/*"))
        if folder.is_dir() and _REGIME.fullmatch(folder.name)
    }


def _load_task(folder: Path, name: str) -> Task:
    match = _REGIME.fullmatch(folder.name)
    assert match is not None
    config = _read_config(folder / "config.json")
    if config.get("num_shots") != int(match[2]):
        raise DataError(
            f"OLMES {folder / 'config.json'}: expected num_shots {match[2]} as in the folder's "
            f"name, found {config.get('num_shots')!r}."
        )
    path = folder / "requests.jsonl.gz"
    choices_by_doc: dict[int, dict[int, Request]] = {}
    alone: dict[tuple[int, int], tuple[str, str]] = {}
    for line, request in _read_requests(path, name):
        if request.doc >= _UNCONDITIONAL_FROM:
            doc = request.doc - _UNCONDITIONAL_FROM
            alone[doc, request.choice] = (request.context, request.continuation)
            continue
        choices = choices_by_doc.setdefault(request.doc, {})
        if request.choice in choices:
            raise DataError(
                f"OLMES {path}: line {line}: document {request.doc} has choice {request.choice} "
                "twice; expected each once."
            )
        choices[request.choice] = request
    if not choices_by_doc:
        raise DataError(f"OLMES {path}: expected requests, found none.")
    for doc, choices in choices_by_doc.items():
        _check_document(path, doc, choices)
    base_task = base_task_of(folder.parent.name)
    return Task(
        name=name,
        base_task=base_task,
        format=cast(TaskFormat, match[1]),
        split=split_name(str(config.get("split") or "")),
        group=group_of(base_task),
        num_fewshot=int(match[2]),
        chance=sum(1 / len(choices) for choices in choices_by_doc.values()) / len(choices_by_doc),
        requests=tuple(
            replace(choices_by_doc[doc][choice], unconditional=alone.get((doc, choice)))
            for doc in sorted(choices_by_doc)
            for choice in sorted(choices_by_doc[doc])
        ),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return dict(config["task_config"])
    except OSError as error:
        raise DataError(f"OLMES {path}: cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"OLMES {path}: expected JSON with a mapping 'task_config', found {error!r}."
        ) from error


def _read_requests(path: Path, task: str) -> Iterator[tuple[int, Request]]:
    """Yield (line number, request)."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, _parse_request(line, task)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"OLMES {path}: line {number}: expected a request (doc_id, idx, label, "
            f"request.context, request.continuation), found {error!r}."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"OLMES {path}: cannot be read after line {number} ({error}).") from error


def _parse_request(line: str, task: str) -> Request:
    row = json.loads(line)
    kind = row.get("request_type", "loglikelihood")
    if kind != "loglikelihood":
        raise ValueError(f"request_type {kind!r}; only 'loglikelihood' is multiple choice")
    for key in ("doc_id", "idx", "label"):
        if type(row[key]) is not int:
            raise TypeError(f"{key} is {row[key]!r}, not an integer")
    for key in ("context", "continuation"):
        if not isinstance(row["request"][key], str):
            raise TypeError(f"{key} is {row['request'][key]!r}, not a string")
    return Request(
        task=task,
        doc=row["doc_id"],
        choice=row["idx"],
        context=row["request"]["context"],
        continuation=row["request"]["continuation"],
        label=row["label"],
    )


def _check_document(path: Path, doc: int, choices: dict[int, Request]) -> None:
    labels = {request.label for request in choices.values()}
    if sorted(choices) != list(range(len(choices))) or len(choices) < 2:
        raise DataError(
            f"OLMES {path}: document {doc}: expected choices 0, 1, ..., found {sorted(choices)}."
        )
    if len(labels) != 1 or labels.pop() not in choices:
        raise DataError(
            f"OLMES {path}: document {doc}: expected one label among its {len(choices)} choices, "
            f"found {sorted({request.label for request in choices.values()})}."
        )
