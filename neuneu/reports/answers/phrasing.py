"""What an answer says of a run and what that rests on, in plain sentences."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from neuneu.core.formatting import change, percent, points, score, tokens, with_unit
from neuneu.data.scales import PERCENT
from neuneu.decisions.answers import Answer, row_warnings
from neuneu.forecasters.cross_run.groups import HORIZONS, SEVERAL
from neuneu.reports.answers.tables import Row, unit_of

ALONE: Final = "It has no reference runs: its forecast rests on its own past."

_REFERENCES: Final = {"compared": "with reference runs", "alone": "without reference runs"}
_PAST: Final = {
    "several": f"{SEVERAL} checkpoints or more",
    "few": f"fewer than {SEVERAL} checkpoints",
}
_NEAR, _FAR = (f"{math.exp(edge):.2g}" for edge in HORIZONS)
_AHEAD: Final = {
    "near": f"up to {_NEAR} times the tokens of the context",
    "middle": f"{_NEAR} to {_FAR} times the tokens of the context",
    "far": f"more than {_FAR} times the tokens of the context",
}


def describe_group(name: str) -> str:
    """A calibration group, `compared, several, middle`, in plain words."""
    parts = name.split(", ")
    if len(parts) != 3:
        return name
    kinds = (_REFERENCES, _PAST, _AHEAD)
    return ", ".join(kind.get(part, part) for kind, part in zip(kinds, parts, strict=True))


def findings(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Sentences on what the answers say of one run, from its rows by question."""
    sentences = [_observed(rows["forecast"])] if "forecast" in rows else []
    sentences += [rank_sentence(row) for row in rows.get("rank", ())]
    sentences += [stop_sentence(row) for row in rows.get("stop", ())]
    return sentences + [when_sentence(row) for row in rows.get("when", ())]


def explanation(rows: Sequence[Row]) -> list[str]:
    """Sentences on reference runs, baselines and calibration of one run's rows."""
    if rows[0].get("finished"):
        return ["It has reached its end; its score there is final."]
    return [
        _references(rows), *_left_out(rows), *_baselines(rows), *_losses(rows),
        *_evidence(rows), *_calibration(rows),
    ]  # fmt: skip


def warning_sentence(rows: Mapping[str, Sequence[Row]]) -> str:
    """The warnings of one run's rows by question, in one sentence; empty without any."""
    trajectories = rows.get("forecast", ())
    parts = []
    for warning in row_warnings(*(row for part in rows.values() for row in part)):
        count = sum(warning in row_warnings(row) for row in trajectories)
        of = f" ({count} of {len(trajectories)} trajectories)"
        parts.append(warning.text + ("" if count in {0, len(trajectories)} else of))
    return f"Intervals may be off: {'; '.join(parts)}." if parts else ""


def _observed(rows: Sequence[Row]) -> str:
    what = rows[0]["task"] if len(rows) == 1 else f"{len(rows)} tasks and metrics"
    seen, end = (max(row[key] for row in rows) for key in ("seen_tokens", "tokens"))
    counts = sorted({row["checkpoints"] for row in rows})
    if counts == [0]:
        return f"It has not started; it is forecast on {what} to {tokens(end)} tokens."
    checkpoints = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"It was evaluated on {what} at {_plural(checkpoints, 'checkpoint')} up to {tokens(seen)} "
        f"tokens and is forecast to {tokens(end)}, with {percent(1 - seen / end)} of its training "
        "still ahead."
    )


def _references(rows: Sequence[Row]) -> str:
    if "compared_with" not in rows[0]:
        groups = [row.get("calibration_group") or "" for row in rows]
        if all(group.startswith("alone") for group in groups):
            return ALONE
        if any(group.startswith("compared") for group in groups):
            return "It has reference runs; forecast with --explain to list them."
        return "Its reference runs were not recorded."
    most, named = _most_frequent(rows, "compared_with")
    if most == 0:
        return ALONE
    alone = sum(row["n_compared_with"] == 0 for row in rows)
    but = f"; none on {alone} of {len(rows)} tasks" if alone else ""
    if most <= len(named):
        return f"Its reference runs are {_series(named)}{but}."
    return f"It has {most} reference runs, mainly {_series(named)}{but}."


def _left_out(rows: Sequence[Row]) -> list[str]:
    """Reference runs that were left out, where that was recorded."""
    most, named = _most_frequent(rows, "left_out")
    if not most:
        return []
    shown = _series(named) if most <= len(named) else f"{most} runs, among them {_series(named)}"
    return [f"Left out, since they end before it does: {shown}."]


def _most_frequent(rows: Iterable[Row], column: str) -> tuple[int, list[str]]:
    """The largest number of runs that a row has in a column, and the three most frequent ones."""
    often = Counter(name for row in rows for name in row.get(column, ()))
    return max(row.get(f"n_{column}", 0) for row in rows), [n for n, _ in often.most_common(3)]


