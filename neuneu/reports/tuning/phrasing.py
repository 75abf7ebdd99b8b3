"""What a search found and what speaks against relying on it, in sentences."""

import json
import math
from collections.abc import Sequence
from typing import Any, Final

from neuneu.reports.tuning.analysis import Analysis, Scored
from neuneu.reports.tuning.study import labels
from neuneu.training.tuning.experiment import STATUS_LABELS, Trial
from neuneu.training.tuning.space import Parameter

FEW_TRIALS: Final = 10
"""With fewer finished trials than this, another search could well end elsewhere."""

_NEAREST: Final = 3
_EDGE: Final = 0.05


def number(value: float | None) -> str:
    """Four digits, a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def parameter(value: Any) -> str:
    """A parameter's value for readers."""
    if isinstance(value, list | tuple):
        return ", ".join(map(parameter, value))
    return "null" if value is None else number(value) if isinstance(value, float) else str(value)


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
    """What ran, which trial is best, what mattered, and whether stopping was right."""
    return [
        _what_ran(analysis),
        *_what_won(analysis),
        *_what_mattered(analysis),
        *([verdict(analysis)] if analysis.reruns else []),
    ]


def caveats(analysis: Analysis) -> list[str]:
    """What to know before relying on the result."""
    counts, main = analysis.counts, analysis.main.label
    finished, total = len(analysis.finished), sum(counts.values())
    open_ = counts["unfinished"] + counts["not started"] if analysis.experiment.trials else 0
    diverged = counts["finished"] - finished
    notes = (
        (
            0 < finished < FEW_TRIALS,
            f"Only {_trials(finished)} finished: another search of this size could well end "
            "elsewhere.",
        ),
        (
            open_,
            f"The search has not ended: {_trials(open_)} of {total} are running, interrupted or "
            "not started.",
        ),
        (
            counts["failed"],
            f"{_trials(counts['failed'])} failed; the table of trials has the errors.",
        ),
        (
            diverged,
            f"{_trials(diverged)} finished without a finite {main}: they diverged and are not "
            "ranked.",
        ),
        (
            analysis.experiment.plan.scheduler == "pbt",
            "Parameters changed during the trials (population-based training); the last ones are "
            "shown, and training with them alone may end elsewhere.",
        ),
    )
    return [*(note for holds, note in notes if holds), *_small_gain(analysis), *_edges(analysis)]


def verdict(analysis: Analysis) -> str:
    """Whether the scheduler stopped the right trials, as far as reruns show."""
    ended = [rerun for rerun in analysis.reruns if rerun.final_rank is not None]
    if not ended:
        return "No rerun of a stopped trial has ended, so whether stopping was right is unknown."
    if not analysis.finished:
        return "No trial finished that the reruns could be compared with."
    n = f"{len(ended)} stopped {'trial' if len(ended) == 1 else 'trials'} trained to the end"
    better = [rerun for rerun in ended if rerun.final_rank == 1]
    if not better:
        best = min(rerun.final_rank or 0 for rerun in ended)
        return (
            f"Stopping lost nothing: of {n}, none beats the best of {len(analysis.finished)} "
            f"finished; the best of them would have ranked {best}."
        )
    winner = min(better, key=lambda rerun: rerun.final or 0.0)
    there = analysis.finished[0].values[analysis.main.metric]
    return (
        f"Stopping lost something: of {n}, {len(better)} would have been best. Trial "
        f"{winner.trial.number}, stopped after epoch {winner.epoch}, reached "
        f"{number(winner.final)} instead of {number(there)}."
    )


def _what_ran(analysis: Analysis) -> str:
    counts, cost = analysis.counts, analysis.cost
    if not analysis.experiment.trials:
        return "No trial has started."
    parts = [f"{n} {STATUS_LABELS[status]}" for status, n in counts.items() if n]
    text = f"Of {_trials(sum(counts.values()))}, {', '.join(parts)}; {duration(cost.seconds)} spent"
    if cost.to_the_end and counts["stopped"] and cost.to_the_end > cost.seconds:
        text += f", where running all to the end would have taken about {duration(cost.to_the_end)}"
    return f"{text}."


