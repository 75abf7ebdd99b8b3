"""Which figures a backtest draws, with representative panels selected by rule."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.storage import Folder
from neuneu.data.scales import PERCENT
from neuneu.data.schemas import TRAJECTORY_KEY
from neuneu.data.trajectories import Trajectory
from neuneu.evaluation.table import EvaluationTable, read_evaluation
from neuneu.reports.backtest.plots import (
    Curve,
    ForecastPanel,
    TaskPanel,
    plot_above_chance,
    plot_coverage,
    plot_horizon,
    plot_losses,
    plot_trajectories,
)
from neuneu.reports.folder import FIGURE_NAMES, FIGURES_FOLDER
from neuneu.reports.style import kept_points, save_figure

_PANELS: Final = 9
_TASK_PANELS: Final = 12
_RUNS: Final = 10


def write_figures(
    folder: Path,
    table: pa.Table,
    summary: Mapping[str, Any],
    trajectories: Sequence[Trajectory],
    losses: pa.Table | None = None,
) -> list[Path]:
    """Draws every figure that the data allow as SVG (wide and narrow) and PNG into folder/figures.

    Figures of an earlier backtest in the folder are removed first.

    Args:
        folder: output folder of the backtest.
        table: `schemas.FORECASTS` with outcomes.
        summary: the `evaluation_summary` of it.
        trajectories: the observed runs, with the forecast ones among them.
        losses: `schemas.LOSSES` of the same runs.

    Returns:
        The files written.
    """
    remove_figures(Folder(folder))
    forecasters: Mapping[str, Any] = summary["forecasters"]
    overall = {name: entry["overall"] for name, entry in forecasters.items()}
    intervals = {name: of for name, of in overall.items() if of["coverage_80"] is not None}
    panels = forecast_panels(read_evaluation(table), summary, trajectories)
    horizon = {name: entry["by_horizon"] for name, entry in forecasters.items()}
    figures = {
        "trajectories": partial(plot_trajectories, panels),
        "horizon": partial(plot_horizon, horizon, unit=summary.get("unit", PERCENT)),
    }
    if intervals:
        figures["coverage"] = partial(plot_coverage, intervals)
    if losses is not None and (found := loss_curves(losses)) is not None:
        figures["losses"] = partial(plot_losses, found[1], name=found[0])
    accuracies = [t for t in trajectories if t.scale.unit == PERCENT]
    if tasks := task_panels(accuracies):
        figures["above_chance"] = partial(plot_above_chance, tasks)
    written = []
    for name, draw in figures.items():
        wide, narrow = draw(narrow=False), draw(narrow=True)
        for suffix, figure in ((".svg", wide), (".png", wide), ("-narrow.svg", narrow)):
            path = folder / FIGURES_FOLDER / f"{name}{suffix}"
            save_figure(figure, path)
            written.append(path)
    return written


def remove_figures(folder: Folder) -> None:
    """Removes what `write_figures` wrote to a backtest's folder, and nothing else there."""
    figures = folder / FIGURES_FOLDER
    for name in figures.files():
        if name.startswith(FIGURE_NAMES):
            figures.delete(name)


def leading_forecaster(summary: Mapping[str, Any]) -> str:
    """The forecaster with the least paired MAE; oracles only if there is no other."""
    forecasters, paired = summary["forecasters"], summary["paired"].get("mae", {})
    scores = {
        name: (paired.get(name) or entry["overall"]["mae"] or {"value": np.inf})["value"]
        for name, entry in forecasters.items()
    }
    usable = [name for name in scores if forecasters[name]["sees"] != "oracle-loss"]
    return min(usable or scores, key=lambda name: scores[name])


def forecast_panels(
    table: EvaluationTable, summary: Mapping[str, Any], trajectories: Sequence[Trajectory]
) -> list[ForecastPanel]:
    """The trajectory of median error in each task group, then those of 90th-percentile error.

    The error is the leading forecaster's, at neither its best nor its worst.
    """
    by_key: dict[tuple[Any, ...], Trajectory] = {t.key: t for t in trajectories}
    known = [by_key[tuple(row[key] for key in TRAJECTORY_KEY)] for row in table.trajectories]
    leader = leading_forecaster(summary)
    median = table.quantiles[leader][:, table.levels[leader].index(0.5)]
    errors = np.add.reduceat(np.abs(median - table.y), table.starts) / (table.stops - table.starts)
    chosen: list[int] = []
    for percentile in (50, 90):
        for group in _by_frequency(t.group for t in known):
            used = {known[i].base_task for i in chosen}
            members = [
                i
                for i, t in enumerate(known)
                if t.group == group and not np.isnan(errors[i]) and t.base_task not in used
            ]
            if members and len(chosen) < _PANELS:
                ranked = sorted(members, key=lambda i: float(errors[i]))
                chosen.append(ranked[round((len(ranked) - 1) * percentile / 100)])
    return [_forecast_panel(table, i, known[i]) for i in chosen]


