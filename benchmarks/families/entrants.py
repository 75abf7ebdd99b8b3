"""The forecasters that are compared: simple rules, and trained ones by their folders.

A trained forecaster also enters as the questions use it: with its intervals set by the finished
runs (`+ finished runs`), and with runs that are alike told apart by their present levels, as in
`rank` (`+ peers`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from families.cases import RANKED, Case
from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray
from neuneu.data.fingerprints import SEEN_SHARE
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.peers import align_peers
from neuneu.decisions.self_calibration import self_calibrate
from neuneu.evaluation.backtest import RemembersTraining
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.protocol import Forecaster, JointForecaster, Query, Sees
from neuneu.forecasters.registry import load_joint_forecaster
from neuneu.forecasters.window.export import CONFIG, WEIGHTS

OWN_PAST: Final = ("persistence", "recent-mean", "power-law")
SHIFTED: Final = ("nearest-analogue", "ladder-law", "ladder-two-step-offset")
"""From references, moved to the run's own level."""

LAW: Final = "ladder-two-step"
"""The ladder law as published: from references alone."""

FINISHED: Final = " + finished runs"
PEERS: Final = " + peers"
"""What the names of variants end with."""

PRESENT: Final = ("persistence", "recent-mean")
"""What rankings are compared with: the last score, and the mean of the last three."""


class NearestRelative:
    """What the most similar finished run did, as it is: for runs before their start.

    The nearest has the same recipe if any has, then the nearest size, then the nearest length. It
    is read at the same fraction of its planned tokens.
    """

    name = "nearest-relative"
    sees: Sees = "reference"
    levels = (0.5,)

    def __init__(self) -> None:
        self._members: dict[tuple[object, ...], list[Trajectory]] = {}

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Keeps finished runs."""
        self._members = {}
        for t in references:
            if len(trained := t.without_step_zero()):
                self._members.setdefault(_cell(t), []).append(trained)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query; NaN where no other run has the task."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> FloatArray:
        members = self._members.get(_cell(query.context))
        if not members:
            return np.full((len(query.target_steps), 1), np.nan)
        end = query.context.planned_tokens or float(query.target_tokens[-1])
        size, recipe = query.context.params, query.context.recipe

        def distance(t: Trajectory) -> tuple[bool, float, float]:
            other = t.recipe != recipe
            length = abs(np.log((t.planned_tokens or t.tokens[-1]) / end))
            return other, abs(np.log(t.params / size)), length

        best = min(members, key=distance)
        share = np.log(best.tokens / (best.planned_tokens or best.tokens[-1]))
        values = np.interp(np.log(query.target_tokens / end), share, best.values)
        return np.asarray(values)[:, None]


def _cell(t: Trajectory) -> tuple[object, ...]:
    return t.family, t.task, t.metric, t.num_fewshot


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A forecaster by name; `mark` identifies what it was made from, for its cached answers.

    `trained` ones are compared with the best of the others, the simple rules. It answers in the
    cases that it `enters`.
    """

    name: str
    make: Callable[[], Forecaster]
    mark: str = ""
    trained: bool = False
    enters: Callable[[Case], bool] = lambda _: True


class FinishedRuns:
    """A forecaster whose intervals are as wide as its references, held out in turn, ask for."""

    def __init__(self, forecaster: JointForecaster) -> None:
        self._forecaster = forecaster
        self.name, self.sees = forecaster.name, forecaster.sees
        self.levels = forecaster.levels
        self._references: Sequence[Trajectory] = ()

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Keeps finished runs."""
        self._references = references

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) of each query."""
        found = self_calibrate(self._forecaster, self._references, queries).forecaster
        found.fit(self._references)
        return found.predict(queries)


class Peers:
    """A forecaster whose answers about runs that are alike are moved as `rank` moves them."""

    def __init__(self, forecaster: JointForecaster) -> None:
        self._forecaster = forecaster
        self.name, self.sees = forecaster.name, forecaster.sees
        self.levels = forecaster.levels

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs as references."""
        self._forecaster.fit(references)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) of each query."""
        beside = {id(t): t for query in queries for t in query.siblings}
        answers = self._forecaster.predict(queries)
        return align_peers(self._forecaster, queries, answers, list(beside.values()))


def rules(*, references: bool, observed: bool) -> list[Entrant]:
    """Return the simple rules that can answer with or without references and a context."""
    names = list(OWN_PAST if observed else ())
    if references:
        names += [*(SHIFTED if observed else ()), LAW]
    found = [Entrant(name=name, make=_maker(name)) for name in names]
    if references and not observed:
        found.append(Entrant(name=NearestRelative.name, make=NearestRelative))
    return found


def _maker(name: str) -> Callable[[], Forecaster]:
    return lambda: make_forecaster(name)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A forecaster for each held-out family, in folders of their names.

    A folder that is a forecaster itself answers for the families that it was not trained on.
    """

    name: str
    folder: Path

    @classmethod
    def parse(cls, text: str) -> "Trained":
        """Read `NAME=FOLDER`.

        Raises:
            UserError: something else, or no such folder.
        """
        name, equals, folder = text.partition("=")
        if not (name and equals and Path(folder).is_dir()):
            raise UserError(
                f"--forecasters {text!r}: expected NAME=FOLDER with a folder for each family, or "
                "one of a forecaster; train them first."
            )
        return cls(name=name, folder=Path(folder))

    def entrants(self, family: str, trajectories: Sequence[Trajectory]) -> list[Entrant]:
        """Return the forecaster of a family and its variants; none if it has seen the family.

        Raises:
            UserError: the family's own forecaster was trained on the family.
        """
        single = (self.folder / CONFIG).exists()
        folder = self.folder if single else self.folder / family
        if not (folder / CONFIG).exists():
            return []
        if _seen(load_joint_forecaster(folder, name=self.name), trajectories):
            if single:
                return []
            raise UserError(
                f"{folder}: expected a forecaster that was not trained on {family}, found one that "
                "was; hold the family out."
            )
        content = b"".join((folder / file).read_bytes() for file in (CONFIG, WEIGHTS))
        mark = hashlib.sha256(content).hexdigest()[:12]

        def load() -> JointForecaster:
            return load_joint_forecaster(folder, name=self.name)

        return [
            Entrant(name=self.name, make=load, mark=mark, trained=True),
            Entrant(
                name=self.name + FINISHED, make=lambda: FinishedRuns(load()), mark=mark,
                trained=True, enters=lambda case: case.references is not None,
            ),
            Entrant(
                name=self.name + PEERS, make=lambda: Peers(load()), mark=mark,
                trained=True, enters=lambda case: case.name in RANKED,
            ),
        ]  # fmt: skip


def _seen(forecaster: Forecaster, trajectories: Sequence[Trajectory]) -> bool:
    """Return whether it was trained on most trajectories of some run."""
    if not isinstance(forecaster, RemembersTraining):
        return False
    runs: dict[Any, list[Trajectory]] = {}
    for t in trajectories:
        runs.setdefault(t.run_group, []).append(t)
    return any(forecaster.seen_share(members) > SEEN_SHARE for members in runs.values())
