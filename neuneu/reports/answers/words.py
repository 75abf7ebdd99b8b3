"""What an answer rests on and where not to trust it, in plain sentences."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuneu.core.formatting import difference, percent, points, tokens
from neuneu.decisions.answers import Answer, row_warnings
from neuneu.forecasters.cross_run.calibrating import HORIZONS
from neuneu.forecasters.warnings import Warning, WarningCode

Row = Mapping[str, Any]

TAGS: Final[Mapping[WarningCode, str]] = {
    "unseen-family": "new family",
    "larger-model": "larger than known",
    "few-checkpoints": "few points",
    "near-chance": "near chance",
    "uncalibrated": "not calibrated",
    "few-calibration-runs": "few runs",
}
"""Warning code -> its label in a table."""

ALONE: Final = "It was compared with no other run: the forecast rests on its own past alone."

_SEEN: Final = {"compared": "runs compared with others", "alone": "runs compared with none"}
_LEVEL: Final = {"signal": "tasks above chance", "near-chance": "tasks near chance"}
_NEAR, _FAR = (f"{math.exp(edge):.2g}" for edge in HORIZONS)
_AHEAD: Final = {
    "near": f"up to {_NEAR} times as many tokens as seen",
    "middle": f"{_NEAR} to {_FAR} times as many tokens as seen",
    "far": f"more than {_FAR} times as many tokens as seen",
}


def tag(warning: Warning) -> str:
    """The label of a warning; of a code from another version, the code."""
    return TAGS.get(warning.code, warning.code)


def group_in_words(name: str) -> str:
    """A calibration group, `compared, signal, middle`, as people say it."""
    parts = name.split(", ")
    if len(parts) != 3:
        return name
    return ", ".join(
        kind.get(part, part) for kind, part in zip((_SEEN, _LEVEL, _AHEAD), parts, strict=True)
    )


def said(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Sentences on what the questions say of one run.

    Args:
        rows: those of the run by question, without `next-eval`.
    """
    sentences = [_seen(rows["forecast"])] if "forecast" in rows else []
    sentences += [rank_words(row) for row in rows.get("rank", ())]
    sentences += [stop_words(row) for row in rows.get("stop", ())]
    return sentences + [when_words(row) for row in rows.get("when", ())]


def grounds(rows: Sequence[Row]) -> list[str]:
    """Sentences on what one run's rows rest on: runs compared with, simple rules, calibration."""
    if rows[0].get("finished"):
        return ["It has reached its end: what it scored there stands."]
    return [_compared(rows), *_left_out(rows), *_rules(rows), *_calibrated(rows)]


def distrust(rows: Mapping[str, Sequence[Row]]) -> str:
    """Where not to trust what is said of one run, in one sentence; empty without warnings.

    Args:
        rows: those of the run by question.
    """
    curves = rows.get("forecast", ())
    parts = []
    for warning in row_warnings(*(row for part in rows.values() for row in part)):
        text, count = warning.text, sum(warning in row_warnings(row) for row in curves)
        parts.append(
            text if count in {0, len(curves)} else f"{text} ({count} of {len(curves)} curves)"
        )
    return f"Do not rely on the bands: {'; '.join(parts)}." if parts else ""


def _seen(rows: Sequence[Row]) -> str:
    counts = sorted({row["checkpoints"] for row in rows})
    checkpoints = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seen, end = (max(row[key] for row in rows) for key in ("seen_tokens", "tokens"))
    what = rows[0]["task"] if len(rows) == 1 else f"{len(rows)} tasks and metrics"
    return (
        f"It was evaluated on {what} at {_plural(checkpoints, 'checkpoint')} up to {tokens(seen)} "
        f"tokens and is forecast to {tokens(end)}: {percent(1 - seen / end)} of its training is "
        "still to come."
    )


