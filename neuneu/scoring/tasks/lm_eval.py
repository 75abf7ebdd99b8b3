"""Multiple-choice tasks of lm-evaluation-harness as our requests.

The harness' own task objects make the contexts, the choices and the few-shot examples, with the
seed that `lm_eval.simple_evaluate` has by default, so that a task scores here as it does there.
Tasks keep the harness' names, which are those of published results and of imported ones.
"""

import difflib
import fnmatch
import functools
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import DataError, UserError
from neuneu.data.base_tasks import base_task_of, group_of, split_name
from neuneu.scoring.requests import Request, Task, TaskFormat

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

FEWSHOT_SEED: Final = 1234


def load_lm_eval(name: str, *, num_fewshot: int | None, include: Path | None) -> list[Task]:
    """Makes tasks of the harness.

    Args:
        name: a task, tag or group of the harness, or a pattern of task names with `*`.
        num_fewshot: examples before each question; None takes what the task's config says.
        include: a folder with further task configs (YAML), which go before the harness' own.

    Raises:
        UserError: the harness is not installed, the task is unknown, its data cannot be had, or
            it is not scored as we score.
        DataError: a document that has no right choice, or only one choice.
    """
    tasks = _load(name, include)
    return [_convert(task, num_fewshot) for task in tasks]


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
            f"({_in_one_line(error)}); its data must be on this machine or within reach."
        ) from error


def _find(name: str, include: Path | None) -> "tuple[TaskManager, list[str]]":
    """The names of the tasks, tag or group, and who can load them."""
    # To read the harness' own 14,000 configs takes many seconds, which a user's task can spare.
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


def _in_one_line(error: Exception) -> str:
    return " ".join([type(error).__name__ + ":", *str(error).split()])


def _convert(task: "ConfigurableTask", num_fewshot: int | None) -> Task:
    name = task.task_name
    _check_scored_alike(task)
    shots = _set_fewshot(task, num_fewshot)
    try:
        task.build_all_requests()
    except ValueError as error:
        raise UserError(
            f"task spec lm_eval/{name}: lm-evaluation-harness cannot make its prompts with {shots} "
            f"examples ({_in_one_line(error)}); ask for another number of shots."
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
        reason = "its documents have several right choices"
    elif task.config.doc_to_image or task.config.doc_to_audio:
        reason = "its prompts hold more than text"
    if reason:
        raise UserError(
            f"task spec lm_eval/{task.task_name}: {reason}; expected a task of output_type "
            "'multiple_choice' with one right choice, scored by log-probability."
        )


def _set_fewshot(task: "ConfigurableTask", num_fewshot: int | None) -> int:
    """As `simple_evaluate` sets it; a task may insist on having no examples."""
    configured = task.config.num_fewshot
    if num_fewshot and configured == 0:
        raise UserError(
            f"task spec lm_eval@{num_fewshot}shot/{task.task_name}: the task's config says "
            "num_fewshot: 0, which the harness lets nothing override; drop the number of shots."
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
            f"and the right one among them, found {choices} and {label}; drop the document or "
            "use a split with answers."
        )
    requests = []
    # Behind the choices may stand the same without a context, for a score that we do not have.
    for choice, (instance, text) in enumerate(zip(instances, choices, strict=False)):
        context, continuation = instance.args
        requests.append(
            Request(
                task=task.task_name,
                doc=doc,
                choice=choice,
                context=context,
                continuation=continuation,
                label=int(label),
                choice_text=None if text == continuation.removeprefix(" ") else text,
            )
        )
    return requests


def _format(documents: Iterable[list[Request]]) -> TaskFormat:
    """What the documents look like; minimal pairs are scored strictly (`accuracies`)."""
    requests = [request for document in documents for request in document]
    if all(not request.context and request.label == 0 for request in requests) and all(
        len(document) == 2 for document in documents
    ):
        return "minimal_pair"
    letters = all(len(request.measured) == 1 and request.measured.isalpha() for request in requests)
    return "mc" if letters else "rc"
