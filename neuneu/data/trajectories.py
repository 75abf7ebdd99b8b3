"""Trajectories: the accuracies of one run on one task, ordered by training tokens."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.chance import known_chance
from neuneu.data.choices import Choices
from neuneu.data.runs import RunTable
from neuneu.data.scales import FRACTION, SCALES, Scale, scale_of
from neuneu.data.schemas import TRAJECTORY_KEY, trajectory_starts

_ARRAYS: Final = {
    "steps": "step", "tokens": "tokens", "flops": "flops", "values": "value", "stderrs": "stderr",
}  # fmt: skip

_RUN: Final = ("family", "suite", "run")

RunGroup = tuple[str, str]
"""(family, run): all trajectories of one training run; the unit of splits and of calibration."""

_LOSS: Final = "cross_entropy_loss"
SIGNALS: Final = {"bpb": "_bpb", "nll_gold": "_gold", "soft_log": "", "p_gold": "", "soft": ""}
"""Continuous metrics of a task that inform its accuracy, best first, and how the names of their
rows in a loss table may end: bits per byte and mean loss of the right answer, and its probability
among the choices (`soft_log`: mean log-probability)."""
_PROBABILITIES: Final = ("p_gold", "soft")

NEAR_CHANCE: Final = 0.03
"""An accuracy at most three points above chance is near chance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """One (suite, run, num_fewshot, task, metric) with its n checkpoints in token order.

    `steps` (n,) int64; `tokens`, `flops`, `values` (accuracy, or another metric in its own units)
    and `stderrs` (NaN where unknown) (n,) float64. `scale` is that of the metric. `losses` maps a
    validation set's name to (n,) float64 mean losses in nats per token, NaN where a checkpoint has
    none. `chance` and `base_task` come from the task
    table; chance is that of a known benchmark otherwise (`data.chance`), None where unknown.
    `signals` maps a continuous metric of the task itself (`SIGNALS`, best first) to (n,) values
    that fall as a model gets better (probabilities as negative logarithms), NaN where unknown.
    `recipe`, `schedule` and `decay_start` (tokens) come from the table of runs (`data.runs`); ""
    or None where unknown. `choices` are the scored choices behind the accuracies, of some or all
    of these checkpoints and of no other; None where they were not kept.
    """

    family: str
    suite: str
    run: str
    params: float
    num_fewshot: int
    task: str
    metric: str
    steps: IntArray
    tokens: FloatArray
    flops: FloatArray
    values: FloatArray
    stderrs: FloatArray
    losses: Mapping[str, FloatArray] = field(default_factory=dict)
    planned_tokens: float | None = None
    chance: float | None = None
    base_task: str = ""
    group: str = ""
    recipe: str = ""
    schedule: str = ""
    decay_start: float | None = None
    signals: Mapping[str, FloatArray] = field(default_factory=dict)
    scale: Scale = FRACTION
    choices: Choices | None = None

    def __len__(self) -> int:
        """The number of checkpoints n."""
        return len(self.steps)

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """(suite, run, num_fewshot, task, metric): unique in a table."""
        return (self.suite, self.run, self.num_fewshot, self.task, self.metric)

    @property
    def run_group(self) -> RunGroup:
        """(family, run): the unit of splits and of calibration."""
        return (self.family, self.run)

    @property
    def task_loss(self) -> FloatArray | None:
        """(n,) the best of the signals, NaN where unknown; None without one."""
        return next(iter(self.signals.values()), None)

    def slice(self, start: int, stop: int) -> "Trajectory":
        """Keep the checkpoints start .. stop - 1 and everything else."""
        arrays: dict[str, Any] = {name: getattr(self, name)[start:stop] for name in _ARRAYS}
        losses = {name: values[start:stop] for name, values in self.losses.items()}
        signals = {name: values[start:stop] for name, values in self.signals.items()}
        return replace(self, **arrays, losses=losses, signals=signals, choices=self._kept(arrays))

    def _kept(self, arrays: Mapping[str, Any]) -> Choices | None:
        """The choices of the checkpoints that a slice keeps."""
        if self.choices is None:
            return None
        steps = arrays["steps"]
        first, last = (int(steps[0]), int(steps[-1])) if len(steps) else (0, -1)
        return self.choices.between(first, last)

    def on_unit_scale(self) -> "Trajectory":
        """Map the values into [0, 1], higher is better (`data.scales`); accuracies stay."""
        if self.scale.is_unit:
            return self
        return replace(
            self,
            values=self.scale.to_unit(self.values),
            stderrs=self.scale.unit_width(self.values, self.stderrs),
            chance=None
            if self.chance is None
            else float(self.scale.to_unit(np.array(self.chance))),
            scale=FRACTION,
        )

    def accuracies_alone(self) -> "Trajectory":
        """Drop losses, signals and scored choices."""
        return replace(self, losses={}, signals={}, choices=None)

    def without_step_zero(self) -> "Trajectory":
        """Drop the untrained checkpoint, which no protocol uses."""
        return self.slice(1, len(self)) if len(self) and self.steps[0] == 0 else self