def _compared(rows: Sequence[Row]) -> str:
    if "compared_with" not in rows[0]:
        groups = [row.get("calibration_group") or "" for row in rows]
        if all(group.startswith("alone") for group in groups):
            return ALONE
        if any(group.startswith("compared") for group in groups):
            return "It was compared with other runs; forecast with --explain to see which."
        return "Which runs it was compared with was not recorded."
    most = max(row["n_compared_with"] for row in rows)
    if most == 0:
        return ALONE
    often = Counter(name for row in rows for name in row["compared_with"])
    named = [name for name, _ in often.most_common(3)]
    alone = sum(row["n_compared_with"] == 0 for row in rows)
    but = f", on {alone} of {len(rows)} tasks with none" if alone else ""
    if most <= len(named):
        return f"It was compared with {_series(named)}{but}."
    return f"It was compared with {most} other runs, above all with {_series(named)}{but}."


def _left_out(rows: Sequence[Row]) -> list[str]:
    """Runs that were not compared with, where that was asked and there are any."""
    most = max(row.get("n_left_out", 0) for row in rows)
    if not most:
        return []
    often = Counter(name for row in rows for name in row["left_out"])
    named = [name for name, _ in often.most_common(3)]
    shown = _series(named) if most <= len(named) else f"{most} runs, among them {_series(named)}"
    return [f"Left out, because they stop short of its end: {shown}."]


def _rules(rows: Sequence[Row]) -> list[str]:
    """What simple rules say, where they were asked: means over the rows."""
    known = [row for row in rows if row.get("baselines")]
    names = [
        name
        for name in (known[0]["baselines"] if known else ())
        if all(row["baselines"][name] is not None for row in known)
    ]
    if not names:
        return []
    width = _mean([row["q0.9"] - row["q0.1"] for row in known])
    rules = [
        f"{name} {points(_mean([row['baselines'][name] for row in known]), width)}"
        for name in names
    ]
    forecast = points(_mean([row["q0.5"] for row in known]), width)
    over = f" as a mean over its {len(known)} curves" if len(known) > 1 else ""
    return [
        f"At the end it is forecast to score {forecast} %{over}; simple rules say {_series(rules)}."
    ]


def _calibrated(rows: Sequence[Row]) -> list[str]:
    """What the bands are calibrated on, where they are."""
    known = [row for row in rows if row.get("calibrated_on")]
    if not known:
        return []
    fewest = min(row["calibrated_on"] for row in known)
    groups = Counter(row["calibration_group"] for row in known).most_common()
    least = "at least " if len({row["calibrated_on"] for row in known}) > 1 else ""
    more = f", and {_plural(len(groups) - 1, 'other situation')}" if len(groups) > 1 else ""
    held = (
        f"Its bands are set so that in {least}{fewest} held-out runs in the same situation "
        f"({group_in_words(groups[0][0])}{more}) 8 of 10 outcomes fell inside the 80 % band."
    )
    if any(row["warnings"] for row in rows):
        return [held]
    return [held, "Nothing known speaks against its bands."]


def rank_words(row: Row) -> str:
    """What a ranking says of one run."""
    if row["finished"]:
        end = f"It has ended at {points(row['q0.5'], 0.0)} % on {task_words(row)}"
    else:
        width = row["q0.9"] - row["q0.1"]
        low, middle, high = (points(row[key], width) for key in ("q0.1", "q0.5", "q0.9"))
        end = f"On {task_words(row)} it is expected to end at {middle} % ({low} to {high})"
    return (
        f"{end} and is ranked {row['rank']} of {len(row['beats']) + 1}: it is the best with "
        f"probability {percent(row['best'])}, and choosing it is expected to lose "
        f"{100 * row['regret']:.1f} points."
    )


def stop_words(row: Row) -> str:
    """What a question whether to go on says of one run."""
    width = row["gain_high"] - row["gain_low"]
    gain, low, high = (difference(row[key], width) for key in ("gain", "gain_low", "gain_high"))
    return (
        f"The advice is to {row['advice']}: it {_goal(row['goal'])} on {task_words(row)} with "
        f"probability {percent(row['success'])}, and the {tokens(row['remaining_tokens'])} tokens "
        f"that are left add {gain} points ({low} to {high})."
    )


