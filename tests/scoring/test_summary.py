from typing import Any

from neuneu.scoring.summary import ExtractSummary, repeated_weights
from neuneu.scoring.workers.worker import PHASES, Outcome


def row(run: str, step: int, weights: str | None, status: str = "done") -> dict[str, Any]:
    return {"suite": "s", "run": run, "step": step, "weights_hash": weights, "status": status}


def test_repeated_weights_are_those_of_one_run() -> None:
    rows = [
        row("a", 1, "x"), row("a", 2, "y"), row("a", 3, "x"), row("a", 4, "z"),
        row("b", 1, "x"), row("b", 2, None), row("b", 3, None), row("b", 4, "x", "quarantined"),
    ]  # fmt: skip
    assert repeated_weights(rows) == {"s/a": [1, 3]}


def outcome(step: int, **changes: Any) -> Outcome:
    seconds = dict.fromkeys(PHASES, 0.0) | {"score": 2.0, "swap": 0.5}
    defaults = {"status": "done", "engine": "e", "tokens": 100, "computed_tokens": 40, "swaps": 1}
    return Outcome(suite="s", run="a", step=step, seconds=seconds, **(defaults | changes))


def test_count_every_outcome_in_one_place() -> None:
    summary = ExtractSummary(store="x", engine="y", listed=4)
    nothing = {"engine": "", "tokens": 0, "computed_tokens": 0, "swaps": 0}
    outcomes = [
        outcome(1),
        outcome(2, **nothing),
        outcome(3, status="quarantined", error="bad", **nothing),
        outcome(4, status="left", error="503", **nothing),
    ]
    summary.count(outcomes, seconds=10.0)
    assert (summary.done, summary.done_elsewhere) == (2, 1)
    assert (summary.quarantined, summary.left) == (1, 1)
    assert summary.errors == {"s/a step 3": "bad", "s/a step 4": "503"}
    assert (summary.tokens, summary.computed_tokens) == (100, 40)
    assert (summary.tokens_per_s, summary.tokens_per_s_engine) == (10.0, 50.0)
    assert summary.seconds["score"] == 8.0