def build_trajectories(
    accuracies: pa.Table,
    losses: pa.Table | None = None,
    tasks: pa.Table | None = None,
    runs: RunTable | None = None,
) -> list[Trajectory]:
    """Turn tidy tables into trajectories, sorted by key.

    `acc_bytes` is left out beside `acc_norm`: for ASCII text they are the same trajectory, and
    training on or scoring both would count it twice.

    Args:
        accuracies: `schemas.ACCURACIES`, checked and sorted (`schemas.validate`).
        losses: `schemas.LOSSES`; rows of metric `cross_entropy_loss` join on (suite, run, step),
            whatever their num_fewshot. A name logged for the same shots wins over another's. Rows
            of the metrics `SIGNALS` whose name is the task's (or ends in `_bpb`, `_gold` beside
            it) are signals of that task, as are accuracies' rows of these metrics.
        tasks: `schemas.TASKS`, for chance, base task and group. Where it gives no chance, that of
            a well-known benchmark is assumed (`data.chance`).
        runs: facts about the runs.
    """
    starts = trajectory_starts(accuracies)
    stops = np.append(starts[1:], accuracies.num_rows)
    arrays = {field: accuracies.column(name).to_numpy() for field, name in _ARRAYS.items()}
    params, planned = (accuracies.column(c).to_numpy() for c in ("params", "planned_tokens"))
    identity = accuracies.take(pa.array(starts)).select(["family", *TRAJECTORY_KEY]).to_pylist()
    loss_index = _index_losses(losses, accuracies)
    task_index = {} if tasks is None else {(t["task"], t["metric"]): t for t in tasks.to_pylist()}
    task_names = {task: row for (task, _), row in task_index.items()}
    normalised = {_without_metric(who) for who in identity if who["metric"] == "acc_norm"}
    facts = {key: (runs or RunTable()).of(dict(zip(_RUN, key, strict=True))) for key in {
        tuple(who[k] for k in _RUN) for who in identity
    }}  # fmt: skip
    result = []
    for who, start, stop in zip(identity, starts, stops, strict=True):
        if who["metric"] == "acc_bytes" and _without_metric(who) in normalised:
            continue
        # Copies: slices of pyarrow's memory are not writable.
        own: dict[str, Any] = {name: array[start:stop].copy() for name, array in arrays.items()}
        told = facts[tuple(who[key] for key in _RUN)]
        planned_end = None if np.isnan(planned[stop - 1]) else float(planned[stop - 1])
        info = task_index.get((who["task"], who["metric"])) or task_names.get(who["task"], {})
        own_row = task_index.get((who["task"], who["metric"]), {})
        scale = scale_of(who["metric"], higher_is_better=own_row.get("higher_is_better"))
        base = info.get("base_task") or who["task"]
        # The chance level of a task's accuracy says nothing of its bits per byte.
        is_accuracy = who["metric"] not in SCALES
        chance = (info if is_accuracy else own_row).get("chance")
        result.append(
            Trajectory(
                **who,
                **own,
                params=float(params[start]),
                losses=_losses(loss_index[who["suite"], who["run"]], who, own["steps"]),
                signals=_signals(loss_index[who["suite"], who["run"]], who, own["steps"]),
                planned_tokens=planned_end,
                chance=known_chance(base, who["metric"]) if chance is None else chance,
                scale=scale,
                base_task=base,
                group=info.get("group") or "",
                recipe=told.recipe,
                schedule=told.schedule,
                decay_start=replace(told, planned_tokens=planned_end).decay_begins,
            )
        )
    return result


_Rows = list[tuple[int, int, float]]
_Losses = dict[str, dict[str, _Rows]]


