"""Tasks declared in YAML: a parquet table of documents and the templates that render its rows.

Adding `tables/<source>.yaml` adds tasks. Keys shared with lm-evaluation-harness mean the same as
there; templates are Jinja over the columns of a row. `sets/<source>.yaml` selects tasks of other
sources.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.config import config_dataclass, load_config
from neuneu.core.errors import DataError
from neuneu.scoring.multiple_choice import Request, Task, TaskFormat

_FOLDER: Final = Path(__file__).parent
_JINJA: Final = jinja2.Environment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
)
Row = dict[str, Any]
"""One document."""


@config_dataclass
class Regime:
    """A prompt format. `doc_to_choice` is a column of lists, or one template per choice."""

    format: TaskFormat
    doc_to_text: str
    doc_to_choice: str | tuple[str, ...]
    target_delimiter: str = " "

    def choices(self, row: Row) -> list[str]:
        """The texts of a document's choices."""
        if isinstance(self.doc_to_choice, str):
            return list(row[self.doc_to_choice])
        return [_render(template, row) for template in self.doc_to_choice]


@config_dataclass
class Declaration:
    """A table whose rows are documents: one task for each value of `task_column` and regime.

    `doc_id` is a column of integers, unique within a task and split. `doc_to_target` is the index
    of the correct choice, or the column that has it. NAME in a spec matches `spec_name`, which
    defaults to `base_task`. `sort_tasks` sorts tasks by name instead of keeping the table's order.
    `table` is the default file in the shared `tasks` folder, and `title` names the benchmark in
    messages. A table without a column `split` has one split, named "".
    """

    title: str
    table: str
    columns: tuple[str, ...]
    task_column: str
    doc_id: str
    base_task: str
    spec_name: str = ""
    group: str
    num_choices: int
    doc_to_target: int | str
    test_split: str = ""
    fewshot_split: str = ""
    num_fewshot: int = 0
    description: str = ""
    sort_tasks: bool = False
    regimes: dict[str, Regime]

    def target(self, row: Row) -> Any:
        """The index of the correct choice."""
        return (
            row[self.doc_to_target] if isinstance(self.doc_to_target, str) else self.doc_to_target
        )


@config_dataclass
class TaskSet:
    """Tasks of other sources, by source, all of one regime."""

    regime: str
    tasks: dict[str, tuple[str, ...]]


def declared(kind: str) -> list[str]:
    """The sources declared in a subfolder, `tables` or `sets`."""
    return sorted(path.stem for path in (_FOLDER / kind).glob("*.yaml"))


@cache
def read_declaration(source: str) -> Declaration:
    """Read the declaration of a table."""
    return load_config(Declaration, _FOLDER / "tables" / f"{source}.yaml")


@cache
def read_set(source: str) -> TaskSet:
    """Read the declaration of a set."""
    return load_config(TaskSet, _FOLDER / "sets" / f"{source}.yaml")


def load_table(source: str, path: Path, *, wanted: Callable[[str, str], bool]) -> list[Task]:
    """Render tasks of a declared table.

    Args:
        source: Name of the declaration.
        path: Parquet file with the declared columns.
        wanted: Whether to load the task of a `spec_name` and a regime.

    Raises:
        DataError: The file is not readable, columns or values are missing, a document appears
            twice or has other choices than declared, or a task has too few documents.
    """
    table = read_declaration(source)
    tasks = []
    documents = _documents(table, path)
    for value in sorted(documents) if table.sort_tasks else documents:
        splits = documents[value]
        name = _render(table.spec_name or table.base_task, {table.task_column: value})
        for regime in table.regimes:
            if wanted(name, regime):
                where = f"{table.title} {path}: {table.task_column} {value}"
                tasks.append(_task(table, regime, splits, value=value, where=where))
    return tasks


def _task(
    table: Declaration, regime: str, splits: dict[str, dict[int, Row]], *, value: str, where: str
) -> Task:
    dev, test = splits.get(table.fewshot_split, {}), splits.get(table.test_split, {})
    if len(dev) < table.num_fewshot or not test:
        raise DataError(
            f"{where}: expected at least {table.num_fewshot} {table.fewshot_split} documents and "
            f"one {table.test_split} document, found {len(dev)} and {len(test)}."
        )
    form = table.regimes[regime]
    base_task = _render(table.base_task, {table.task_column: value})
    name = f"{base_task}_{regime}" if regime else base_task
    prefix = _render(table.description, {table.task_column: value})
    for row in (dev[doc] for doc in sorted(dev)[: table.num_fewshot]):
        answer = form.choices(row)[table.target(row)]
        prefix += f"{_render(form.doc_to_text, row)}{form.target_delimiter}{answer}\n\n"

    return Task(
        name=name,
        base_task=base_task,
        format=form.format,
        split=table.test_split,
        group=table.group,
        num_fewshot=table.num_fewshot,
        chance=1 / table.num_choices,
        requests=tuple(
            Request(
                task=name,
                doc=doc,
                choice=choice,
                context=context,
                continuation=form.target_delimiter + text,
                label=table.target(row),
            )
            for doc, row in sorted(test.items())
            for context in [prefix + _render(form.doc_to_text, row)]  # one string for all choices
            for choice, text in enumerate(form.choices(row))
        ),
    )


def _documents(table: Declaration, path: Path) -> dict[str, dict[str, dict[int, Row]]]:
    """Rows by task, split and document."""
    documents: dict[str, dict[str, dict[int, Row]]] = {}
    lists = {form.doc_to_choice for form in table.regimes.values()}.intersection(table.columns)
    for row in _read(table, path).to_pylist():
        task, split, doc = row[table.task_column], row.get("split", ""), row[table.doc_id]
        where = f"{table.title} {path}: {task}, {f'{split} document'.strip()} {doc}"
        for column in lists:
            if len(row[column]) != table.num_choices or None in row[column]:
                raise DataError(
                    f"{where}: expected {table.num_choices} choices, found {row[column]}."
                )
        answer, last = table.target(row), table.num_choices - 1
        if answer not in range(last + 1):
            raise DataError(f"{where}: expected an answer from 0 to {last}, found {answer}.")
        rows = documents.setdefault(task, {}).setdefault(split, {})
        if doc in rows:
            raise DataError(f"{where}: appears twice.")
        rows[doc] = row
    return documents


def _read(table: Declaration, path: Path) -> pa.Table:
    where = f"{table.title} {path}"
    try:
        found = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{where}: expected parquet, found {error}.") from error
    missing = [name for name in table.columns if name not in found.column_names]
    if missing:
        raise DataError(f"{where}: missing columns {missing}; found {found.column_names}.")
    for name in table.columns:
        if found.column(name).null_count:
            raise DataError(f"{where}: column {name!r} has missing values; drop those rows.")
    return found.select(table.columns)


def _render(template: str, row: Mapping[str, Any]) -> str:
    return _compiled(template).render(row)


@cache
def _compiled(template: str) -> jinja2.Template:
    return _JINJA.from_string(template)
