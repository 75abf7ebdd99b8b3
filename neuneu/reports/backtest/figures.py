"""Which figures a backtest draws, and of what: representative panels, chosen by rule."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from neuneu.core.storage import Folder
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
from neuneu.reports.style import save_figure

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
    """Draws every figure the data allow as SVG (wide and narrow) and PNG into folder/figures.

    Args:
        folder: the backtest's output folder.
        table: `schemas.FORECASTS` with outcomes.
        summary: what `evaluation_summary` says of it.
        trajectories: the observed runs, those forecast among them.
        losses: `schemas.LOSSES` of the same runs.

    Returns:
        The files written. Figures of an earlier backtest in the folder are removed first.
    """
    out = folder / FIGURES_FOLDER
    remove_figures(Folder(folder))
    drawn = _figures(read_evaluation(table), summary, trajectories, losses)
    written = []
    for name, draw in drawn.items():
        wide, narrow = draw(False), draw(True)
        for suffix, figure in ((".svg", wide), (".png", wide), ("-narrow.svg", narrow)):
            path = out / f"{name}{suffix}"
            save_figure(figure, path)
            written.append(path)
    return written


def remove_figures(folder: Folder) -> None:
    """Removes what `write_figures` wrote to a backtest's folder, and nothing else there."""
    figures = folder / FIGURES_FOLDER
    for name in figures.files():
        if name.startswith(FIGURE_NAMES):
            figures.delete(name)


def _figures(
    table: EvaluationTable,
    summary: Mapping[str, Any],
    trajectories: Sequence[Trajectory],
    losses: pa.Table | None,
) -> dict[str, Callable[[bool], Figure]]:
    forecasters: Mapping[str, Any] = summary["forecasters"]
    panels = forecast_panels(table, summary, trajectories)
    horizon = {name: entry["by_horizon"] for name, entry in forecasters.items()}
    figures: dict[str, Callable[[bool], Figure]] = {
        "trajectories": lambda narrow: plot_trajectories(panels, narrow=narrow),
        "horizon": lambda narrow: plot_horizon(horizon, narrow=narrow),
    }
    bands = {
        name: entry["overall"]
        for name, entry in forecasters.items()
        if entry["overall"]["coverage_80"] is not None
    }
    if bands:
        figures["coverage"] = lambda narrow: plot_coverage(bands, narrow=narrow)
    named = None if losses is None else loss_curves(losses)
    if named is not None:
        loss_name, curves = named
        figures["losses"] = lambda narrow: plot_losses(curves, name=loss_name, narrow=narrow)
    tasks = task_panels(trajectories)
    if tasks:
        figures["above_chance"] = lambda narrow: plot_above_chance(tasks, narrow=narrow)
    return figures


def leading_forecaster(summary: Mapping[str, Any]) -> str:
    """The best forecaster a user could have: least paired MAE, oracles only if alone."""
    forecasters = summary["forecasters"]
    paired = summary["paired"].get("mae", {})
    overall = {
        name: (entry["overall"]["mae"] or {"value": np.inf})["value"]
        for name, entry in forecasters.items()
    }
    score = {name: paired[name]["value"] if paired.get(name) else overall[name] for name in overall}
    usable = [name for name in score if forecasters[name]["sees"] != "oracle-loss"]
    return min(usable or score, key=lambda name: score[name])


def forecast_panels(
    table: EvaluationTable, summary: Mapping[str, Any], trajectories: Sequence[Trajectory]
) -> list[ForecastPanel]:
    """The trajectory of median error in each task group, then those of 90th-percentile error.

    The error is the leading forecaster's; the rule picks neither its best nor its worst.
    """
    by_key = {t.key: t for t in trajectories}
    who = [
        (str(r["suite"]), str(r["run"]), _int(r["num_fewshot"]), str(r["task"]), str(r["metric"]))
        for r in table.trajectories
    ]
    known = [by_key[key] for key in who]
    leader = leading_forecaster(summary)
    median = table.quantiles[leader][:, table.levels[leader].index(0.5)]
    errors = np.add.reduceat(np.abs(median - table.y), table.starts) / (table.stops - table.starts)
    chosen: list[int] = []
    used: set[str] = set()
    for percentile in (50, 90):
        for group in _by_frequency([t.group for t in known]):
            members = [
                i
                for i, t in enumerate(known)
                if t.group == group and not np.isnan(errors[i]) and t.base_task not in used
            ]
            if not members or len(chosen) == _PANELS:
                continue
            ranked = sorted(members, key=lambda i: float(errors[i]))
            pick = ranked[round((len(ranked) - 1) * percentile / 100)]
            chosen.append(pick)
            used.add(known[pick].base_task)
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
    )


