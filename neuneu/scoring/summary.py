"""The result of an extraction in numbers, counted from the outcomes of checkpoints."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuneu.scoring.workers.worker import PHASES, Outcome


@dataclass(kw_only=True)
class ExtractSummary:
    """One invocation in numbers.

    `listed` = `skipped_done` + `skipped_quarantined` + `done` + `quarantined` + `left`. `done`
    includes checkpoints that another job scored in the meantime (`done_elsewhere`); `left` are
    those whose source did not answer or that an early end left out (`stopped` says why), to be
    scored by running again. `tokens` counts all prompts, `computed_tokens` what models computed,
    with contexts shared by prompts counted once. `tokens_per_s` is for all workers by wall clock,
    including starts; `tokens_per_s_engine` is for one engine while it scores. Seconds of phases are
    summed over workers (`swap` includes its proof; `stage` to `tokenise` and `write` run while
    another checkpoint is scored), except `group` and `wall_s`, which are those of the driver.
    `repeated_weights` lists steps of the store with equal weights (hubs have had branches that all
    contained the final model); leave them out of trajectories. `proofs` counts the evidence that
    engines held the right weights, and `ties` the items whose best score several choices share.
    """

    store: str
    engine: str
    listed: int = 0
    skipped_done: int = 0
    skipped_quarantined: int = 0
    done: int = 0
    done_elsewhere: int = 0
    quarantined: int = 0
    left: int = 0
    stopped: str | None = None
    actors: int = 0
    architectures: int = 0
    engines_started: int = 0
    swaps: int = 0
    swap_s_median: float | None = None
    swap_s_max: float | None = None
    tokens: int = 0
    computed_tokens: int = 0
    bytes_staged: int = 0
    tokens_per_s: float | None = None
    tokens_per_s_engine: float | None = None
    rss_mb_max: float = 0.0
    wall_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    repeated_weights: dict[str, list[int]] = field(default_factory=dict)
    proofs: dict[str, int] = field(default_factory=dict)
    ties: int = 0

    def count(self, outcomes: Sequence[Outcome], *, seconds: float) -> None:
        """Add the outcomes of checkpoints that went to workers, in `seconds` of wall time."""
        for outcome in outcomes:
            if outcome.status == "done":
                self.done += 1
                self.done_elsewhere += not outcome.engine
                continue
            key = (outcome.suite, outcome.run, outcome.step)
            if outcome.status == "left":
                self.count_left(key, outcome.error)
            else:
                self.count_quarantined(key, outcome.error)
        swap_s = [o.seconds["swap"] / o.swaps for o in outcomes if o.swaps]
        self.swaps = sum(o.swaps for o in outcomes)
        self.swap_s_median = statistics.median(swap_s) if swap_s else None
        self.swap_s_max = max(swap_s, default=None)
        self.engines_started = sum(o.engines_started for o in outcomes)
        self.tokens = sum(o.tokens for o in outcomes)
        self.computed_tokens = sum(o.computed_tokens for o in outcomes)
        self.bytes_staged = sum(o.bytes_staged for o in outcomes)
        self.tokens_per_s = self.tokens / seconds
        self.rss_mb_max = max((o.rss_mb for o in outcomes), default=0.0)
        self.proofs = dict(Counter(o.proof for o in outcomes if o.proof))
        self.ties = sum(o.ties for o in outcomes)
        for phase in PHASES:
            self.seconds[phase] = sum(o.seconds[phase] for o in outcomes)
        scored_s = sum(o.seconds["score"] for o in outcomes if o.tokens)
        self.tokens_per_s_engine = self.tokens / scored_s if scored_s else None

    def count_quarantined(self, key: tuple[str, str, int], error: str) -> None:
        """Add a checkpoint that could not be scored."""
        self.quarantined += 1
        self.errors["{}/{} step {}".format(*key)] = error

    def count_left(self, key: tuple[str, str, int], error: str) -> None:
        """Add a checkpoint that is not available now."""
        self.left += 1
        self.errors["{}/{} step {}".format(*key)] = error


def repeated_weights(checkpoints: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return steps with the weights of another step of their run, by `suite/run`.

    Args:
        checkpoints: Rows of `schemas.CHECKPOINTS`; only those that are done count.
    """
    steps: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in checkpoints:
        if row["status"] == "done" and row["weights_hash"]:
            steps[f"{row['suite']}/{row['run']}", row["weights_hash"]].append(row["step"])
    repeated: dict[str, list[int]] = defaultdict(list)
    for (run, _), same in steps.items():
        if len(same) > 1:
            repeated[run] = sorted(repeated[run] + same)
    return dict(repeated)