def _baselines(rows: Sequence[Row]) -> list[str]:
    """What baselines forecast, where that was recorded: means over the rows."""
    known = [row for row in rows if row.get("baselines")]
    names = [
        name
        for name in (known[0]["baselines"] if known else ())
        if all(row["baselines"][name] is not None for row in known)
    ]
    if not names:
        return []
    units = {unit_of(row) for row in known}
    if len(units) > 1:  # no mean over different units
        return []
    unit, width = units.pop(), _mean(row["q0.9"] - row["q0.1"] for row in known)
    rules = [
        f"{n} {score(_mean(row['baselines'][n] for row in known), width, unit)}" for n in names
    ]
    forecast = with_unit(score(_mean(row["q0.5"] for row in known), width, unit), unit)
    over = f", averaged over its {len(known)} trajectories" if len(known) > 1 else ""
    return [f"It is forecast to end at {forecast}{over}; baselines say {_series(rules)}."]


def _losses(rows: Sequence[Row]) -> list[str]:
    """What the losses beside the accuracies changed: means over the rows that have any."""
    known = [row for row in rows if row.get("loss")]
    units = {unit_of(row) for row in known}
    if len(units) != 1:  # none, or no mean over different units
        return []
    unit = units.pop()
    read, without = (
        with_unit(score(_mean(row["loss"][key] for row in known), 0.0, unit), unit)
        for key in ("with", "without")
    )
    names = Counter(row["loss"]["name"] for row in known).most_common(2)
    more = " and others" if len(names) > 1 else ""
    return [
        f"Beside the accuracies it reads losses ({names[0][0]}{more}): with them its forecast is "
        f"{read}, without them {without}."
    ]


def _evidence(rows: Sequence[Row]) -> list[str]:
    """What the items behind the accuracies say, where choices were kept: means over the rows."""
    known = [row["evidence"] for row in rows if row.get("evidence")]
    if not known:
        return []
    said, without = (points(_mean(of[key] for of in known), 0.0) for key in ("items", "without"))
    weight = percent(_mean(of["weight"] for of in known))
    tasks = _plural(sum(of["n_tasks"] for of in known), "task")
    return [
        f"The items of {tasks} were scored choice by choice: they say {said} % and count {weight}; "
        f"without them the forecast would be {without} %."
    ]


def _calibration(rows: Sequence[Row]) -> list[str]:
    known = [row for row in rows if row.get("calibrated_on")]
    if not known:
        return []
    fewest = min(row["calibrated_on"] for row in known)
    groups = Counter(row["calibration_group"] for row in known).most_common()
    least = "at least " if len({row["calibrated_on"] for row in known}) > 1 else ""
    more = f", and {_plural(len(groups) - 1, 'other group')}" if len(groups) > 1 else ""
    calibrated = (
        f"Its intervals are calibrated on {least}{fewest} held-out runs in the same situation "
        f"({describe_group(groups[0][0])}{more}), where 8 of 10 outcomes fell inside the 80 % "
        "interval."
    )
    return [calibrated, *([] if any(row["warnings"] for row in rows) else ["No warnings apply."])]


def rank_sentence(row: Row) -> str:
    """What a ranking says of one run."""
    unit = unit_of(row)
    if row["finished"]:
        end = f"It ended at {with_unit(score(row['q0.5'], 0.0, unit), unit)} on {task_name(row)}"
    else:
        width = row["q0.9"] - row["q0.1"]
        low, middle, high = (score(row[key], width, unit) for key in ("q0.1", "q0.5", "q0.9"))
        middle = with_unit(middle, unit)
        end = f"On {task_name(row)} it is expected to end at {middle} ({low} to {high})"
    cost = f"{100 * row['regret']:.1f}" if unit == PERCENT else f"{row['regret']:.2g}"
    return (
        f"{end} and ranks {row['rank']} of {len(row['beats']) + 1}: it is best with probability "
        f"{percent(row['best'])}, and choosing it is expected to cost "
        f"{with_unit(cost, _difference_unit(unit))}."
    )


def stop_sentence(row: Row) -> str:
    """What `stop` says of one run."""
    width = row["gain_high"] - row["gain_low"]
    unit = unit_of(row)
    gain, low, high = (change(row[key], width, unit) for key in ("gain", "gain_low", "gain_high"))
    gain, verb = with_unit(gain, _difference_unit(unit)), "add"
    if row.get("higher_is_better") is False:
        verb = "improve it by"
    unknown = row["advice"] == "cannot tell"
    advice = (
        "It is too early to tell, since it is near chance and may take off. As things stand,"
        if unknown
        else f"The advice is to {row['advice']}:"
    )
    return (
        f"{advice} it {_goal(row)} on {task_name(row)} with "
        f"probability {percent(row['success'])}, and the remaining "
        f"{tokens(row['remaining_tokens'])} tokens {verb} {gain} ({low} to {high})."
    )


