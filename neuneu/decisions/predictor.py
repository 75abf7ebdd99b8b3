"""The Python API: a loaded forecaster that answers five questions about a table of evaluations."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Unpack

import numpy as np

from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray
from neuneu.data.load import Table
from neuneu.data.scales import PERCENT
from neuneu.decisions.answers import Answer, plain, plain_tokens
from neuneu.decisions.average import INTERVAL, AverageForecast
from neuneu.decisions.check import Check
from neuneu.decisions.evaluations import Evaluation, pending_evaluations, sample_evaluations
from neuneu.decisions.explanation import (
    evidence_fields,
    explanation_fields,
    forecast_notes,
    take_off_warning,
)
from neuneu.decisions.forecast import make_forecasts
from neuneu.decisions.futures import RunFuture
from neuneu.decisions.options import (
    LIMIT,
    THRESHOLD,
    CheckOptions,
    ForecastOptions,
    NextEvalOptions,
    RankOptions,
    StopOptions,
    plain_settings,
    read_options,
    task_names,
)
from neuneu.decisions.statistics import first_passage, prospect, rank, reached_at, weigh
from neuneu.forecasters.protocol import JointForecaster

VALUE_DIGITS: Final = 5
"""Digits of the gain of an evaluation: a thousandth of a point of accuracy."""


class Predictor:
    """Answers questions about a table of evaluations; `neuneu.load()` returns one.

    Every method takes `accuracies` (required columns: run, task, value and one of step, tokens,
    flops; a path, a pyarrow table, a pandas DataFrame, a mapping of columns or NumPy arrays, or a
    list of rows) and keyword options, declared in `neuneu.decisions.options`. Accuracies are
    fractions in [0, 1], other metrics in their own units (`neuneu.data.scales`); `q0.1`, `q0.5`,
    `q0.9` are quantiles: q0.1 to q0.9 is an 80 % interval.

    Every row has a `calibration_group`, the number of runs it is `calibrated_on`, and `warnings`
    (each a `code` and a `text`). `explain=True` adds `compared_with` (reference runs, the most
    used first), `n_compared_with`, `left_out` and `n_left_out` (runs that end too early to be
    references) and `baselines` (forecasts of simple baselines).
    """

    def __init__(self, forecaster: JointForecaster) -> None:
        """Wraps a forecaster."""
        self.forecaster = forecaster

    def forecast(self, accuracies: Table, **options: Unpack[ForecastOptions]) -> Answer:
        """Forecasts the accuracy of every run on every task, planned runs too.

        Args:
            accuracies: evaluations so far.
            **options: see `ForecastOptions`.

        Returns:
            A row for each trajectory: `present` (None before the start), `tokens` at the horizon,
            quantiles `q0.05` to `q0.95` there. Table `forecasts` has every grid point
            (`schemas.FORECASTS`), `observed` the contexts (`schemas.ACCURACIES`).

        Raises:
            UserError: tables that cannot be read, or nothing to forecast.
        """
        dataset, horizon = read_options(accuracies, options, ForecastOptions)
        dataset = dataset.of_metric(options.get("metric"))
        found = make_forecasts(
            self.forecaster, dataset, horizon, options.get("plan"),
            calibrate=options.get("self_calibrate", True),
        )  # fmt: skip
        if options.get("explain"):
            used = found.self_calibration.forecaster
            for row, query in zip(found.rows, found.queries, strict=True):
                row.update(explanation_fields(used, [query]) | evidence_fields(used, [query]))
        given = options.get("token_losses") is not None
        notes = forecast_notes(self.forecaster, found.queries, token_losses=given)
        return Answer(
            question="forecast",
            rows=found.rows,
            notes=(*dataset.notes, *found.notes, *notes, *found.self_calibration.notes),
            self_calibration=found.self_calibration.record,
            settings=plain_settings(options),
            tables={"forecasts": found.table, "observed": found.observed},
        )

    def rank(self, accuracies: Table, **options: Unpack[RankOptions]) -> Answer:
        """Ranks runs by their score at the horizon, with the probability for each pair.

        Finished runs compete with their final scores, planned ones from before their start. No
        unfinished run is a reference of another.

        Args:
            accuracies: evaluations so far.
            **options: see `RankOptions`.

        Returns:
            A row for each run, the likely best first: `rank`, `run`, `present`, quantiles at the
            horizon, `best` (probability of being the best run), `regret` (expected loss of
            accuracy from choosing it), `beats` (run -> probability of scoring higher).

        Raises:
            UserError: fewer than two runs have all the tasks and a horizon.
        """
        average = AverageForecast(self.forecaster, accuracies, options, RankOptions, min_runs=2)
        scale = average.scale
        ranking = rank(np.stack([scale.oriented(future.final) for future in average.futures]))
        rows = []
        for position, row in enumerate(ranking.order, start=1):
            beats = {
                average.labels[other.run]: plain(ranking.beats[row, column], 4)
                for column, other in enumerate(average.futures)
                if column != row
            }
            rows.append(
                {"rank": position}
                | average.row(average.futures[row])
                | {"best": plain(ranking.best[row], 4), "regret": plain(ranking.regret[row])}
                | {"beats": beats}
            )
        return average.answer("rank", rows)

    def stop(self, accuracies: Table, **options: Unpack[StopOptions]) -> Answer:
        """Says whether to stop a run: how likely it reaches a target or beats a rival.

        Args:
            accuracies: evaluations so far.
            **options: see `StopOptions`; without a target the rival is `best`, the best other run.

        Returns:
            A row for each unfinished run: `goal`, `success` (probability), `advice` (`stop`, `go
            on`, or `cannot tell` where success is unlikely, but the run is near chance and no
            finished run of its size shows whether it will take off), `gain` with `gain_low` and
            `gain_high` (what the rest of the training improves the score by, positive where lower
            is better, too, and its 80 % interval),
            `remaining_tokens`, `remaining_flops`, `remaining_share` of the whole run.

        Raises:
            UserError: target and rival together, or no unfinished run with the tasks and a
                horizon.
        """
        target, rival = options.get("target"), options.get("rival")
        threshold = options.get("threshold", THRESHOLD)
        if target is not None and rival is not None:
            raise UserError("target and rival: expected one of them, found both.")
        if target is not None:
            _check_score("target", target)
        _check_fraction("threshold", threshold)
        average = AverageForecast(
            self.forecaster, accuracies, options, StopOptions, min_runs=2 if target is None else 1
        )
        if target is not None:
            _check_within("target", target, average)
        rivals = average.futures if rival in {None, "best"} else average.find([str(rival)])
        rows = []
        for future in average.futures:
            goal = _goal(future, rivals, target)
            if future.finished or goal is None:
                continue
            take_off = take_off_warning(average.forecaster, future.queries)
            better = average.scale.oriented
            found = prospect(
                better(future.final), float(better(np.array(future.present))),
                goal if target is None else float(better(np.array(target))), threshold=threshold,
                may_take_off=take_off is not None,
            )  # fmt: skip
            remaining = future.remaining_tokens
            row = average.row(future)
            if take_off is not None and found.advice == "cannot tell":
                row["warnings"].append(asdict(take_off))
            rows.append(
                row
                | {
                    "goal": target if target is not None else (rival or "best"),
                    "success": plain(found.success, 4),
                    "advice": found.advice,
                    "gain": plain(found.gain),
                    "gain_low": plain(found.gain_low),
                    "gain_high": plain(found.gain_high),
                    "remaining_tokens": plain_tokens(remaining),
                    "remaining_flops": plain_tokens(remaining * future.flops_per_token),
                    "remaining_share": plain(remaining / (future.seen_tokens + remaining), 3),
                }
            )
        if not rows:
            raise UserError("stop: no run is unfinished; give --until beyond the last checkpoint.")
        return average.answer("stop", rows, threshold=threshold)

    def when(self, accuracies: Table, score: float, **options: Unpack[RankOptions]) -> Answer:
        """Forecasts at how many tokens a run reaches a score.

        A score counts as reached where the mean of three consecutive checkpoints is at least that
        good; future checkpoints are spaced like past ones.

        Args:
            accuracies: evaluations so far.
            score: an accuracy, as a fraction, or another metric in its own units.
            **options: see `RankOptions`.

        Returns:
            A row for each run: `reached` (tokens, if it was reached already), `t0.1`, `t0.5`,
            `t0.9` (tokens by which it is reached with that probability; None beyond the horizon),
            `never` (probability of not reaching it by the horizon), `places` and `by` (grid
            points in tokens, and the probability of having reached it there).

        Raises:
            UserError: a score that the metric cannot have, or no run with the tasks and a horizon.
        """
        _check_score("score", score)
        average = AverageForecast(self.forecaster, accuracies, options, RankOptions)
        _check_within("score", score, average)
        rows = [
            average.row(future) | {"score": score} | _passage(future, score)
            for future in average.futures
        ]
        return average.answer("when", rows, score=score)

    def next_eval(self, accuracies: Table, **options: Unpack[NextEvalOptions]) -> Answer:
        """Ranks (checkpoint, task) pairs to evaluate next by information per cost.

        Candidates are checkpoints after the last one evaluated on a task: those of `checkpoints`,
        else those at which the run was evaluated on another task.

        Args:
            accuracies: evaluations so far.
            **options: see `NextEvalOptions`. `costs` are by default the number of items in the
                task table, else 1; runs cost in proportion to their parameters, where known.
                `goal` is by default `best` if there are several runs, else `final`.

        Returns:
            A row for each evaluation, the most informative for its cost first: `run`, `task`,
            `step`, `tokens`, `cost` (the cheapest is 1), `narrowing` (fraction by which the
            standard deviation of the run's final score is expected to shrink), `value` (accuracy
            that choosing among the runs is expected to gain).

        Raises:
            UserError: nothing left to evaluate, or an unknown goal.
        """
        goal = options.get("goal")
        if goal not in {None, "best", "final"}:
            raise UserError(f"goal {goal!r}: expected best or final.")
        average = AverageForecast(self.forecaster, accuracies, options, NextEvalOptions)
        goal = goal or ("best" if len(average.futures) > 1 else "final")
        pending = pending_evaluations(
            average.trajectories, average.futures, average.horizon, options.get("checkpoints")
        )
        if not pending:
            raise UserError(
                "next-eval: nothing is left to evaluate: every checkpoint of the table has every "
                "task of the question; give --checkpoints FILE (run and step or tokens) of those "
                "that are saved."
            )
        samples = sample_evaluations(
            average.forecaster, average.trajectories, average.futures, pending,
            horizon=average.horizon, token_losses=average.dataset.token_losses, seed=average.seed,
            beside=average.beside,
        )  # fmt: skip
        better = average.scale.oriented
        worth = weigh(better(samples.final), better(samples.values), samples.owner)
        cost = _costs(pending, options.get("costs") or {}, average.dataset.items)
        gain = np.round(worth.value, VALUE_DIGITS) if goal == "best" else worth.narrowing
        # Where no single evaluation gains anything in those digits, narrowing decides.
        order = np.lexsort((-worth.narrowing / cost, -gain / cost))
        rows = []
        for position, i in enumerate(order[: options.get("limit", LIMIT)].tolist(), start=1):
            task, metric, num_fewshot = pending[i].key
            rows.append(
                {
                    "rank": position, "run": average.labels[pending[i].run], "task": task,
                    "metric": metric, "num_fewshot": num_fewshot, "step": pending[i].step,
                    "tokens": plain_tokens(pending[i].tokens), "cost": plain(cost[i], 3),
                    "narrowing": plain(worth.narrowing[i], 4),
                    "higher_is_better": average.scale.higher_is_better,
                    "value": plain(worth.value[i], VALUE_DIGITS),
                }
            )  # fmt: skip
        return average.answer("next-eval", rows, goal=goal)

    def check(self, accuracies: Table, **options: Unpack[CheckOptions]) -> Answer:
        """Says how far off forecasts of the table's own finished runs are.

        Every finished run is held out and forecast from its beginning, with the others as
        references. A run without planned tokens ends at its last checkpoint.

        Args:
            accuracies: evaluations so far.
            **options: see `CheckOptions`.

        Returns:
            A row for all tasks together and one for each task (with more than thirty, each task
            group): `runs`, `trajectories`, `error` (mean absolute, with the bounds of its 95 %
            interval over runs), `rule` (the best of persistence, recent mean and power law),
            `rule_error`, `ratio` of both, `coverage_50`, `coverage_80`, `coverage_90`, `width_80`,
            and the last two as they are without self-calibration (`uncorrected_...`).

        Raises:
            UserError: no family with two finished runs.
        """
        context = options.get("context")
        if context is not None:
            _check_fraction("context", context)
        others = {key: value for key, value in options.items() if key != "context"}
        dataset, horizon = read_options(accuracies, others, CheckOptions)
        dataset = dataset.of_metric(options.get("metric"))
        found = Check(self.forecaster, dataset, horizon, tasks=task_names(options), context=context)
        return Answer(
            question="check",
            rows=found.rows,
            notes=(*dataset.notes, *found.notes),
            settings=plain_settings(options),
            self_calibration=tuple(check.to_json() for check in found.checks),
        )


def _goal(
    future: RunFuture, rivals: Sequence[RunFuture], target: float | None
) -> float | FloatArray | None:
    """The target, or (S,) final scores of the best rival, oriented; None without one."""
    if target is not None:
        return target
    others = [rival.scale.oriented(rival.final) for rival in rivals if rival.run != future.run]
    return np.max(others, axis=0) if others else None


def _passage(future: RunFuture, score: float) -> dict[str, Any]:
    """When a run reaches a score, as JSON types."""
    better = future.scale.oriented
    past, goal = better(future.past), float(better(np.array(score)))
    index = reached_at(past, goal)
    at = None if index is None else plain_tokens(future.past_tokens[index])
    if at is not None or future.finished:
        times = {f"t{level:g}": at for level in INTERVAL}
        return {"reached": at, "never": float(at is None), **times, "places": [], "by": []}
    passage = first_passage(past, future.tokens, better(future.samples), goal)
    return {
        "reached": None,
        "never": plain(passage.never, 4),
        **{f"t{level:g}": plain_tokens(passage.quantile(level)) for level in INTERVAL},
        "places": [plain_tokens(tokens) for tokens in future.tokens],
        "by": [plain(passage.by(tokens), 4) for tokens in future.tokens],
    }


def _costs(
    pending: Sequence[Evaluation], costs: Mapping[str, float], items: Mapping[tuple[str, str], int]
) -> FloatArray:
    """Relative costs of evaluations, the cheapest 1."""
    if missing := sorted(set(costs) - {evaluation.key[0] for evaluation in pending}):
        raise UserError(f"costs: {', '.join(missing)}: expected tasks that are left to evaluate.")
    if any(cost <= 0 for cost in costs.values()):
        raise UserError("costs: expected positive numbers.")
    found = np.array([
        costs.get(e.key[0], items.get(e.key[:2], 1)) * np.nan_to_num(e.params, nan=1.0)
        for e in pending
    ])  # fmt: skip
    return np.asarray(found / found.min())


def _check_score(name: str, value: float) -> None:
    if not np.isfinite(value):
        raise UserError(f"{name}: expected a number, found {value:g}.")


def _check_within(name: str, value: float, average: AverageForecast) -> None:
    """Raises UserError for a score that the metric of the question cannot have."""
    scale = average.scale
    if scale.low < value < scale.high:
        return
    if scale.unit == PERCENT:
        raise UserError(f"{name}: expected a fraction between 0 and 1, found {value:g}.")
    raise UserError(
        f"{name}: expected {average.selection.metric} between {scale.low:g} and {scale.high:g}, "
        f"found {value:g}."
    )


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise UserError(f"{name}: expected a fraction between 0 and 1, found {value:g}.")
