"""The Python API: a loaded forecaster that answers five questions about a table of evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Unpack

import numpy as np

from neuneu.core.errors import UserError
from neuneu.data.load import Table
from neuneu.data.trajectories import FloatArray
from neuneu.decisions.answers import Answer, plain, plain_tokens
from neuneu.decisions.asked import BAND, Asked
from neuneu.decisions.forecast import forecast_rows, make_forecasts
from neuneu.decisions.futures import RunFuture
from neuneu.decisions.grounds import Grounds, about
from neuneu.decisions.next_eval import weigh
from neuneu.decisions.options import AverageOptions, Options, plain_settings, read_options
from neuneu.decisions.places import Evaluation, Places, open_evaluations
from neuneu.decisions.rank import rank as rank_finals
from neuneu.decisions.stop import THRESHOLD, prospect
from neuneu.decisions.when import first_passage, reached
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster

VALUE_DIGITS: Final = 5
"""To which the gain of an evaluation is told: a thousandth of a point of accuracy."""


class Predictor:
    """Answers from a table of evaluations; `neuneu.load()` makes one.

    Every method takes `accuracies` (required columns: run, task, value and one of step, tokens,
    flops; a path, a pyarrow table, a pandas DataFrame, a mapping of columns or NumPy arrays, or a
    list of rows) and the options of `neuneu.decisions.options`. Accuracies are fractions in
    [0, 1]; `q0.1`, `q0.5`, `q0.9` are quantiles, so that q0.1 to q0.9 is an 80 % band.

    Every row says what it rests on: `calibration_group`, `calibrated_on` (how many runs) and
    `warnings` (each a `code` and a `text`). `explain=True` adds `compared_with` (runs, the most
    used first), `n_compared_with`, `left_out` and `n_left_out` (runs that ended too early to be
    compared with) and `baselines` (what simple rules say).
    """

    def __init__(self, forecaster: CrossRunForecaster) -> None:
        """Wraps a forecaster that has a joint distribution."""
        self.forecaster = forecaster

    def forecast(
        self,
        accuracies: Table,
        *,
        points: int = 20,
        explain: bool = False,
        **options: Unpack[Options],
    ) -> Answer:
        """Quantiles of future accuracy of every run on every task.

        Args:
            accuracies: evaluations so far.
            points: places between now and the end, evenly in ln tokens.
            explain: see the class.
            **options: see `Options`.

        Returns:
            A row a trajectory: `present`, `tokens` of the end, quantiles `q0.05` to `q0.95`
            there. Table `forecasts` has every place (`schemas.FORECASTS`), `observed` what was
            seen (`schemas.ACCURACIES`).

        Raises:
            UserError: tables that cannot be read, or nothing to forecast.
        """
        known, horizon = read_options(accuracies, options, points=points)
        found = make_forecasts(
            self.forecaster, known.trajectories, known.references, horizon, known.token_losses
        )
        rows = forecast_rows(found, self.forecaster)
        given = options.get("token_losses") is not None
        if explain:
            grounds = Grounds(self.forecaster)
            for row, query in zip(rows, found.queries, strict=True):
                row.update(grounds.explain([query]))
        return Answer(
            question="forecast",
            rows=rows,
            notes=(*known.notes, *about(self.forecaster, found.queries, token_losses=given)),
            settings=plain_settings(options),
            tables={"forecasts": found.table, "observed": found.observed},
        )

    def rank(
        self, accuracies: Table, *, explain: bool = False, **options: Unpack[AverageOptions]
    ) -> Answer:
        """Which run will score best at the end, with the probability for each pair.

        Runs that have reached the end compete with what they scored there.

        Args:
            accuracies: evaluations so far.
            explain: see the class.
            **options: see `AverageOptions`.

        Returns:
            A row a run, the likely best first: `rank`, `run`, `present`, the band at the end,
            `best` (probability of being the best of all), `regret` (accuracy that choosing it is
            expected to lose), `beats` (run -> probability of scoring higher).

        Raises:
            UserError: fewer than two runs have all the tasks and an end.
        """
        asked = Asked(self.forecaster, accuracies, options, least=2, explain=explain)
        ranking = rank_finals(np.stack([future.final for future in asked.futures]))
        rows = []
        for place, row in enumerate(ranking.order, start=1):
            beats = {
                asked.labels[other.run]: plain(ranking.beats[row, column], 4)
                for column, other in enumerate(asked.futures)
                if column != row
            }
            rows.append(
                {"rank": place}
                | asked.describe(asked.futures[row])
                | {"best": plain(ranking.best[row], 4), "regret": plain(ranking.regret[row])}
                | {"beats": beats}
            )
        return asked.answer("rank", rows)

    def stop(
        self,
        accuracies: Table,
        *,
        target: float | None = None,
        rival: str | None = None,
        threshold: float = THRESHOLD,
        explain: bool = False,
        **options: Unpack[AverageOptions],
    ) -> Answer:
        """Should a run go on: how likely does it reach a target or beat a rival at the end?

        Args:
            accuracies: evaluations so far.
            target: accuracy to reach at the end, a fraction.
            rival: a run to beat; `best` is whichever other run will be best, and what is taken
                without a target and a rival.
            threshold: below this probability the advice is to stop.
            explain: see the class.
            **options: see `AverageOptions`.

        Returns:
            A row for each unfinished run: `goal`, `success` (probability), `advice` (`stop` or
            `go on`), `gain` with `gain_low` and `gain_high` (accuracy that the rest adds, and its
            80 % band), `remaining_tokens`, `remaining_flops`, `remaining_share` of the whole run.

        Raises:
            UserError: target and rival together, or no unfinished run with the tasks and an end.
        """
        if target is not None and rival is not None:
            raise UserError("target and rival: expected one of them, found both.")
        if target is not None:
            _check_share("target", target)
        _check_share("threshold", threshold)
        least = 2 if target is None else 1
        asked = Asked(self.forecaster, accuracies, options, least=least, explain=explain)
        named = None if rival in {None, "best"} else asked.find([str(rival)])
        rows = []
        for future in asked.futures:
            goal = _goal(future, asked.futures if named is None else named, target)
            if future.finished or goal is None:
                continue
            found = prospect(future.final, future.present, goal, threshold=threshold)
            remaining = future.remaining_tokens
            rows.append(
                asked.describe(future)
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
        return asked.answer("stop", rows, threshold=threshold)

    def when(
        self,
        accuracies: Table,
        score: float,
        *,
        explain: bool = False,
        **options: Unpack[AverageOptions],
    ) -> Answer:
        """At how many tokens a run will reach a score.

        It counts as reached where the mean of three consecutive checkpoints is at least that
        high; checkpoints are taken to go on as far apart as they were.

        Args:
            accuracies: evaluations so far.
            score: an accuracy, a fraction.
            explain: see the class.
            **options: see `AverageOptions`.

        Returns:
            A row a run: `reached` (tokens, where it has been already), `t0.1`, `t0.5`, `t0.9`
            (tokens by which it is reached with that probability; None beyond the end), `never`
            (probability of not reaching it by the end), `places` and `by` (tokens, and the
            probability of having reached it there).

        Raises:
            UserError: a score outside (0, 1), or no run with the tasks and an end.
        """
        _check_share("score", score)
        asked = Asked(self.forecaster, accuracies, options, least=1, explain=explain)
        rows = [
            asked.describe(future) | {"score": score} | _passage(future, score)
            for future in asked.futures
        ]
        return asked.answer("when", rows, score=score)

    def next_eval(
        self,
        accuracies: Table,
        *,
        checkpoints: Table | None = None,
        costs: Mapping[str, float] | None = None,
        goal: Literal["best", "final"] | None = None,
        limit: int = 20,
        **options: Unpack[AverageOptions],
    ) -> Answer:
        """Which (checkpoint, task) to evaluate next, by what it tells for its cost.

        Candidates are checkpoints after the last one evaluated on a task: those of `checkpoints`,
        else those at which the run was evaluated on another task.

        Args:
            accuracies: evaluations so far.
            checkpoints: saved checkpoints: columns run and step or tokens.
            costs: task -> cost of evaluating it; by default its number of items in the task
                table, else 1. Runs cost in proportion to their parameters, where they are known.
            goal: `best` asks which run will be best, `final` where each run ends; by default
                `best` if there are several runs.
            limit: rows returned.
            **options: see `AverageOptions`.

        Returns:
            A row for each evaluation, the most telling for its cost first: `run`, `task`, `step`,
            `tokens`, `cost` (the cheapest is 1), `narrowing` (share by which the standard
            deviation of the run's final is expected to shrink), `value` (accuracy that choosing
            among the runs is expected to gain).

        Raises:
            UserError: nothing left to evaluate.
        """
        asked = Asked(self.forecaster, accuracies, options, least=1)
        goal = goal or ("best" if len(asked.futures) > 1 else "final")
        spots = open_evaluations(asked.members, asked.futures, asked.horizon, checkpoints)
        if not spots:
            raise UserError(
                "next-eval: nothing is left to evaluate: every checkpoint of the table has every "
                "task of the question; give --checkpoints FILE (run and step or tokens) of those "
                "that are saved."
            )
        drawn = Places.draw(
            self.forecaster, asked.members, asked.futures, spots,
            horizon=asked.horizon, token_losses=asked.known.token_losses, seed=asked.seed,
        )  # fmt: skip
        worth = weigh(drawn.final, drawn.seen, drawn.owner)
        cost = _costs(spots, costs or {}, asked.known.items)
        told = np.round(worth.value, VALUE_DIGITS) if goal == "best" else worth.narrowing
        # Where no single evaluation gains anything that is told, the better known final decides.
        order = np.lexsort((-worth.narrowing / cost, -told / cost))
        rows = [
            {
                "rank": place, "run": asked.labels[spots[i].run], "task": spots[i].cell[0],
                "metric": spots[i].cell[1], "num_fewshot": spots[i].cell[2],
                "step": spots[i].step, "tokens": plain_tokens(spots[i].tokens),
                "cost": plain(cost[i], 3), "narrowing": plain(worth.narrowing[i], 4),
                "value": plain(worth.value[i], VALUE_DIGITS),
            }
            for place, i in enumerate(order[:limit].tolist(), start=1)
        ]  # fmt: skip
        return asked.answer("next-eval", rows, goal=goal)


def _goal(
    future: RunFuture, rivals: Sequence[RunFuture], target: float | None
) -> float | FloatArray | None:
    """What a run has to reach: the target, or (S,) samples of its best rival; None without one."""
    if target is not None:
        return target
    others = [rival.final for rival in rivals if rival.run != future.run]
    return np.max(others, axis=0) if others else None


def _passage(future: RunFuture, score: float) -> dict[str, Any]:
    """When a run reaches a score, as JSON types."""
    there = reached(future.past, score)
    at = None if there is None else plain_tokens(future.past_tokens[there])
    if at is not None or future.finished:
        times = {f"t{level:g}": at for level in BAND}
        return {"reached": at, "never": float(at is None), **times, "places": [], "by": []}
    passage = first_passage(future.past, future.tokens, future.samples, score)
    times = {f"t{level:g}": plain_tokens(passage.quantile(level)) for level in BAND}
    return {
        "reached": None,
        "never": plain(passage.never, 4),
        **times,
        "places": [plain_tokens(tokens) for tokens in future.tokens],
        "by": [plain(passage.by(tokens), 4) for tokens in future.tokens],
    }


def _costs(
    spots: Sequence[Evaluation], costs: Mapping[str, float], items: Mapping[tuple[str, str], int]
) -> FloatArray:
    """Relative costs of evaluations, the cheapest 1."""
    if missing := sorted(set(costs) - {spot.cell[0] for spot in spots}):
        raise UserError(f"costs: {', '.join(missing)}: expected tasks that are left to evaluate.")
    if any(cost <= 0 for cost in costs.values()):
        raise UserError("costs: expected positive numbers.")
    found = np.array([
        costs.get(spot.cell[0], items.get(spot.cell[:2], 1)) * np.nan_to_num(spot.params, nan=1.0)
        for spot in spots
    ])  # fmt: skip
    return np.asarray(found / found.min())


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise UserError(f"{name}: expected a fraction between 0 and 1, found {value:g}.")
