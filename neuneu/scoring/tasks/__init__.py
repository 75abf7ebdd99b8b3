"""Tasks by name: where they come from, which of their documents are taken, what they are.

A spec is `SOURCE[@REGIME][/NAME][:PATH]`:

* `generated`: tasks made from held-out text, for small models (`generated.py`).
* `blimp`: 67 minimal-pair tasks from a parquet file (`blimp.py`).
* `olmes`: the zero-shot requests of an OLMES folder; `olmes@rc_5shot` takes another regime
  (`olmes.py`).
* `mmlu`: the 57 subjects of a parquet file, five-shot cloze; `mmlu@mc_5shot` asks for letters
  (`mmlu.py`). NAME is a subject.
* `paper66`: the nine five-shot OLMES tasks and MMLU of the paper, from a folder that holds
  `olmes` and `mmlu.parquet` (`paper.py`).
* `lm_eval/TASK`: a task of lm-evaluation-harness; `lm_eval@5shot/TASK` sets the number of
  examples, PATH is a folder of further task configs (`lm_eval.py`).

NAME and REGIME may hold `*`: `blimp/blimp_npi_*`, `olmes@*`, `mmlu/college_*`. With a NAME of
`olmes` the regime is whatever the name says. PATH replaces the default place, which is
`$NEUNEU_SHARED/tasks/...`, else `../shared/tasks/...`.
"""

import difflib
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import UserError
from neuneu.scoring.multiple_choice import METRICS
from neuneu.scoring.requests import Request, Task
from neuneu.scoring.tasks.blimp import load_blimp
from neuneu.scoring.tasks.generated import load_generated
from neuneu.scoring.tasks.lm_eval import load_lm_eval
from neuneu.scoring.tasks.mmlu import MMLU_REGIMES, load_mmlu
from neuneu.scoring.tasks.olmes import load_olmes, regimes
from neuneu.scoring.tasks.paper import load_paper66

_SPEC: Final = re.compile(
    r"(?P<source>\w+)(@(?P<regime>[^/:]+))?(/(?P<name>[^:]+))?(:(?P<path>.+))?"
)
_SOURCES: Final = (
    "generated",
    "blimp[:PATH]",
    "olmes[@REGIME][:PATH]",
    "mmlu[@REGIME][:PATH]",
    "paper66[:PATH]",
    "lm_eval[@Nshot]/TASK[:PATH]",
)
_KNOWN: Final = tuple(re.match(r"\w+", source)[0] for source in _SOURCES)  # type: ignore[index]


@dataclass(frozen=True, slots=True)
class _Spec:
    text: str
    source: str
    regime: str | None
    name: str | None
    path: Path | None


def load_tasks(
    specs: Sequence[str], *, limit: int | None, seed: int, text: str | Path | None
) -> list[Task]:
    """Loads the tasks that the specs name, in the order of the specs.

    Args:
        specs: see the module's docstring.
        limit: the most documents a task; None takes all. Documents are chosen by a hash of
            (seed, task, document): the same ones whatever other tasks there are, and those of
            a smaller limit are among those of a larger one.
        seed: of that choice, and of the generated tasks.
        text: text that the models were not trained on, for `generated` (what
            `corpus.read_documents` takes).

    Raises:
        UserError: unknown spec, nothing matches, a task named twice, `limit` below 1, or a
            source that is not there.
        DataError: a source that breaks its layout.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit: expected at least 1 document a task, found {limit}.")
    tasks: dict[str, Task] = {}
    for spec in map(_parse, specs):
        loaded = _load(spec, seed=seed, text=text)
        repeated = [task.name for task in loaded if task.name in tasks]
        if repeated:
            raise UserError(
                f"task spec {spec.text!r}: {repeated[0]!r} is already there by an earlier spec; "
                "name each task once."
            )
        tasks |= {task.name: task for task in loaded}
    return [subsample(task, limit=limit, seed=seed) for task in tasks.values()]


def subsample(task: Task, *, limit: int | None, seed: int) -> Task:
    """The task with the `limit` documents whose hash of (seed, task, document) is least."""
    documents = {
        doc: tuple(requests) for doc, requests in groupby(task.requests, key=lambda r: r.doc)
    }
    if limit is None or len(documents) <= limit:
        return task
    kept = sorted(documents, key=lambda doc: _document_hash(seed, task.name, doc))[:limit]
    return replace(
        task,
        chance=sum(1 / len(documents[doc]) for doc in kept) / len(kept),
        requests=tuple(request for doc in sorted(kept) for request in documents[doc]),
    )


def tasks_hash(tasks: Sequence[Task]) -> str:
    """Sixteen hex digits that name the tasks: every field of each, requests included."""
    digest = hashlib.sha256()
    for task in tasks:
        head = [getattr(task, field.name) for field in fields(task) if field.name != "requests"]
        digest.update(json.dumps([head, [_fields(r) for r in task.requests]]).encode())
    return digest.hexdigest()[:16]


def task_rows(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Rows of `schemas.TASKS`, one for each task and metric."""
    return [
        {
            "task": task.name,
            "metric": metric,
            "base_task": task.base_task,
            "format": task.format,
            "split": task.split,
            "group": task.group,
            "chance": task.chance,
            "n_items": task.n_items,
            "higher_is_better": True,
        }
        for task in tasks
        for metric in METRICS
    ]


