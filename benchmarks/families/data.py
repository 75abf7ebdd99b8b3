"""The five public families, with the facts about their runs that the shared tables lack."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from neuneu.data.load import load_dataset
from neuneu.data.trajectories import Trajectory

FAMILIES: Final = ("pythia", "olmo", "open-sci-ref", "gemstones", "smollm3-ablations")
"""Each is forecast by what was trained on the others."""

_TOGETHER: Final = ("pythia", "olmo")
"""Families that share one table; each of the others has a folder of its own."""


@dataclass(frozen=True, kw_only=True)
class PublicFact:
    """What is publicly known of the runs whose `suite/run` begins with the regular expression.

    `decay` is the share of a WSD run, at its end, in which the learning rate decays.
    """

    runs: str
    recipe: str = ""
    schedule: str = ""
    decay: float | None = None


FACTS: Final = (
    PublicFact(runs=r"pythia-v\d/.*-deduped", recipe="pile-deduped", schedule="cosine"),
    PublicFact(runs=r"pythia-v\d/", recipe="pile", schedule="cosine"),
    PublicFact(runs=r"olmo-ladder-constlr/", schedule="constant"),
    PublicFact(runs=r"olmo-ladder", schedule="cosine"),
    PublicFact(runs=r"smollm3-ablations/wsd .*decay 10%", schedule="wsd", decay=0.1),
    PublicFact(runs=r"smollm3-ablations/wsd .*decay 20%", schedule="wsd", decay=0.2),
    PublicFact(runs=r"smollm3-ablations/", schedule="cosine"),
)
"""The first that fits a run fills in what its table leaves out."""


def load_families(
    shared: Path, names: Sequence[str] = FAMILIES, *, metric: str | None = None
) -> dict[str, list[Trajectory]]:
    """Read families of the shared folder (`trajectories/` and `families/`), facts filled in.

    Args:
        shared: the folder of public data.
        names: of `FAMILIES`.
        metric: one that only tables of losses have, whose rows become trajectories, too.

    Raises:
        UserError: a table that cannot be read.
    """
    tasks = shared / "trajectories" / "tasks.csv"
    found: dict[str, list[Trajectory]] = {name: [] for name in names}
    if together := set(_TOGETHER) & set(names):
        folder = shared / "trajectories"
        data = load_dataset(
            folder / "accuracies.parquet", losses=folder / "losses.parquet", tasks=tasks,
            metric=metric,
        )  # fmt: skip
        for trajectory in data.trajectories:
            if trajectory.family in together:
                found[trajectory.family].append(trajectory)
    for name in names:
        if name in _TOGETHER:
            continue
        folder = shared / "families" / name
        losses = folder / "losses.parquet"
        data = load_dataset(
            folder / "accuracies.parquet",
            losses=losses if losses.exists() else None,
            tasks=tasks,
            run_table=folder / "runs.csv",
            metric=metric,
            log_notes=False,  # columns of runs.csv that nothing reads
        )
        found[name] = data.trajectories
    return {name: with_facts(trajectories) for name, trajectories in found.items()}


def with_facts(
    trajectories: Sequence[Trajectory], facts: Sequence[PublicFact] = FACTS
) -> list[Trajectory]:
    """Return trajectories of finished runs with recipe, schedule, planned tokens, decay start.

    What a table says stays. The planned tokens of a run are else its last tokens: all are finished.
    """
    ends = _ends(trajectories)
    return [_with_facts(t, ends[t.suite, t.run], facts) for t in trajectories]


def _ends(trajectories: Sequence[Trajectory]) -> Mapping[tuple[str, str], float]:
    """Return the last tokens of each (suite, run)."""
    ends: dict[tuple[str, str], float] = defaultdict(float)
    for t in trajectories:
        if len(t):
            ends[t.suite, t.run] = max(ends[t.suite, t.run], float(t.tokens[-1]))
    return ends


def _with_facts(trajectory: Trajectory, end: float, facts: Sequence[PublicFact]) -> Trajectory:
    where = f"{trajectory.suite}/{trajectory.run}"
    fact = next((f for f in facts if re.match(f.runs, where)), PublicFact(runs=""))
    planned = trajectory.planned_tokens or end
    decay_start = trajectory.decay_start
    if decay_start is None and fact.decay is not None and not trajectory.schedule:
        decay_start = (1.0 - fact.decay) * planned
    return replace(
        trajectory,
        recipe=trajectory.recipe or fact.recipe,
        schedule=trajectory.schedule or fact.schedule,
        planned_tokens=planned,
        decay_start=decay_start,
    )
