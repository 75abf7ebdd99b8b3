"""What of a run a forecaster is given beside its accuracies: readings of a text and of the task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray
from neuneu.data.choice_metrics import item_scores
from neuneu.data.choices import Choices
from neuneu.data.trajectories import TokenLossTable, Trajectory

TEXT: Final = "validation"
SMALLEST_CHANCE: Final = 1e-12


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which series go in: mean losses of validation texts, and continuous metrics of the task.

    `signals` maps a metric to the name under which the forecaster is to read it
    (`data.trajectories.SIGNALS`).
    """

    name: str
    texts: bool = False
    signals: Mapping[str, str] | None = None

    def of(self, trajectory: Trajectory) -> Trajectory:
        """Return a trajectory with these series alone."""
        return replace(
            trajectory,
            losses=trajectory.losses if self.texts else {},
            signals={
                to: trajectory.signals[name]
                for name, to in (self.signals or {}).items()
                if name in trajectory.signals
            },
        )


NONE: Final = Reading(name="none")
CORPUS: Final = Reading(name="corpus mean loss", texts=True)
OWN: Final = {"bpb": "bpb", "nll_gold": "nll_gold"}
"""Losses of the right answer: bits per byte, or nats."""
GOLD: Final = Reading(name="gold loss", signals=OWN)
BOTH: Final = Reading(name="corpus mean loss + gold loss", texts=True, signals=OWN)
MARGINS: Final = Reading(name="margins", signals={"choice_loss": "soft_log"})
PUBLIC_READINGS: Final = (NONE, CORPUS, GOLD, BOTH)
LADDER_READINGS: Final = (*PUBLIC_READINGS, MARGINS)


def choice_loss(choices: Choices) -> FloatArray:
    """Return the mean of -ln p(right choice | the choices) over items, (n,) in nats.

    Of a pair it is ln(1 + e^-m) of the margin m in nats: the margins as a loss that falls.
    """
    chances = item_scores(choices.items, choices.logprobs, metrics=["p_gold"])["p_gold"]
    return np.asarray(-np.log(np.maximum(chances, SMALLEST_CHANCE)).mean(axis=1))


def with_signals(trajectory: Trajectory) -> Trajectory:
    """Return a trajectory with the continuous metrics that follow from its choices.

    `bpb` are bits per byte of the right choice, `choice_loss` as the function.
    """
    choices = trajectory.choices
    assert choices is not None
    bits = item_scores(choices.items, choices.logprobs, metrics=["bpb"])["bpb"].mean(axis=1)
    return replace(trajectory, signals={"bpb": bits, "choice_loss": choice_loss(choices)})


def with_text(
    trajectories: Sequence[Trajectory], work: Path
) -> tuple[list[Trajectory], TokenLossTable, dict[str, Any]]:
    """Return trajectories with the mean loss of the text, the losses of its words, and its size.

    Raises:
        UserError: `tokens.py` has not scored one of the checkpoints.
    """
    folder = work / "tokens"
    keys = sorted({(t.suite, t.run, int(step)) for t in trajectories for step in t.steps})
    words, means = [], {}
    for suite, run, step in keys:
        path = folder / run / f"{step:06d}.npz"
        if not path.exists():
            raise UserError(f"{path}: found nothing; run benchmarks/evidence/tokens.py first.")
        with np.load(path) as file:
            words.append(file["words"])
            means[suite, run, step] = float(file["loss"])
    about = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    table = TokenLossTable(
        matrix=np.stack(words), rows={key: row for row, key in enumerate(keys)}, unit="word",
        corpus_hash=about["corpus_hash"],
    )  # fmt: skip
    joined = [
        replace(t, losses={TEXT: np.array([means[t.suite, t.run, int(s)] for s in t.steps])})
        for t in trajectories
    ]
    return joined, table, about