def loss_curves(losses: pa.Table) -> tuple[str, list[Curve]] | None:
    """(validation set, a curve a run) of the suite with the most runs; None without losses."""
    rows = losses.filter(pc.equal(losses["metric"], "cross_entropy_loss"))
    if rows.num_rows == 0:
        return None
    suite = _by_frequency([suite for suite, _ in {(r["suite"], r["run"]) for r in _runs(rows)}])[0]
    rows = rows.filter(pc.equal(rows["suite"], suite))
    name = _by_frequency(rows["name"].to_pylist())[0]
    rows = rows.filter(pc.equal(rows["name"], name))
    shots = _by_frequency(rows["num_fewshot"].to_pylist())[0]
    if shots is not None:
        rows = rows.filter(pc.equal(rows["num_fewshot"], shots))
    longest = rows.group_by(["run", "params"]).aggregate([("tokens", "max")]).to_pylist()
    curves = []
    for run in _one_a_size({r["run"]: (r["params"], r["tokens_max"]) for r in longest}):
        part = rows.filter(pc.equal(rows["run"], run)).sort_by("tokens")
        tokens, values = part["tokens"].to_numpy(), part["value"].to_numpy()
        keep = (tokens > 0) & ~np.isnan(values)
        if keep.sum() > 1:
            params = part["params"][0].as_py()
            curves.append(Curve(run=run, params=params, tokens=tokens[keep], values=values[keep]))
    return (f"{name} ({suite})", curves) if curves else None


def task_panels(trajectories: Sequence[Trajectory]) -> list[TaskPanel]:
    """The tasks that rise most while training, in the suite and shots with most runs x tasks."""
    trained = [t.without_step_zero() for t in trajectories]
    cells = _by_frequency([(t.suite, t.num_fewshot) for t in trained if len(t) > 1])
    if not cells:
        return []
    members = [t for t in trained if (t.suite, t.num_fewshot) == cells[0] and len(t) > 1]
    shown = set(_one_a_size({t.run: (t.params, float(t.tokens[-1])) for t in members}))
    by_task: dict[tuple[str, str], list[Trajectory]] = {}
    for trajectory in members:
        if trajectory.run in shown:
            by_task.setdefault((trajectory.task, trajectory.metric), []).append(trajectory)
    # One panel a task group in turn, its steepest tasks first: MMLU alone has 57.
    ranked: dict[str, list[tuple[float, tuple[str, str]]]] = {}
    for key, group in by_task.items():
        rise = max(float(t.values[-3:].mean() - t.values[:3].mean()) for t in group)
        ranked.setdefault(group[0].group, []).append((rise, key))
    queues = [sorted(queue, reverse=True) for _, queue in sorted(ranked.items())]
    depth = max(len(queue) for queue in queues)
    order = [queue[level][1] for level in range(depth) for queue in queues if level < len(queue)]
    seen: set[str] = set()
    panels: list[TaskPanel] = []
    for key in order:
        group = by_task[key]
        if group[0].base_task in seen or len(panels) == _TASK_PANELS:
            continue
        seen.add(group[0].base_task)
        panels.append(
            TaskPanel(
                title=group[0].base_task,
                chance=group[0].chance,
                curves=[
                    Curve(run=t.run, params=t.params, tokens=t.tokens, values=t.values)
                    for t in group
                ],
            )
        )
    return panels


def _runs(rows: pa.Table) -> list[dict[str, Any]]:
    return rows.group_by(["suite", "run", "params"]).aggregate([]).to_pylist()


def _one_a_size(runs: Mapping[str, tuple[float, float]]) -> list[str]:
    """At most `_RUNS` of runs {name: (params, last tokens)}: the longest of each size.

    Sizes are evenly spaced from the smallest to the largest; ties go to the first name.
    """
    best: dict[float, str] = {}
    for run in sorted(runs, key=lambda name: (-runs[name][1], name)):
        best.setdefault(runs[run][0], run)
    ordered = [best[size] for size in sorted(best)]
    keep = np.unique(np.linspace(0, len(ordered) - 1, min(_RUNS, len(ordered))).round())
    return [ordered[int(index)] for index in keep]


def _by_frequency(values: Sequence[Any]) -> list[Any]:
    """Distinct values, the most frequent first, ties in sorted order."""
    counts: dict[Any, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return sorted(counts, key=lambda value: (-counts[value], str(value)))


def _int(value: object) -> int:
    return int(str(value))
