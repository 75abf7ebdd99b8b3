"""Base task, group and split of published tasks, whatever a suite calls them."""

from typing import Final

_BASE_TASKS: Final = {
    "commonsense_qa": "csqa",
    "openbook_qa": "openbookqa",
    "social_iqa": "socialiqa",
}
_SPLITS: Final = {"validation": "val"}
_SCIENCE_AND_MATH: Final = frozenset({"arc_challenge", "arc_easy", "openbookqa", "sciq"})
_COMMONSENSE_AND_READING: Final = frozenset(
    {"boolq", "copa", "csqa", "hellaswag", "logiqa", "piqa", "socialiqa", "winogrande", "wsc"}
)


def base_task_of(name: str) -> str:
    """Return the one name of a task that evaluation suites name differently."""
    return _BASE_TASKS.get(name, name)


def group_of(base_task: str) -> str:
    """Return the group of a base task, `other` if it is unknown."""
    if base_task in _SCIENCE_AND_MATH:
        return "science_and_math"
    if base_task in _COMMONSENSE_AND_READING:
        return "commonsense_and_reading"
    family = base_task.partition("_")[0]
    return family if family in ("mmlu", "blimp") else "other"


def split_name(split: str) -> str:
    """Return a data split as the task table spells it."""
    return _SPLITS.get(split, split)
