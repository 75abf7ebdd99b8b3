"""The tasks and runs of a question: one metric and one number of shots for each task."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from neuneu.core.errors import UserError
from neuneu.data.trajectories import Trajectory

TaskKey = tuple[str, str, int]
"""(task, metric, num_fewshot)."""

RunName = tuple[str, str, str]
"""(family, suite, run)."""

_PREFERRED: Final = ("acc_norm", "acc")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """`keys` of the tasks to average over, and `notes` on what was chosen among several."""

    keys: tuple[TaskKey, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The name of the average."""
        names = [task for task, _, _ in self.keys]
        return names[0] if len(names) == 1 else f"mean of {len(names)} tasks"

    @property
    def metric(self) -> str:
        """The metric of the tasks; several, joined by `and`, where they differ."""
        return " and ".join(sorted({metric for _, metric, _ in self.keys}))


def run_name(trajectory: Trajectory) -> RunName:
    """The run of a trajectory, in one suite."""
    return (trajectory.family, trajectory.suite, trajectory.run)


def task_key(trajectory: Trajectory) -> TaskKey:
    """The task of a trajectory, with metric and number of shots."""
    return (trajectory.task, trajectory.metric, trajectory.num_fewshot)


def run_labels(runs: Sequence[RunName]) -> dict[RunName, str]:
    """A short name for each run: its own, with the suite where two runs share it."""
    often = Counter(run for _, _, run in runs)
    pairs = Counter((suite, run) for _, suite, run in runs)
    labels = {}
    for family, suite, run in runs:
        label = run if often[run] == 1 else f"{suite}/{run}"
        labels[family, suite, run] = label if pairs[suite, run] == 1 else f"{family}/{label}"
    return labels


def find_runs(names: Sequence[str], known: Sequence[RunName]) -> list[RunName]:
    """Finds runs by name, `suite/run` or `family/suite/run`.

    Raises:
        UserError: a name that no run has, or that several have.
    """
    found = []
    for name in names:
        hits = [r for r in known if name in {r[2], "/".join(r[1:]), "/".join(r)}]
        if not hits:
            labels = sorted(run_labels(known).values())
            raise UserError(f"run {name!r} is not in the table; it has {', '.join(labels[:20])}.")
        if len(hits) > 1:
            raise UserError(
                f"run {name!r} is in several suites: {['/'.join(h[1:]) for h in hits]}; "
                "say which, as suite/run."
            )
        found.append(hits[0])
    return found


def select(
    trajectories: Sequence[Trajectory],
    *,
    tasks: Sequence[str] = (),
    metric: str | None = None,
    num_fewshot: int | None = None,
) -> Selection:
    """Chooses tasks, and a metric and a number of shots for each.

    Args:
        trajectories: of all runs of the question.
        tasks: names of tasks, base tasks or task groups; none means all.
        metric: of every task; None takes, for each task, the one that most runs have.
        num_fewshot: number of few-shot examples; None as for `metric`.

    Raises:
        UserError: a task, metric or number of shots that no run has.
    """
    chosen = [
        t for t in trajectories if not tasks or {t.task, t.base_task, t.group}.intersection(tasks)
    ]
    names = {name for t in trajectories for name in (t.task, t.base_task, t.group) if name}
    if missing := sorted(set(tasks) - names):
        some = sorted({t.task for t in trajectories})
        raise UserError(
            f"task {', '.join(missing)}: not in the table; it has {', '.join(some[:20])}"
            f"{' ...' if len(some) > 20 else ''}."
        )
    fitting = [
        t for t in chosen if metric in {None, t.metric} and num_fewshot in {None, t.num_fewshot}
    ]
    if not fitting:
        kinds = sorted({f"{t.metric} ({t.num_fewshot}-shot)" for t in chosen})
        shots = "any" if num_fewshot is None else num_fewshot
        raise UserError(
            f"expected metric {metric or 'any'} with {shots} shots; the table has "
            f"{', '.join(kinds)}."
        )
    keys, choices = [], Counter[str]()
    for task in sorted({t.task for t in fitting}):
        often = Counter((t.metric, t.num_fewshot) for t in fitting if t.task == task)
        best = min(often, key=lambda kind: (-often[kind], _preference(kind[0]), kind))
        keys.append((task, *best))
        if len(often) > 1:
            choices[f"{best[0]} ({best[1]}-shot)"] += 1
    notes = tuple(
        f"{kind} was taken for {count} task{'s' if count > 1 else ''} that have more than one "
        "metric or number of shots; --metric and --num-fewshot choose another"
        for kind, count in sorted(choices.items())
    )
    return Selection(keys=tuple(keys), notes=notes)


def _preference(metric: str) -> int:
    return _PREFERRED.index(metric) if metric in _PREFERRED else len(_PREFERRED)