def when_sentence(row: Row) -> str:
    """What `when` says of one run."""
    goal = f"{_given(row, 'score')} on {task_name(row)}"
    if row["reached"] is not None:
        return f"It reached {goal} at {tokens(row['reached'])} tokens."
    if row["finished"]:
        return f"It ended without reaching {goal}."
    never = percent(row["never"])
    if row["t0.5"] is None:
        return f"It will probably end without reaching {goal} (probability {never})."
    latest = "" if row["t0.9"] is None else f", by {tokens(row['t0.9'])} with 90 %"
    return (
        f"It reaches {goal} by {tokens(row['t0.5'])} tokens with probability 50 %{latest}; with "
        f"{never} it ends without reaching it."
    )


def headline(answer: Answer) -> str:
    """The answer in one sentence."""
    return _HEADLINES[answer.question](answer.rows)


def _forecast_headline(rows: Sequence[Row]) -> str:
    runs = len({(row["family"], row["suite"], row["run"]) for row in rows})
    seen, end = (max(row[key] for row in rows) for key in ("seen_tokens", "tokens"))
    what = rows[0]["task"] if len(rows) == 1 else f"{len(rows):,} trajectories"
    observed = f"observed up to {tokens(seen)} tokens" if seen else "not started"
    return f"{_plural(f'{runs:,}', 'run')} ({what}), {observed}, forecast to {tokens(end)}."


def _rank_headline(rows: Sequence[Row]) -> str:
    first = rows[0]
    rest = max(rows[1:], key=lambda row: row["best"], default=None)
    other = "" if rest is None else f"; {rest['run']} is best with {percent(rest['best'])}"
    best = "lowest" if first.get("higher_is_better") is False else "highest"
    return (
        f"Choose {first['run']}: it is expected to score {best} on {task_name(first)} and is best "
        f"with probability {percent(first['best'])}{other}."
    )


def _stop_headline(rows: Sequence[Row]) -> str:
    stopped = [row["run"] for row in rows if row["advice"] == "stop"]
    early = [row["run"] for row in rows if row["advice"] == "cannot tell"]
    untold = f"near chance, it is too early to tell for {_few(early)}" if early else ""
    if not stopped and early:
        return f"Stop no run yet on {task_name(rows[0])}: {untold}."
    if not stopped:
        return f"Stop no run: each may still reach its goal on {task_name(rows[0])}."
    if len(stopped) == len(rows):
        return f"Stop every run: none is likely to reach its goal on {task_name(rows[0])}."
    rest = f"; {untold}" if early else ""
    return f"Stop {len(stopped)} of {len(rows)} unfinished runs: {_few(stopped)}{rest}."


def _when_headline(rows: Sequence[Row]) -> str:
    goal = _given(rows[0], "score")
    reached = sum(row["reached"] is not None for row in rows)
    likely = [row for row in rows if row["reached"] is None and row["t0.5"] is not None]
    parts = [f"{reached} of {_plural(len(rows), 'run')} already reached {goal}"] if reached else []
    if likely:
        first = min(likely, key=lambda row: row["t0.5"])
        by = tokens(first["t0.5"])
        parts.append(f"{first['run']} reaches {goal} by {by} tokens with probability 50 %")
        if len(likely) > 1:
            parts.append(f"{_plural(len(likely) - 1, 'more run')} by the end")
    return f"{'; '.join(parts) or f'No run is likely to reach {goal} by its end'}."


def _next_headline(rows: Sequence[Row]) -> str:
    first = rows[0]
    return (
        f"Evaluate {first['run']} on {first['task']} at step {first['step']:,} next: it is the "
        "most informative for its cost."
    )


_HEADLINES: Final = {
    "forecast": _forecast_headline,
    "rank": _rank_headline,
    "stop": _stop_headline,
    "when": _when_headline,
    "next-eval": _next_headline,
}


def task_name(row: Row) -> str:
    """The task of a row, or the mean of tasks that it is about."""
    return f"the {row['task']}" if row["task"].startswith("mean of ") else str(row["task"])


def _given(row: Row, name: str) -> str:
    """A score that the user gave, with its unit."""
    unit = unit_of(row)
    return with_unit(f"{100 * row[name] if unit == PERCENT else row[name]:g}", unit)


def _difference_unit(unit: str) -> str:
    return "points" if unit == PERCENT else unit


def _goal(row: Row) -> str:
    goal = row["goal"]
    if isinstance(goal, int | float):
        return f"reaches {_given(row, 'goal')}"
    return "ends as the best run" if goal == "best" else f"beats {goal}"


def _series(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _few(names: Sequence[str]) -> str:
    return _series(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])


def _plural(count: int | str, noun: str) -> str:
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
