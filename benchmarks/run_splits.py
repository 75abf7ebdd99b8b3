"""Splits of the public trajectories by run: what is trained on, compared with and forecast."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from neuneu.core.errors import UserError
from neuneu.data.trajectories import Trajectory

PAPER_HELD_OUT_TASKS: Final = (
    "csqa",
    "openbookqa",
    "piqa",
    "winogrande",
    "mmlu_college_biology",
    "mmlu_college_chemistry",
    "mmlu_high_school_mathematics",
    "mmlu_high_school_microeconomics",
    "mmlu_high_school_psychology",
    "mmlu_international_law",
    "mmlu_management",
    "mmlu_professional_psychology",
    "mmlu_world_religions",
)
"""The 13 base tasks that the paper holds out (arXiv 2601.19831)."""

_CATEGORIES: Final = ("mmlu_stem", "mmlu_social_sciences", "mmlu_humanities", "mmlu_other")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Trajectories to train on (`learn`), to compare with (`references`) and to forecast (`test`).

    No run group of `test` is in the others.
    """

    learn: list[Trajectory]
    references: list[Trajectory]
    test: list[Trajectory]


@dataclass(frozen=True, kw_only=True)
class RunSplit:
    """Regular expressions over `family/suite/run`, and base tasks.

    Runs that `test` matches are forecast, runs that `excluded` matches are in no part, the others
    are finished. With `test_tasks` only these tasks are forecast; they are references but not
    trained on, like runs that `compared` matches. Runs that `apart` matches are renamed: they are
    trainings of their own, and another run of the same name may be a reference.
    """

    name: str
    test: str
    excluded: str = "$^"
    test_tasks: tuple[str, ...] = ()
    apart: str = "$^"
    compared: str = "$^"

    def apply(self, trajectories: Sequence[Trajectory]) -> Parts:
        """Split trajectories.

        Raises:
            UserError: nothing to train on or to forecast.
        """
        parts = Parts(learn=[], references=[], test=[])
        for trajectory in trajectories:
            where = f"{trajectory.family}/{trajectory.suite}/{trajectory.run}"
            if re.search(self.excluded, where):
                continue
            item = trajectory
            if re.search(self.apart, where):
                item = replace(trajectory, run=f"{trajectory.run}@{trajectory.suite}")
            held_task = trajectory.base_task in self.test_tasks
            if re.search(self.test, where):
                if held_task or not self.test_tasks:
                    parts.test.append(item)
                continue
            parts.references.append(item)
            if not held_task and not re.search(self.compared, where):
                parts.learn.append(item)
        if not parts.learn or not parts.test:
            raise UserError(
                f"split {self.name!r}: {len(parts.learn)} trajectories to train on and "
                f"{len(parts.test)} to forecast; expected some of both. Is this the table it was "
                "written for?"
            )
        return parts


_LARGEST: Final = r"pythia-12b|olmo.*/3B"

SPLITS: Final = {
    split.name: split
    for split in (
        RunSplit(name="dev", test=r"pythia-2\.8b|olmo.*/1B", excluded=_LARGEST),
        RunSplit(name="standard", test=_LARGEST),
        RunSplit(name="pythia-to-olmo", test=r"^olmo/"),
        RunSplit(name="olmo-to-pythia", test=r"^pythia/"),
        RunSplit(name="pythia-to-olmo-3b", test=r"olmo.*/3B", compared=r"^olmo/"),
        RunSplit(name="olmo-to-pythia-12b", test=r"pythia-12b", compared=r"^pythia/"),
        RunSplit(
            name="unseen-tasks",
            test=_LARGEST,
            test_tasks=(*PAPER_HELD_OUT_TASKS, *_CATEGORIES),
        ),
        RunSplit(name="same-name", test=r"pythia-v1/", apart=r"pythia-v1/", excluded=r"^olmo/"),
    )
}
"""Splits of the public trajectories of Pythia and OLMo. Everything is chosen on `dev`; the others
are for reports only."""