def when_words(row: Row) -> str:
    """What a question when a score is reached says of one run."""
    score = f"{100 * row['score']:g} % on {task_words(row)}"
    if row["reached"] is not None:
        return f"It reached {score} at {tokens(row['reached'])} tokens."
    if row["finished"]:
        return f"It has ended without reaching {score}."
    if row["t0.5"] is None:
        return (
            f"It is more likely than not to end without reaching {score}: {percent(row['never'])}."
        )
    latest = "" if row["t0.9"] is None else f", with 90 % by {tokens(row['t0.9'])}"
    return (
        f"It reaches {score} with even odds by {tokens(row['t0.5'])} tokens{latest}; that it does "
        f"not by its end has probability {percent(row['never'])}."
    )


def task_words(row: Row) -> str:
    """What a question about an average was about."""
    return f"the {row['task']}" if row["task"].startswith("mean of ") else str(row["task"])


def headline(answer: Answer) -> str:
    """The answer in one sentence."""
    return _HEADLINES[answer.question](answer.rows)


def _forecast_headline(rows: Sequence[Row]) -> str:
    runs = len({(row["family"], row["suite"], row["run"]) for row in rows})
    seen, end = (max(row[key] for row in rows) for key in ("seen_tokens", "tokens"))
    what = rows[0]["task"] if len(rows) == 1 else f"{len(rows):,} curves"
    return (
        f"{_plural(f'{runs:,}', 'run')} ({what}), seen to {tokens(seen)} tokens, "
        f"forecast to {tokens(end)}."
    )


def _rank_headline(rows: Sequence[Row]) -> str:
    first = rows[0]
    rest = max(rows[1:], key=lambda row: row["best"], default=None)
    other = "" if rest is None else f"; next likeliest is {rest['run']}, {percent(rest['best'])}"
    return (
        f"Choose {first['run']}: it is expected to score highest on {task_words(first)} and is the "
        f"best with probability {percent(first['best'])}{other}."
    )


def _stop_headline(rows: Sequence[Row]) -> str:
    stopped = [row["run"] for row in rows if row["advice"] == "stop"]
    if not stopped:
        return f"No run should be stopped: each may still make it on {task_words(rows[0])}."
    if len(stopped) == len(rows):
        return f"Every run should be stopped: none is likely to make it on {task_words(rows[0])}."
    return f"{len(stopped)} of {len(rows)} unfinished runs should be stopped: {_some(stopped)}."


def _when_headline(rows: Sequence[Row]) -> str:
    score = f"{100 * rows[0]['score']:g} %"
    there = [row["run"] for row in rows if row["reached"] is not None]
    likely = [row for row in rows if row["reached"] is None and row["t0.5"] is not None]
    parts = []
    if there:
        parts.append(f"{_plural(len(there), 'run')} of {len(rows)} reached {score} already")
    if likely:
        first = min(likely, key=lambda row: row["t0.5"])
        parts.append(
            f"{first['run']} reaches {score} with even odds by {tokens(first['t0.5'])} tokens"
        )
        if len(likely) > 1:
            parts.append(f"{_plural(len(likely) - 1, 'more run')} by their end")
    return f"{'; '.join(parts) or f'No run is likely to reach {score} by its end'}."


def _next_headline(rows: Sequence[Row]) -> str:
    first = rows[0]
    return (
        f"Evaluate {first['run']} on {first['task']} at step {first['step']:,} next: it tells most "
        "for its cost."
    )


_HEADLINES: Final = {
    "forecast": _forecast_headline,
    "rank": _rank_headline,
    "stop": _stop_headline,
    "when": _when_headline,
    "next-eval": _next_headline,
}


def _goal(goal: float | str) -> str:
    if isinstance(goal, int | float):
        return f"reaches {100 * goal:g} %"
    return "ends as the best of all" if goal == "best" else f"beats {goal}"


def _series(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _some(names: Sequence[str], limit: int = 4) -> str:
    if len(names) <= limit:
        return _series(names)
    return _series([*names[: limit - 1], f"{len(names) - limit + 1} more"])


def _plural(count: int | str, noun: str) -> str:
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
