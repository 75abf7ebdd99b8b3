"""Tasks by spec: where they come from, which documents are used and what they are.

A spec is `SOURCE[@REGIME][/NAME][:PATH]`:

* `generated`: tasks made from held-out text, for small models (`generated.py`).
* `blimp`: 67 minimal-pair tasks from a parquet file (`tables/blimp.yaml`).
* `mmlu`: the 57 subjects of a parquet file, five-shot cloze; `mmlu@mc_5shot` asks for letters. NAME
  is a subject (`tables/mmlu.yaml`).
* `olmes`: the zero-shot requests of an OLMES folder; `olmes@rc_5shot` selects another regime
  (`olmes.py`).
* `paper66`: the nine five-shot OLMES tasks and MMLU of the paper, from a folder that contains
  `olmes` and `mmlu.parquet` (`sets/paper66.yaml`).
* `lm_eval/TASK`: a task of lm-evaluation-harness; `lm_eval@5shot/TASK` sets the number of few-shot
  examples, PATH is a folder of further task configs (`lm_eval.py`).

NAME and REGIME may contain `*`: `blimp/blimp_npi_*`, `olmes@*`, `mmlu/college_*`. With a NAME,
`olmes` matches every regime. PATH replaces the default location, `tasks/...` in `$NEUNEU_SHARED` or
else in `../shared`.
"""

import difflib
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import DataError, UserError
from neuneu.data.choice_metrics import METRICS
from neuneu.scoring.multiple_choice import Request, Task
from neuneu.scoring.tasks.declarations import declared, load_table, read_declaration, read_set
from neuneu.scoring.tasks.generated import load_generated
from neuneu.scoring.tasks.lm_eval import load_lm_eval
from neuneu.scoring.tasks.olmes import load_olmes, olmes_tasks

_SPEC: Final = re.compile(
    r"(?P<source>\w+)(@(?P<regime>[^/:]+))?(/(?P<name>[^:]+))?(:(?P<path>.+))?"
)
_REQUEST_FIELDS: Final = attrgetter(*(field.name for field in fields(Request)))


@dataclass(frozen=True, slots=True)
class _Spec:
    text: str
    source: str
    regime: str | None
    name: str | None
    path: Path | None

    def selects(self, name: str, regime: str, *, default_regime: str = "*") -> bool:
        """Whether a task of this name and regime is meant."""
        return fnmatch.fnmatchcase(name, self.name or "*") and fnmatch.fnmatchcase(
            regime, self.regime or default_regime
        )

    def location(self, default: str) -> Path:
        """PATH or the default in the shared folder.

        Raises:
            UserError: Nothing is there.
        """
        path = self.path or Path(os.environ.get("NEUNEU_SHARED", "../shared")) / default
        if not path.exists():
            raise UserError(
                f"task spec {self.text!r}: no such file or folder {path}; give its location as "
                f"{self.text.partition(':')[0]}:PATH."
            )
        return path


def load_tasks(
    specs: Sequence[str], *, limit: int | None, seed: int, text: str | Path | None
) -> list[Task]:
    """Load the tasks that specs select, in the order of the specs.

    Args:
        specs: See the module's docstring.
        limit: Maximum number of documents per task; None takes all. Documents are chosen by a hash
            of (seed, task, document), so the choice does not depend on other tasks, and a smaller
            limit chooses a subset of a larger one.
        seed: Random seed for that choice and for the generated tasks.
        text: Text that the models were not trained on, for `generated` (anything that
            `corpus.read_documents` reads).

    Raises:
        UserError: A spec is unknown or matches nothing, a task is selected twice, `limit` is below
            1, or a source does not exist.
        DataError: The contents of a source are not as expected.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit: expected at least 1 document per task, found {limit}.")
    tasks: dict[str, Task] = {}
    for spec in map(_parse, specs):
        loaded = _load(spec, seed=seed, text=text)
        repeated = [task.name for task in loaded if task.name in tasks]
        if repeated:
            raise UserError(
                f"task spec {spec.text!r}: {repeated[0]!r} is already selected by an earlier "
                "spec; select each task once."
            )
        tasks |= {task.name: task for task in loaded}
    return [subsample(task, limit=limit, seed=seed) for task in tasks.values()]


def subsample(task: Task, *, limit: int | None, seed: int) -> Task:
    """Keep the `limit` documents with the smallest hash of (seed, task, document)."""
    documents = {
        doc: tuple(requests) for doc, requests in groupby(task.requests, key=lambda r: r.doc)
    }
    if limit is None or len(documents) <= limit:
        return task
    kept = sorted(
        documents,
        key=lambda doc: hashlib.sha256(f"{seed}\0{task.name}\0{doc}".encode()).digest(),
    )[:limit]
    return replace(
        task,
        chance=sum(1 / len(documents[doc]) for doc in kept) / len(kept),
        requests=tuple(request for doc in sorted(kept) for request in documents[doc]),
    )


def tasks_hash(tasks: Sequence[Task]) -> str:
    """Return sixteen hex digits that identify the tasks: all fields, requests included."""
    digest = hashlib.sha256()
    for task in tasks:
        head = [getattr(task, field.name) for field in fields(task) if field.name != "requests"]
        digest.update(json.dumps([head, [_fields(r) for r in task.requests]]).encode())
    return digest.hexdigest()[:16]


def task_rows(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Return rows of `schemas.TASKS`, one per task and metric."""
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