def _forecast_panel(table: EvaluationTable, index: int, trajectory: Trajectory) -> ForecastPanel:
    part = slice(table.starts[index], table.stops[index])
    trained = trajectory.without_step_zero()
    seen = trained.tokens <= table.context_tokens[index]
    return ForecastPanel(
        title=f"{trajectory.base_task}\n{trajectory.run}, {trajectory.num_fewshot}-shot",
        context_tokens=trained.tokens[seen],
        context_values=trained.values[seen],
        target_tokens=table.tokens[part],
        target_values=table.y[part],
        forecasts={
            name: dict(zip(table.levels[name], quantiles[part].T, strict=True))
            for name, quantiles in table.quantiles.items()
            if not np.isnan(quantiles[part]).any()
        },
        chance=trajectory.chance,
        unit=trajectory.scale.unit,
    )


def loss_curves(losses: pa.Table) -> tuple[str, list[Curve]] | None:
    """(validation set, a curve per run) of the suite with the most runs; None without losses."""
    rows = losses.filter(pc.equal(losses["metric"], "cross_entropy_loss"))
    if rows.num_rows == 0:
        return None
    runs = rows.group_by(["suite", "run"]).aggregate([])
    suite = _by_frequency(runs["suite"].to_pylist())[0]
    rows = rows.filter(pc.equal(rows["suite"], suite))
    for column in ("name", "num_fewshot"):
        value = _by_frequency(rows[column].to_pylist())[0]
        rows = rows if value is None else rows.filter(pc.equal(rows[column], value))
    longest = rows.group_by(["run", "params"]).aggregate([("tokens", "max")]).to_pylist()
    curves = []
    for run in _one_per_size({r["run"]: (r["params"], r["tokens_max"]) for r in longest}):
        part = rows.filter(pc.equal(rows["run"], run)).sort_by("tokens")
        tokens, values = part["tokens"].to_numpy(), part["value"].to_numpy()
        keep = (tokens > 0) & ~np.isnan(values)
        if keep.sum() > 1:
            params = part["params"][0].as_py()
            curves.append(Curve(run=run, params=params, tokens=tokens[keep], values=values[keep]))
    return (f"{rows['name'][0]} ({suite})", curves) if curves else None


def task_panels(trajectories: Sequence[Trajectory]) -> list[TaskPanel]:
    """The tasks that rise most while training, in the suite and shots with most runs x tasks."""
    trained = [t for t in map(Trajectory.without_step_zero, trajectories) if len(t) > 1]
    if not trained:
        return []
    setting = _by_frequency((t.suite, t.num_fewshot) for t in trained)[0]
    members = [t for t in trained if (t.suite, t.num_fewshot) == setting]
    shown = set(_one_per_size({t.run: (t.params, float(t.tokens[-1])) for t in members}))
    by_task: dict[tuple[str, str], list[Trajectory]] = {}
    for trajectory in members:
        if trajectory.run in shown:
            by_task.setdefault((trajectory.task, trajectory.metric), []).append(trajectory)
    # One panel per task group in turn, its steepest tasks first: MMLU alone has 57.
    ranked: dict[str, list[tuple[float, tuple[str, str]]]] = {}
    for key, tasks in by_task.items():
        rise = max(float(t.values[-3:].mean() - t.values[:3].mean()) for t in tasks)
        ranked.setdefault(tasks[0].group, []).append((rise, key))
    queues = [sorted(queue, reverse=True) for _, queue in sorted(ranked.items())]
    panels: dict[str, TaskPanel] = {}
    for _, key in filter(None, (entry for turn in zip_longest(*queues) for entry in turn)):
        first = by_task[key][0]
        if first.base_task not in panels and len(panels) < _TASK_PANELS:
            curves = [
                Curve(run=t.run, params=t.params, tokens=t.tokens, values=t.values)
                for t in by_task[key]
            ]
            panels[first.base_task] = TaskPanel(
                title=first.base_task, chance=first.chance, curves=curves
            )
    return list(panels.values())


def _one_per_size(runs: Mapping[str, tuple[float, float]]) -> list[str]:
    """At most `_RUNS` of runs {name: (params, last tokens)}: the longest of each size.

    Sizes are evenly spaced from the smallest to the largest; ties go to the first name.
    """
    best: dict[float, str] = {}
    for run in sorted(runs, key=lambda name: (-runs[name][1], name)):
        best.setdefault(runs[run][0], run)
    ordered = [best[size] for size in sorted(best)]
    return [ordered[int(index)] for index in kept_points(len(ordered), _RUNS)]


def _by_frequency(values: Iterable[Any]) -> list[Any]:
    """Distinct values, the most frequent first, ties in sorted order."""
    counts = Counter(values)
    return sorted(counts, key=lambda value: (-counts[value], str(value)))
