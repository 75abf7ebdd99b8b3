"""The cross-run network as a `Forecaster`; several networks answer with their mean quantiles."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from neuneu.core.errors import DataError
from neuneu.data.fingerprints import share_trained_on
from neuneu.data.trajectories import FloatArray, Trajectory
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.copula import Joint, sample_futures
from neuneu.forecasters.cross_run.asking import answerable, ask, nearest_references
from neuneu.forecasters.cross_run.calibrating import group_names
from neuneu.forecasters.cross_run.curves import Codes, build_curves
from neuneu.forecasters.cross_run.export import load_networks
from neuneu.forecasters.cross_run.familiar import task_places, unfamiliar
from neuneu.forecasters.cross_run.features import make_features
from neuneu.forecasters.cross_run.network import CrossRunNetwork, to_tensors
from neuneu.forecasters.cross_run.questions import Questions
from neuneu.forecasters.cross_run.references import NONE, index_references
from neuneu.forecasters.cross_run.unfamiliar import cautious, in_company
from neuneu.forecasters.protocol import Query, Sees

MAX_REFERENCES: Final = 24
PRETRAINED: Final = Path(__file__).parents[1] / "pretrained"
"""The forecaster that comes with the package."""


@contextmanager
def one_thread() -> Iterator[None]:
    """A network this small gains nothing from a second thread, and beside other work loses much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CrossRunForecaster:
    """Answers from a run's past and, unless it is told not to, from finished runs."""

    def __init__(
        self,
        networks: Sequence[CrossRunNetwork],
        *,
        sees: Sees = "reference",
        name: str = "neuneu",
        assume_end: bool = True,
        calibration: Calibration | None = None,
        joint: Joint | None = None,
        training_runs: Mapping[str, Sequence[str]] | None = None,
        general: Sequence[CrossRunNetwork] = (),
    ) -> None:
        """Wraps trained networks.

        Args:
            networks: at least one; all of the same levels.
            sees: `own` or `reference`.
            name: what tables call it.
            assume_end: take the last target for the planned end of a run that tells none.
            calibration: adjusts the bands; None leaves them as the networks give them.
            joint: how targets of one query move together; None: nothing can be sampled.
            training_runs: `family/run` -> fingerprints of the trajectories trained on.
            general: networks that answer for families not trained on; none: the
                others do, as for any run.
        """
        self._general = list(general)
        self.calibration = calibration
        self.joint = joint
        self._marks = frozenset(m for marks in (training_runs or {}).values() for m in marks)
        self._networks = list(networks)
        self.sees: Sees = sees
        self.name = name
        self.levels = self._networks[0].config.levels
        self._assume_end = assume_end
        self._codes = Codes()
        self._library = build_curves([], self._codes)
        self._index = index_references(self._library)
        self._references: Sequence[Trajectory] = ()

    @classmethod
    def load(
        cls, folder: Path | None = None, *, sees: Sees = "reference", name: str = "neuneu"
    ) -> "CrossRunForecaster":
        """The forecaster of a folder; None takes the one that comes with the package.

        Raises:
            DataError: no such files, or files that do not fit.
        """
        saved = load_networks(folder or PRETRAINED)
        record = saved.record
        calibration = record.get("calibration")
        return cls(
            saved.networks,
            sees=sees,
            name=name,
            calibration=None if calibration is None else Calibration.from_json(calibration),
            joint=Joint.from_json(record["joint"]) if "joint" in record else None,
            training_runs=record.get("provenance", {}).get("training_runs", {}),
            general=saved.general,
        )

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The share of `trajectories` (of one run, say) that it was trained on, by content."""
        return share_trained_on(trajectories, self._marks)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Remembers finished runs to compare with; the networks stay as they are."""
        usable = [t for t in references if len(t.without_step_zero())]
        self._library = build_curves(usable, self._codes)
        self._index = index_references(self._library)
        self._references = usable

    @property
    def references(self) -> Sequence[Trajectory]:
        """The finished runs that it compares with."""
        return self._references if self.sees == "reference" else ()

    def compared_with(self, queries: Sequence[Query]) -> list[list[Trajectory]]:
        """The trajectories that each query is compared with, nearest first."""
        return self._found(queries)[0]

    def too_short(self, queries: Sequence[Query]) -> list[list[Trajectory]]:
        """The trajectories that each query is not compared with, because they ended too early.

        In a family not trained on, a run is compared with only where it went as far as
        the last target, or as far for its size (`references.far_enough`). Networks that learnt
        from the family learnt how longer runs follow shorter ones, too.
        """
        return self._found(queries)[1]

    def _found(
        self, queries: Sequence[Query]
    ) -> tuple[list[list[Trajectory]], list[list[Trajectory]]]:
        used: list[list[Trajectory]] = [[] for _ in queries]
        short: list[list[Trajectory]] = [[] for _ in queries]
        places = answerable(queries) if self.references else []
        if not places:
            return used, short
        asked = [queries[place] for place in places]
        contexts = build_curves([query.context for query in asked], self._codes)
        found = nearest_references(
            asked, contexts, self._library, self._index, count=MAX_REFERENCES,
            familiar=self._familiar,
        )  # fmt: skip
        for target, rows_NM in ((used, found.nearest), (short, found.too_short)):
            for place, rows in zip(places, rows_NM, strict=True):
                target[place] = [self._references[row] for row in rows if row != NONE]
        return used, short

    @property
    def _familiar(self) -> tuple[str, ...]:
        """The families that the networks were trained on."""
        return self._networks[0].config.families

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) in [0, 1]; NaN where nothing but step 0 was observed.

        Raises:
            DataError: tokens that are not positive, or an accuracy that is not a number.
        """
        answers = [np.full((len(q.target_steps), len(self.levels)), np.nan) for q in queries]
        library = self._library if self.sees == "reference" else build_curves([], self._codes)
        for asked in ask(
            queries,
            library,
            self._codes,
            n_references=MAX_REFERENCES,
            index=self._index if self.sees == "reference" else None,
            assume_end=self._assume_end,
            familiar=self._familiar,
        ):
            questions = asked.questions
            total = self._means(questions)
            if not np.isfinite(total[np.isfinite(questions.targets)]).all():
                raise DataError(
                    f"forecaster {self.name!r} gave NaN; look for NaN in the context's accuracies."
                )
            asked.put(answers, np.clip(total, 0.0, 1.0))
        return self._cautious(queries, self._calibrated(queries, answers))

    def _means(self, questions: Questions) -> FloatArray:
        """(B, H, Q) means over the networks, of the general ones for unfamiliar families."""
        strange = self._strange(questions)
        total = np.zeros((*questions.targets.shape, len(self.levels)))
        for networks, rows, general in (
            (self._networks, np.flatnonzero(~strange), False),
            (self._general, np.flatnonzero(strange), True),
        ):
            if not len(rows):
                continue
            asked = questions.take(rows)
            features = to_tensors(make_features(asked, general=general))
            with torch.inference_mode(), one_thread():
                for network in networks:
                    place = task_places(asked.asked, network.config)[asked.rows]
                    device = next(network.parameters()).device  # a GPU, while it is trained there
                    batch = {
                        name: value.to(device)
                        for name, value in (features | {"task": place * (not general)}).items()
                    }
                    total[rows] += network(batch)[0].cpu().double().numpy() / len(networks)
        return total

    def _strange(self, questions: Questions) -> npt.NDArray[np.bool_]:
        if not self._general:
            return np.zeros(len(questions), dtype=bool)
        return unfamiliar(questions.asked, self._general[0].config)[questions.rows]

    def _cautious(self, queries: Sequence[Query], answers: list[FloatArray]) -> list[FloatArray]:
        if not self._general:
            return answers
        families = self._general[0].config.families
        return [
            answer
            if query.context.family in families or np.isnan(answer).any()
            else cautious(query, answer, self.levels, compared=in_company(query, runs))
            for query, answer, runs in zip(
                queries, answers, self.compared_with(queries), strict=True
            )
        ]

    def sample(
        self, queries: Sequence[Query], *, count: int = 1000, seed: int = 0
    ) -> list[FloatArray]:
        """Coherent futures (S, h) of each query, each column with its forecast distribution.

        Queries of one run, and queries of one task, metric and shots, move together.

        Args:
            queries: any.
            count: S samples of each.
            seed: of the samples.

        Raises:
            DataError: the forecaster has no joint distribution, or as `predict`.
        """
        return self.draw(queries, self.predict(queries), count=count, seed=seed)

    def draw(
        self,
        queries: Sequence[Query],
        answers: Sequence[FloatArray],
        *,
        count: int = 1000,
        seed: int = 0,
    ) -> list[FloatArray]:
        """As `sample`, from `answers` that `predict` gave."""
        if self.joint is None:
            raise DataError(
                f"forecaster {self.name!r}: expected a joint distribution, found none; train it "
                "with `neuneu pretrain`."
            )
        contexts = [query.context for query in queries]
        return sample_futures(
            answers,
            self.levels,
            [np.log(query.target_tokens) for query in queries],
            self.joint,
            trajectories=[(c.family, *c.key) for c in contexts],
            runs=[c.run_group for c in contexts],
            tasks=[(c.task, c.metric, c.num_fewshot) for c in contexts],
            count=count,
            seed=seed,
        )

    def calibration_groups(self, queries: Sequence[Query]) -> list[list[str]] | None:
        """The group that adjusts every target of every query; None without a calibration."""
        if self.calibration is None:
            return None
        names = group_names(queries, [bool(runs) for runs in self.compared_with(queries)])
        return [[self.calibration.group(name) for name in of] for of in names]

    def _calibrated(self, queries: Sequence[Query], answers: list[FloatArray]) -> list[FloatArray]:
        groups = self.calibration_groups(queries)
        if self.calibration is None or groups is None:
            return answers
        counts = [len(answer) for answer in answers]
        flat = np.concatenate([np.zeros((0, len(self.levels))), *answers])
        known = ~np.isnan(flat).any(axis=1)
        names = np.array([name for names in groups for name in names])
        flat[known] = self.calibration.apply(flat[known], names[known].tolist())
        return np.split(flat, np.cumsum(counts)[:-1])