def _fields(request: Request) -> tuple[str | int | None, ...]:
    row = _REQUEST_FIELDS(request)
    # `choice_text` counts only if set, so that existing stores keep their fingerprint.
    return row if request.choice_text is not None else row[:-1]


@cache
def _sources() -> dict[str, str]:
    """Every source and the form of its specs."""
    tables = {
        name: "[@REGIME][:PATH]" if any(read_declaration(name).regimes) else "[:PATH]"
        for name in declared("tables")
    }
    sets = dict.fromkeys(declared("sets"), "[:PATH]")
    own = {"generated": "", "olmes": "[@REGIME][:PATH]", "lm_eval": "[@Nshot]/TASK[:PATH]"}
    return own | tables | sets


def _parse(text: str) -> _Spec:
    match = _SPEC.fullmatch(text)
    sources = _sources()
    if match is None or match["source"] not in sources:
        near = difflib.get_close_matches(re.split(r"[@/:]", text)[0], sources, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"task spec {text!r}: unknown; expected one of "
            f"{', '.join(source + form for source, form in sources.items())}, each with an "
            f"optional /NAME such as blimp/blimp_npi_*{hint}"
        )
    source, regime, path = match["source"], match["regime"], match["path"]
    if regime and "[@" not in sources[source]:
        raise UserError(f"task spec {text!r}: {source} has no regimes; drop @{regime}.")
    if source == "lm_eval" and not (match["name"] and re.fullmatch(r"\d+shot", regime or "0shot")):
        raise UserError(
            f"task spec {text!r}: expected lm_eval/TASK or lm_eval@Nshot/TASK, such as "
            "lm_eval@5shot/arc_easy."
        )
    if path and source == "generated":
        raise UserError(
            f"task spec {text!r}: generated tasks are made from the run's own text, not from a "
            f"path; drop :{path}."
        )
    return _Spec(text, source, regime, match["name"], Path(path) if path else None)


def _load(spec: _Spec, *, seed: int, text: str | Path | None) -> list[Task]:
    source = spec.source
    if source == "lm_eval":
        assert spec.name is not None
        return load_lm_eval(
            spec.name,
            num_fewshot=int(spec.regime.removesuffix("shot")) if spec.regime else None,
            include=spec.location("") if spec.path else None,
        )
    if source == "generated":
        if text is None:
            raise UserError(
                f"task spec {spec.text!r}: needs text that the models were not trained on, found "
                "none; set task_text."
            )
        tasks = load_generated(text, seed=seed, wanted=lambda name: spec.selects(name, ""))
        known = "generated_*"
    elif source == "olmes":
        root = spec.location("tasks/olmes")
        default = "*" if spec.name else "rc_0shot"
        tasks = load_olmes(root, wanted=partial(spec.selects, default_regime=default))
        known = ", ".join(olmes_tasks(root)) or f"none in {root}"
    elif source in declared("sets"):
        members = _load_set(source, spec.location("tasks"))
        tasks = [task for task in members if spec.selects(task.name, "")]
        known = f"{', '.join(task.name for task in members[:3])} and {len(members) - 3} others"
    else:
        table = read_declaration(source)
        default = next(iter(table.regimes))
        tasks = load_table(
            source,
            spec.location(f"tasks/{table.table}"),
            wanted=partial(spec.selects, default_regime=default),
        )
        of = f"{', '.join(table.regimes)} of " if default else ""
        known = f"{of}the {table.task_column}s in the file"
    if not tasks:
        raise UserError(f"task spec {spec.text!r}: no task matches; known: {known}.")
    return tasks


def _load_set(source: str, root: Path) -> list[Task]:
    """Load the tasks of a set, source by source, from the default files under `root`."""
    tasks: list[Task] = []
    task_set = read_set(source)
    for member, names in task_set.tasks.items():
        if member == "olmes":
            path, load = root / "olmes", load_olmes
        else:
            path, load = root / read_declaration(member).table, partial(load_table, member)
        found = load(path, wanted=lambda _, regime: regime == task_set.regime)
        tasks += [task for task in found if task.name in names]
        missing = sorted(set(names) - {task.name for task in found})
        if missing:
            raise DataError(f"{source} {path}: expected {len(names)} tasks, missing {missing}.")
    return tasks
