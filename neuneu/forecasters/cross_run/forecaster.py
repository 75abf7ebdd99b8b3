"""Cross-run networks as a forecaster; several networks answer with their mean quantiles."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from neuneu.core.config import build_config
from neuneu.core.errors import DataError
from neuneu.data.fingerprints import share_trained_on
from neuneu.data.quantiles import MEDIAN
from neuneu.data.trajectories import FloatArray, Trajectory
from neuneu.forecasters.baselines.power_law import PowerLaw
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.copula import Joint, sample_futures
from neuneu.forecasters.cross_run.batching import (
    QueryBatch,
    answerable,
    make_batches,
    nearest_references,
)
from neuneu.forecasters.cross_run.curves import Codes, build_curves
from neuneu.forecasters.cross_run.export import load_networks
from neuneu.forecasters.cross_run.features import make_features
from neuneu.forecasters.cross_run.groups import group_names
from neuneu.forecasters.cross_run.network import CrossRunNetwork, task_index, to_tensors
from neuneu.forecasters.cross_run.references import NONE, index_references
from neuneu.forecasters.protocol import Query, ReferenceRuns, Sees

MAX_REFERENCES: Final = 24


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: networks this small gain nothing from a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CrossRunForecaster:
    """Forecasts from a run's context and, unless `sees` is `own`, from finished runs."""

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
            name: its name in tables.
            assume_end: take the last target as the planned end of a run without one.
            calibration: adjusts the intervals; None leaves them as the networks give them.
            joint: how targets move together; without it nothing can be sampled.
            training_runs: `family/run` -> fingerprints of the trajectories trained on.
            general: networks for families not trained on; without any, `networks` answer.
        """
        self._networks, self._general = list(networks), list(general)
        self.sees: Sees = sees
        self.name, self.calibration, self.joint = name, calibration, joint
        self._assume_end = assume_end
        self._marks = frozenset(m for marks in (training_runs or {}).values() for m in marks)
        self.levels = self._networks[0].config.levels
        self._families = self._networks[0].config.families
        self._codes = Codes()
        self.fit([])

    @classmethod
    def load(
        cls, folder: Path, *, sees: Sees = "reference", name: str = "neuneu"
    ) -> "CrossRunForecaster":
        """Loads a folder that `neuneu pretrain` wrote.

        Raises:
            DataError: no such files, or files that do not fit.
        """
        saved = load_networks(folder)
        record = saved.record
        calibration = record.get("calibration")
        return cls(
            saved.networks,
            sees=sees,
            name=name,
            calibration=None if calibration is None else build_config(Calibration, calibration),
            joint=build_config(Joint, record["joint"]) if "joint" in record else None,
            training_runs=record.get("provenance", {}).get("training_runs", {}),
            general=saved.general,
        )

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The share of `trajectories` (of one run, say) that it was trained on, by content."""
        return share_trained_on(trajectories, self._marks)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs as references; the networks stay as they are."""
        usable = [t for t in references if len(t.without_step_zero())]
        self._references = usable if self.sees == "reference" else []
        self._library = build_curves(self._references, self._codes)
        self._index = index_references(self._library)

    def reference_runs(self, queries: Sequence[Query]) -> list[ReferenceRuns]:
        """The references of each query.

        In a family not trained on, a run is left out unless it goes as far as the last target, or
        as far for its size (`references.far_enough`). Networks trained on the family have learned
        how longer runs follow shorter ones.
        """
        runs = [ReferenceRuns(used=[], left_out=[]) for _ in queries]
        indices = answerable(queries) if self._references else []
        if not indices:
            return runs
        chosen = [queries[index] for index in indices]
        contexts = build_curves([query.context for query in chosen], self._codes)
        found = nearest_references(
            chosen, contexts, self._library, self._index, count=MAX_REFERENCES,
            familiar=self._families,
        )  # fmt: skip
        for index, used, short in zip(indices, found.nearest, found.too_short, strict=True):
            runs[index].used.extend(self._references[row] for row in used if row != NONE)
            runs[index].left_out.extend(self._references[row] for row in short if row != NONE)
        return runs

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) in [0, 1]; NaN where nothing but step 0 was observed.

        Raises:
            DataError: tokens that are not positive, or an accuracy that is not a number.
        """
        answers = [np.full((len(q.target_steps), len(self.levels)), np.nan) for q in queries]
        for pieces in make_batches(
            queries,
            self._library,
            self._codes,
            n_references=MAX_REFERENCES,
            index=self._index,
            assume_end=self._assume_end,
            familiar=self._families,
        ):
            means = self._means(pieces.batch)
            if not np.isfinite(means[np.isfinite(pieces.batch.targets)]).all():
                raise DataError(
                    f"forecaster {self.name!r} gave NaN; look for NaN in the context's accuracies."
                )
            pieces.put(answers, np.clip(means, 0.0, 1.0))
        runs = self.reference_runs(queries)
        answers = self._calibrated(queries, answers, runs)
        if not self._general:
            return answers
        return [
            answer
            if query.context.family in self._general[0].config.families or np.isnan(answer).any()
            else cautious(query, answer, self.levels, of.used)
            for query, answer, of in zip(queries, answers, runs, strict=True)
        ]

    def _means(self, batch: QueryBatch) -> FloatArray:
        """(B, H, Q) means over the networks; for families not trained on, over the general ones."""
        unseen = np.zeros(len(batch), dtype=bool)
        if self._general:
            families = self._general[0].config.families
            unseen[:] = [batch.curves.trajectories[r].family not in families for r in batch.rows]
        total = np.zeros((*batch.targets.shape, len(self.levels)))
        for networks, rows, general in (
            (self._networks, np.flatnonzero(~unseen), False),
            (self._general, np.flatnonzero(unseen), True),
        ):
            if not len(rows):
                continue
            part = batch.take(rows)
            features = to_tensors(make_features(part, general=general))
            with torch.inference_mode(), one_thread():
                for network in networks:
                    task = task_index(part.curves, network.config)[part.rows]
                    device = next(network.parameters()).device  # a GPU, while it is trained there
                    inputs = {
                        name: value.to(device)
                        for name, value in (features | {"task": task * (not general)}).items()
                    }
                    total[rows] += network(inputs)[0].cpu().double().numpy() / len(networks)
        return total

    def sample(
        self, queries: Sequence[Query], *, count: int = 1000, seed: int = 0
    ) -> list[FloatArray]:
        """Samples futures (count, h) of each query; a column has its target's distribution.

        Queries of one run, and queries of one task, metric and number of shots, move together.

        Raises:
            DataError: the forecaster has no joint distribution, or as `predict`.
        """
        return self.draw(queries, self.predict(queries), count=count, seed=seed)

    def draw(
        self, queries: Sequence[Query], answers: Sequence[FloatArray], *, count: int, seed: int
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
        """The group that adjusts each target of each query; None without a calibration."""
        return self._groups(queries, self.reference_runs(queries))

    def _groups(
        self, queries: Sequence[Query], runs: Sequence[ReferenceRuns]
    ) -> list[list[str]] | None:
        if self.calibration is None:
            return None
        names = group_names(queries, [bool(of.used) for of in runs])
        return [[self.calibration.group(name) for name in of] for of in names]

    def _calibrated(
        self,
        queries: Sequence[Query],
        answers: list[FloatArray],
        runs: Sequence[ReferenceRuns],
    ) -> list[FloatArray]:
        groups = self._groups(queries, runs)
        if self.calibration is None or groups is None:
            return answers
        flat = np.concatenate([np.zeros((0, len(self.levels))), *answers])
        known = ~np.isnan(flat).any(axis=1)
        names = np.array([name for names in groups for name in names])
        flat[known] = self.calibration.apply(flat[known], names[known].tolist())
        return np.split(flat, np.cumsum([len(answer) for answer in answers])[:-1])


# Answers for families outside the training set are more cautious. Chosen on development runs, each
# family forecast by networks trained on the other: the general network answers (trained without
# absolute sizes, and on synthetic curves too); without a reference of the same family, the median
# moves towards the run's own power law, the more the longer its context; intervals are wider.
LAW_POINTS: Final = 12.0
"""Number of checkpoints at which the power law counts as much as the network."""

SPREAD: Final = 1.6
"""Factor by which intervals are wider."""

_NORMAL_80: Final = 2.563
"""Width of the 0.1 to 0.9 interval of a normal distribution, in standard deviations."""


def cautious(
    query: Query, answer: FloatArray, levels: Sequence[float], references: Sequence[Trajectory]
) -> FloatArray:
    """The quantiles (h, Q) of a run of an unseen family from those of the general network.

    The mixture of network and power law has the weighted mean of both, and, besides the network's
    variance, that of their disagreement d: w (1 - w) d^2.
    """
    compared = any(t.family == query.context.family for t in references)
    middle = list(levels).index(MEDIAN)
    median = answer[:, [middle]]
    if compared:
        return np.clip(median + SPREAD * (answer - median), 0.0, 1.0)
    trained = query.context.without_step_zero()
    (law,) = PowerLaw().predict([replace(query, context=trained)])
    weight = len(trained) / (len(trained) + LAW_POINTS)
    apart = law - median
    low, high = (int(np.argmin(np.abs(np.array(levels) - level))) for level in (0.1, 0.9))
    deviation = np.maximum((answer[:, [high]] - answer[:, [low]]) / _NORMAL_80, 1e-4)
    wider = SPREAD * np.sqrt(1.0 + weight * (1.0 - weight) * (apart / deviation) ** 2)
    moved = median + weight * apart + wider * (answer - median)
    return np.clip(moved, 0.0, 1.0)
