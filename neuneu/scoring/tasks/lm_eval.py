"""Multiple-choice tasks of lm-evaluation-harness as requests.

The harness' own task objects make contexts, choices and few-shot examples, with the default seed of
`lm_eval.simple_evaluate`, so that scores equal the harness' own. Tasks keep the harness' names,
under which results are published and imported.
"""

import difflib
import fnmatch
import functools
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import DataError, UserError
from neuneu.core.files import one_line
from neuneu.data.base_tasks import base_task_of, group_of, split_name
from neuneu.scoring.multiple_choice import Request, Task, TaskFormat

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

FEWSHOT_SEED: Final = 1234


def load_lm_eval(name: str, *, num_fewshot: int | None, include: Path | None) -> list[Task]:
    """Load tasks of the harness.

    Args:
        name: Name of a task, tag or group, or a pattern of task names with `*`.
        num_fewshot: Number of few-shot examples; None uses the task's config.
        include: Folder of further task configs (YAML), which take precedence.

    Raises:
        UserError: The harness is not installed, the task is unknown, its data is not available, or
            it is scored in another way.
        DataError: A document has no correct choice, or only one choice.
    """
    return [_convert(task, num_fewshot) for task in _load(name, include)]


def _load(name: str, include: Path | None) -> "list[ConfigurableTask]":
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"task spec lm_eval/{name}: needs lm-evaluation-harness ({error}); install it with: "
            "pip install 'neuneu[lm-eval]'"
        ) from error
    manager, names = _find(name, include)
    try:
        return list(manager.load(names)["tasks"].values())
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise UserError(
            f"task spec lm_eval/{name}: lm-evaluation-harness cannot load it "
            f"({type(error).__name__}: {one_line(error)}); its data must be on this "
            "machine or downloadable."
        ) from error


def _find(name: str, include: Path | None) -> "tuple[TaskManager, list[str]]":
    """The task manager that knows a name, and the tasks it selects."""
    # Reading the harness' 14,000 configs takes many seconds; a user's task does not need them.
    if include:
        manager = _manager(include, defaults=False)
        names = fnmatch.filter(manager.all_subtasks, name)
        if names:
            return manager, names
    manager = _manager(include, defaults=True)
    names = [name] if name in manager.all_tasks else fnmatch.filter(manager.all_subtasks, name)
    if names:
        return manager, names
    near = difflib.get_close_matches(name, manager.all_tasks, n=3)
    raise UserError(
        f"task spec lm_eval/{name}: lm-evaluation-harness has no such task"
        + (f"; did you mean {' or '.join(near)}?" if near else ".")
    )


@functools.cache
def _manager(include: Path | None, *, defaults: bool) -> "TaskManager":
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include and str(include), include_defaults=defaults)


def _convert(task: "ConfigurableTask", num_fewshot: int | None) -> Task:
    name = task.task_name
    _check_scored_alike(task)
    shots = _set_fewshot(task, num_fewshot)
    try:
        task.build_all_requests()
    except ValueError as error:
        raise UserError(
            f"task spec lm_eval/{name}: lm-evaluation-harness cannot build its prompts with "
            f"{shots} examples ({type(error).__name__}: {one_line(error)}); ask for another number "
            "of shots."
        ) from error
    documents = [
        _document(task, doc, list(instances))
        for doc, instances in groupby(task.instances, key=lambda instance: instance.doc_id)
    ]
    base_task = base_task_of(name)
    split = task.config.test_split if task.has_test_docs() else task.config.validation_split
    return Task(
        name=name,
        base_task=base_task,
        format=_format(documents),
        split=split_name(str(split)),
        group=group_of(base_task),
        num_fewshot=shots,
        chance=sum(1 / len(requests) for requests in documents) / len(documents),
        requests=tuple(request for requests in documents for request in requests),
    )


def _check_scored_alike(task: "ConfigurableTask") -> None:
    from lm_eval.api.task import ConfigurableTask

    reason = None
    if task.OUTPUT_TYPE != "multiple_choice":
        reason = f"its output_type is {task.OUTPUT_TYPE!r}"
    elif not isinstance(task, ConfigurableTask) or callable(task.config.process_results):
        reason = "it computes its scores with code of its own"
    elif task.multiple_target:
        reason = "its documents have several correct choices"
    elif task.config.doc_to_image or task.config.doc_to_audio:
        reason = "its prompts hold more than text"
    if reason:
        raise UserError(
            f"task spec lm_eval/{task.task_name}: {reason}; expected a task of output_type "
            "'multiple_choice' with one correct choice, scored by log-probability."
        )


def _set_fewshot(task: "ConfigurableTask", num_fewshot: int | None) -> int:
    """Set few-shot examples as `simple_evaluate` does; a task can forbid them."""
    configured = task.config.num_fewshot
    if num_fewshot and configured == 0:
        raise UserError(
            f"task spec lm_eval@{num_fewshot}shot/{task.task_name}: the task's config says "
            "num_fewshot: 0, which the harness does not override; drop the number of shots."
        )
    shots = num_fewshot if num_fewshot is not None else configured or 0
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return int(shots)


def _document(task: "ConfigurableTask", doc: int, instances: list[Any]) -> list[Request]:
    row = instances[0].doc
    choices = task.doc_to_choice(row)
    label = task.doc_to_text(row) if task.multiple_input else task.doc_to_target(row)
    if isinstance(label, str):
        label = choices.index(label) if label in choices else None
    if label not in range(len(choices)) or len(choices) < 2:
        raise DataError(
            f"task spec lm_eval/{task.task_name}: document {doc}: expected at least two choices "
            f"and the correct one among them, found {choices} and {label}; drop the document or "
            "use a split with answers."
        )
    # The same choices without a context follow where the task asks for `acc_mutual_info`.
    rest = instances[len(choices) :]
    alone = [(other.args[0], other.args[1]) for other in rest] if len(rest) == len(choices) else []
    return [
        Request(
            task=task.task_name,
            doc=doc,
            choice=choice,
            context=instance.args[0],
            continuation=instance.args[1],
            label=int(label),
            choice_text=None if text == instance.args[1].removeprefix(" ") else text,
            unconditional=alone[choice] if alone else None,
        )
        for choice, (instance, text) in enumerate(zip(instances, choices, strict=False))
    ]


def _format(documents: Iterable[list[Request]]) -> TaskFormat:
    """The format of documents; minimal pairs are scored strictly (`accuracies`)."""
    requests = [request for document in documents for request in document]
    if all(not request.context and request.label == 0 for request in requests) and all(
        len(document) == 2 for document in documents
    ):
        return "minimal_pair"
    letters = all(len(request.measured) == 1 and request.measured.isalpha() for request in requests)
    return "mc" if letters else "rc"
