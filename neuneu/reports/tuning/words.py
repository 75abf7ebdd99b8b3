"""What a tuning found and where not to trust it, in sentences."""

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final

from neuneu.reports.tuning.analysis import Analysis
from neuneu.reports.tuning.results import STATUS_IN_WORDS, Dimension, Trial

FEW_TRIALS: Final = 10
"""Fewer finished trials than this: another search could well end elsewhere."""

_NEAREST: Final = 3
_AT_THE_EDGE: Final = 0.05


def labels(keys: Sequence[str]) -> dict[str, str]:
    """Keys without the sections that all of them share: `optim.learning_rate`."""
    split = [key.split(".") for key in keys]
    shared = len(list(takewhile(lambda names: len(set(names)) == 1, zip(*split, strict=False))))
    shortest = min((len(parts) for parts in split), default=1)
    start = min(shared, shortest - 1)
    return {key: ".".join(parts[start:]) for key, parts in zip(keys, split, strict=True)}


def number(value: float | None) -> str:
    """Four digits, a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def parameter(value: Any) -> str:
    """A parameter's value as one reads it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(parameter, value))
    return "null" if value is None else str(value)


def duration(seconds: float) -> str:
    """As in `3 h 20 min`, `4 min 10 s`, `1.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds / 86400:.1f} days"


def findings(analysis: Analysis) -> list[str]:
    """How many trials there were, which is best, what mattered, whether stopping was right."""
    return [
        _what_ran(analysis),
        *_what_won(analysis),
        *_what_mattered(analysis),
        *([verdict(analysis)] if analysis.reruns else []),
    ]


def caveats(analysis: Analysis) -> list[str]:
    """What a reader has to know before trusting the result."""
    plan, counts = analysis.results.plan, analysis.counts
    notes = []
    if 0 < len(analysis.finished) < FEW_TRIALS:
        notes.append(
            f"Only {_trials(len(analysis.finished))} finished: another search of this size could "
            "well end elsewhere."
        )
    open_ = counts["unfinished"] + counts["not started"]
    if open_ and analysis.results.trials:
        notes.append(
            f"{_trials(open_)} of {sum(counts.values())} not done (running, interrupted or not "
            "started): this is not the end of the search."
        )
    if counts["failed"]:
        notes.append(f"{_trials(counts['failed'])} failed; the table below says of what.")
    lost = sum(t.status == "finished" for t in analysis.results.trials) - len(analysis.finished)
    if lost:
        notes.append(
            f"{_trials(lost)} finished without a finite {analysis.main.words}: they diverged, and "
            "are in no ranking."
        )
    if plan.scheduler == "pbt":
        notes.append(
            "Parameters changed while trials ran (population-based training); shown are the last "
            "ones, which alone need not lead to the same result."
        )
    notes += [note for note in (_small_gain(analysis), *_edges(analysis)) if note]
    return [*notes, *analysis.results.problems]


def verdict(analysis: Analysis) -> str:
    """Whether the scheduler stopped the right trials, as far as reruns tell."""
    ended = [rerun for rerun in analysis.reruns if rerun.final_rank is not None]
    if not ended:
        return "No rerun of a stopped trial is at its end yet: nothing says if stopping was right."
    if not analysis.finished:
        return "No trial finished that the reruns could be compared with."
    n = f"{len(ended)} stopped {_plural('trial', len(ended))} run to the end"
    better = [rerun for rerun in ended if rerun.final_rank == 1]
    if not better:
        best = min(rerun.final_rank or 0 for rerun in ended)
        return (
            f"Stopping lost nothing: of {n}, none beats the best of {len(analysis.finished)} "
            f"finished; the best of them would have been rank {best}."
        )
    loss = analysis.main.loss
    winner = min(better, key=lambda rerun: loss(rerun.final or 0.0))
    there = analysis.finished[0].values[analysis.main.metric]
    return (
        f"Stopping lost something: of {n}, {len(better)} would have been best. Trial "
        f"{winner.trial.number}, stopped after epoch {winner.epoch}, reached "
        f"{number(winner.final)} instead of {number(there)}."
    )


def _what_ran(analysis: Analysis) -> str:
    counts, cost = analysis.counts, analysis.cost
    if not analysis.results.trials:
        return "No trial has started."
    parts = [f"{n} {STATUS_IN_WORDS[status]}" for status, n in counts.items() if n]
    text = f"Of {_trials(sum(counts.values()))}, {', '.join(parts)}; {duration(cost.seconds)} spent"
    if cost.to_the_end and counts["stopped"] and cost.to_the_end > cost.seconds:
        text += f" where running all to the end would have taken about {duration(cost.to_the_end)}"
    return f"{text}."


def _what_won(analysis: Analysis) -> list[str]:
    best, main = analysis.best, analysis.main
    if best is None:
        return [f"No trial has a {main.words} yet."] if analysis.results.trials else []
    value = best.values[main.metric]
    if best.trial.status != "finished":
        return [
            f"No trial finished. The best so far is trial {best.trial.number}, which is "
            f"{STATUS_IN_WORDS[best.trial.status]}, with {main.words} {number(value)} after epoch "
            f"{best.epoch}."
        ]
    said = [f"Trial {best.trial.number} is best: {main.words} {number(value)}"]
    default = analysis.default
    if default is None:
        said[0] += "; no trial had the defaults to compare with."
    elif default.trial.id == best.trial.id:
        said[0] += ", with the defaults: the search found nothing better."
    elif default.trial.status != "finished" or main.metric not in default.values:
        said[0] += (
            f"; the defaults (trial {default.trial.number}, "
            f"{STATUS_IN_WORDS[default.trial.status]}) reached no end to compare with."
        )
    else:
        there = default.values[main.metric]
        way = "less" if value < there else "more"
        share = f" ({100 * abs(value - there) / abs(there):.1f} % {way})" if there else ""
        said[0] += f" against {number(there)} of the defaults{share}."
    overtaken = [
        s for s in analysis.ranked[main.metric]
        if s.trial.status != "finished" and main.loss(s.values[main.metric]) < main.loss(value)
    ]  # fmt: skip
    if overtaken:
        s = overtaken[0]
        said.append(
            f"Trial {s.trial.number}, {STATUS_IN_WORDS[s.trial.status]} after epoch "
            f"{s.trial.epochs}, had a better {number(s.values[main.metric])} there."
        )
    return said


def _what_mattered(analysis: Analysis) -> list[str]:
    shares = analysis.importance.shares
    if not shares:
        return []
    names = labels([d.key for d in analysis.results.plan.space])
    key = max(shares, key=lambda key: shares[key])
    return [f"What mattered most is {names[key]} ({100 * shares[key]:.0f} % of the differences)."]


def _small_gain(analysis: Analysis) -> str:
    """Says so when the best is ahead of the defaults by less than its like among themselves."""
    best, default, metric = analysis.best, analysis.default, analysis.main.metric
    if best is None or default is None or best.trial.id == default.trial.id:
        return ""
    others = [s for s in analysis.finished if s.trial.id not in {best.trial.id, default.trial.id}]
    if best.trial.status != "finished" or metric not in default.values or len(others) < _NEAREST:
        return ""
    space = analysis.results.plan.space
    nearest = sorted(others, key=lambda s: _distance(s.trial, best.trial, space))[:_NEAREST]
    values = [s.values[metric] for s in nearest]
    spread = max(values) - min(values)
    gain = abs(best.values[metric] - default.values[metric])
    if gain >= spread:
        return ""
    return (
        f"The best is {number(gain)} ahead of the defaults, less than the {number(spread)} by "
        f"which the {_NEAREST} trials most like it differ: it may be luck. Train both again with "
        "other seeds."
    )


def _edges(analysis: Analysis) -> list[str]:
    """Parameters that the best trial has at the end of their range."""
    if analysis.best is None:
        return []
    names = labels([d.key for d in analysis.results.plan.space])
    notes = []
    for dimension in analysis.results.plan.space:
        place = unit_place(dimension, analysis.best.trial.parameters.get(dimension.key))
        if dimension.kind == "choice" or place is None:
            continue
        if place <= _AT_THE_EDGE or place >= 1 - _AT_THE_EDGE:
            end = "lower" if place <= _AT_THE_EDGE else "upper"
            notes.append(
                f"The best trial has {names[dimension.key]} at the {end} end of its range: a wider "
                "range may hold a better one."
            )
    return notes


def unit_place(dimension: Dimension, value: Any) -> float | None:
    """Where a value lies in its range, 0 to 1 (choices: evenly); None where it is not in it."""
    if dimension.kind == "choice":
        values = [_comparable(v) for v in dimension.values]
        if _comparable(value) not in values:
            return None
        return (values.index(_comparable(value)) + 0.5) / len(values)
    low, high = dimension.low, dimension.high
    if low is None or high is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if dimension.log and low > 0 and value > 0:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5


def _comparable(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def _distance(one: Trial, other: Trial, space: Sequence[Dimension]) -> float:
    """Root of summed squares of the differences in range; another choice differs by 1."""
    total = 0.0
    for d in space:
        a, b = one.parameters.get(d.key), other.parameters.get(d.key)
        x, y = unit_place(d, a), unit_place(d, b)
        if d.kind == "choice" or x is None or y is None:
            total += _comparable(a) != _comparable(b)
        else:
            total += (x - y) ** 2
    return math.sqrt(total)


def _trials(n: int) -> str:
    return f"{n} {_plural('trial', n)}"


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else f"{noun}s"