def _fields(request: Request) -> list[str | int]:
    row: list[str | int] = [
        request.task,
        request.doc,
        request.choice,
        request.context,
        request.continuation,
        request.label,
    ]
    # Only where it is set, so that stores made before it was there keep their fingerprint.
    return row if request.choice_text is None else [*row, request.choice_text]


def _parse(text: str) -> _Spec:
    match = _SPEC.fullmatch(text)
    if match is None or match["source"] not in _KNOWN:
        source = re.split(r"[@/:]", text)[0]
        near = difflib.get_close_matches(source, _KNOWN, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"task spec {text!r}: unknown; expected one of {', '.join(_SOURCES)}, each with an "
            f"optional /NAME such as blimp/blimp_npi_*{hint}"
        )
    source, regime = match["source"], match["regime"]
    if regime and source not in ("olmes", "mmlu", "lm_eval"):
        raise UserError(f"task spec {text!r}: {source} has no regimes; drop @{regime}.")
    if source == "lm_eval" and (
        not match["name"] or not re.fullmatch(r"\d+shot", regime or "0shot")
    ):
        raise UserError(
            f"task spec {text!r}: expected lm_eval/TASK or lm_eval@Nshot/TASK, such as "
            "lm_eval@5shot/arc_easy."
        )
    if match["path"] and source == "generated":
        raise UserError(
            f"task spec {text!r}: generated tasks are made from the run's own text, not from a "
            f"path; drop :{match['path']}."
        )
    path = Path(match["path"]) if match["path"] else None
    return _Spec(text, source, regime, match["name"], path)


def _load(spec: _Spec, *, seed: int, text: str | Path | None) -> list[Task]:
    def wanted(name: str) -> bool:
        return spec.name is None or fnmatch.fnmatchcase(name, spec.name)

    if spec.source == "lm_eval":
        assert spec.name is not None
        return load_lm_eval(
            spec.name,
            num_fewshot=int(spec.regime.removesuffix("shot")) if spec.regime else None,
            include=_source_path(spec, "") if spec.path else None,
        )
    if spec.source == "generated":
        if text is None:
            raise UserError(
                f"task spec {spec.text!r}: needs text that the models were not trained on, found "
                "none; give it in the config."
            )
        tasks = load_generated(text, seed=seed, wanted=wanted)
        known = "generated_*"
    elif spec.source == "blimp":
        tasks = load_blimp(_source_path(spec, "tasks/blimp.parquet"), wanted=wanted)
        known = "blimp_*"
    elif spec.source == "mmlu":
        regime = spec.regime or MMLU_REGIMES[0]
        tasks = load_mmlu(
            _source_path(spec, "tasks/mmlu.parquet"),
            wanted=lambda subject, of: wanted(subject) and fnmatch.fnmatchcase(of, regime),
        )
        known = f"{', '.join(MMLU_REGIMES)} of the subjects in the file"
    elif spec.source == "paper66":
        tasks = load_paper66(_source_path(spec, "tasks"), wanted=wanted)
        known = "mmlu_*_rc_5shot and nine others"
    else:
        root = _source_path(spec, "tasks/olmes")
        regime = spec.regime or ("*" if spec.name else "rc_0shot")
        tasks = load_olmes(
            root, wanted=lambda name, of: wanted(name) and fnmatch.fnmatchcase(of, regime)
        )
        known = ", ".join(regimes(root)) or f"none in {root}"
    if not tasks:
        raise UserError(f"task spec {spec.text!r}: no task matches; known: {known}.")
    return tasks


def _source_path(spec: _Spec, default: str) -> Path:
    path = spec.path or Path(os.environ.get("NEUNEU_SHARED", "../shared")) / default
    if not path.exists():
        raise UserError(
            f"task spec {spec.text!r}: no such file or folder {path}; give its place as "
            f"{spec.text.partition(':')[0]}:PATH."
        )
    return path


def _document_hash(seed: int, task: str, doc: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{task}\0{doc}".encode()).digest()


__all__ = ["METRICS", "load_tasks", "subsample", "task_rows", "tasks_hash"]