def _what_won(analysis: Analysis) -> list[str]:
    best, main = analysis.best, analysis.main
    if best is None:
        return [f"No trial has a {main.label} yet."] if analysis.experiment.trials else []
    value = best.values[main.metric]
    if best.trial.status != "finished":
        return [
            f"No trial finished. The best so far is trial {best.trial.number}, "
            f"{STATUS_LABELS[best.trial.status]}, with {main.label} {number(value)} after epoch "
            f"{best.epoch}."
        ]
    found = [
        f"Trial {best.trial.number} is best: {main.label} {number(value)}"
        f"{_against_defaults(best, analysis)}."
    ]
    for s in analysis.ranked[main.metric]:
        if s.trial.status != "finished" and s.values[main.metric] < value:
            found.append(
                f"Trial {s.trial.number}, {STATUS_LABELS[s.trial.status]} after epoch "
                f"{s.trial.epochs}, had a better {number(s.values[main.metric])} there."
            )
            break
    return found


def _against_defaults(best: Scored, analysis: Analysis) -> str:
    default, metric = analysis.default, analysis.main.metric
    if default is None:
        return "; no trial had the defaults to compare with"
    trial = default.trial
    if trial.id == best.trial.id:
        return ", with the defaults: the search found nothing better"
    if trial.status != "finished" or metric not in default.values:
        status = STATUS_LABELS[trial.status]
        return (
            f"; the defaults (trial {trial.number}, {status}) have no final value to compare with"
        )
    there, value = default.values[metric], best.values[metric]
    change = "less" if value < there else "more"
    share = f" ({100 * abs(value - there) / abs(there):.1f} % {change})" if there else ""
    return f", against {number(there)} with the defaults{share}"


def _what_mattered(analysis: Analysis) -> list[str]:
    shares = analysis.importance.shares
    if not shares:
        return []
    key = max(shares, key=lambda key: shares[key])
    name = labels([p.key for p in analysis.experiment.plan.space])[key]
    return [f"{name} mattered most ({100 * shares[key]:.0f} % of the variance between trials)."]


def _small_gain(analysis: Analysis) -> list[str]:
    """Says when the best leads the defaults by less than similar trials differ."""
    best, default, metric = analysis.best, analysis.default, analysis.main.metric
    if best is None or default is None or best.trial.id == default.trial.id:
        return []
    others = [s for s in analysis.finished if s.trial.id not in {best.trial.id, default.trial.id}]
    if best.trial.status != "finished" or metric not in default.values or len(others) < _NEAREST:
        return []
    space = analysis.experiment.plan.space
    nearest = sorted(others, key=lambda s: _distance(s.trial, best.trial, space))[:_NEAREST]
    values = [s.values[metric] for s in nearest]
    spread, gain = max(values) - min(values), abs(best.values[metric] - default.values[metric])
    if gain >= spread:
        return []
    return [
        f"The best leads the defaults by {number(gain)}, less than the {number(spread)} by which "
        f"the {_NEAREST} most similar trials differ: it may be luck. Train both again with other "
        "seeds."
    ]


def _edges(analysis: Analysis) -> list[str]:
    """Parameters that the best trial has at an end of their range."""
    if analysis.best is None:
        return []
    names = labels([p.key for p in analysis.experiment.plan.space])
    notes = []
    for p in analysis.experiment.plan.space:
        position = _position(p, analysis.best.trial.parameters.get(p.key))
        if p.kind != "choice" and position is not None and abs(position - 0.5) >= 0.5 - _EDGE:
            end = "lower" if position < 0.5 else "upper"
            notes.append(
                f"The best trial has {names[p.key]} at the {end} end of its range: a wider range "
                "may hold a better one."
            )
    return notes


def _position(parameter: Parameter, value: Any) -> float | None:
    """Position of a number in its range, from 0 to 1; None where it is no number."""
    low, high = parameter.low, parameter.high
    if low is None or high is None or not isinstance(value, int | float) or high <= low:
        return None
    if parameter.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _distance(one: Trial, other: Trial, space: Sequence[Parameter]) -> float:
    """Euclidean distance of positions; different choices are 1 apart."""
    pairs = [(p, one.parameters.get(p.key), other.parameters.get(p.key)) for p in space]
    return math.hypot(
        *(
            float(json.dumps(a) != json.dumps(b)) if x is None or y is None else x - y
            for p, a, b in pairs
            for x, y in [(_position(p, a), _position(p, b))]
        )
    )


def _trials(n: int) -> str:
    return f"{n} trial" if n == 1 else f"{n} trials"