def _without_metric(who: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(value for key, value in who.items() if key != "metric")


def _index_losses(losses: pa.Table | None, accuracies: pa.Table) -> dict[tuple[str, str], _Losses]:
    """(suite, run) -> metric -> name -> (num_fewshot, step, value)."""
    index: dict[tuple[str, str], _Losses] = defaultdict(
        lambda: {metric: defaultdict(list) for metric in (_LOSS, *SIGNALS)}
    )
    for table, named in ((accuracies, "task"), (losses, "name")):
        if table is None:
            continue
        is_read = pc.field("metric").isin([_LOSS, *SIGNALS])
        read = table.filter(is_read & pc.field("value").is_valid())
        names = ("metric", "suite", "run", named, "num_fewshot", "step", "value")
        cells = (read.column(column).to_pylist() for column in names)
        for metric, suite, run, name, num_fewshot, step, value in zip(*cells, strict=True):
            index[suite, run][metric][name].append((num_fewshot or 0, step, value))
    return index


def _losses(index: _Losses, who: Mapping[str, Any], steps: IntArray) -> dict[str, FloatArray]:
    """The losses of a run's checkpoints, by validation set."""
    # Losses logged for the same shots come last and so take precedence.
    return _at_steps(
        {
            name: sorted(rows, key=lambda row: row[0] == who["num_fewshot"])
            for name, rows in index[_LOSS].items()
        },
        steps,
    )


def _signals(index: _Losses, who: Mapping[str, Any], steps: IntArray) -> dict[str, FloatArray]:
    """The signals of one task at its number of shots, by metric."""
    found = {}
    for metric, ending in SIGNALS.items():
        names = index[metric]
        rows = [*names.get(who["task"], ()), *names.get(who["task"] + ending, ())]
        if metric != who["metric"]:  # no metric is a signal of itself
            found[metric] = [row for row in rows if row[0] == who["num_fewshot"]]
    return {metric: as_signal(metric, values) for metric, values in _at_steps(found, steps).items()}


def as_signal(metric: str, values: FloatArray) -> FloatArray:
    """Values of a metric of `SIGNALS` as they are kept: they fall as a model gets better."""
    if metric in _PROBABILITIES:
        return -np.log(np.where(values > 0, values, np.nan))
    return -values if metric == "soft_log" else values


def _at_steps(rows: Mapping[str, _Rows], steps: IntArray) -> dict[str, FloatArray]:
    """(n,) values at the steps, NaN where there is none; names without any are left out."""
    joined = {}
    for name, known in rows.items():
        by_step = {step: value for _, step, value in known}
        values = np.array([by_step.get(int(step), np.nan) for step in steps])
        if not np.isnan(values).all():
            joined[name] = values
    return joined


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLossTable:
    """Per-unit losses of many checkpoints, aligned on one text.

    `matrix` is (C, W) float16 nats, one row a checkpoint; `rows` maps (suite, run, step) to its
    row; `unit` is `word` or `token`.
    """

    matrix: npt.NDArray[np.float16]
    rows: Mapping[tuple[str, str, int], int]
    unit: str
    corpus_hash: str

    @classmethod
    def from_table(cls, table: pa.Table) -> "TokenLossTable | None":
        """Read `schemas.TOKEN_LOSSES`; None if it is empty.

        Raises:
            DataError: rows of different corpora, units or lengths, which cannot be aligned.
        """
        if table.num_rows == 0:
            return None
        kinds = {
            tuple(row.values())
            for row in table.select(["corpus_hash", "unit", "start", "count"]).to_pylist()
        }
        if len(kinds) != 1:
            raise DataError(f"token losses: expected one corpus, unit and length, found {kinds}.")
        (corpus_hash, unit, _, count) = kinds.pop()
        # By chunks: a list array holds at most 2^31 values, 8,300 checkpoints of 256,000 words.
        flat = np.concatenate(
            [
                chunk.flatten().to_numpy(zero_copy_only=False)
                for chunk in table.column("losses").chunks
            ]
        )
        keys = zip(*(table.column(k).to_pylist() for k in ("suite", "run", "step")), strict=True)
        return cls(
            matrix=flat.astype(np.float16).reshape(table.num_rows, count),
            rows={key: row for row, key in enumerate(keys)},
            unit=unit,
            corpus_hash=corpus_hash,
        )


def merge_token_losses(
    first: TokenLossTable | None, second: TokenLossTable | None
) -> TokenLossTable | None:
    """Concatenate two tables; the first takes precedence where both have a checkpoint.

    Raises:
        DataError: losses of different texts or units.
    """
    if first is None or second is None:
        return first or second
    kinds = {(t.corpus_hash, t.unit, t.matrix.shape[1]) for t in (first, second)}
    if len(kinds) != 1:
        raise DataError(
            f"token losses: expected one corpus, unit and length in both stores, found "
            f"{sorted(kinds)}; score both on the same corpus."
        )
    offset = len(first.matrix)
    shifted = {key: row + offset for key, row in second.rows.items()}
    return replace(
        first,
        matrix=np.concatenate([first.matrix, second.matrix]),
        rows=shifted | dict(first.rows),
    )
