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
from neuneu.data.arrays import FloatArray
from neuneu.data.fingerprints import share_trained_on
from neuneu.data.quantiles import MEDIAN
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines.power_law import MIN_POINTS, PowerLaw
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
from neuneu.forecasters.noise import evaluation_noise
from neuneu.forecasters.protocol import Query, ReferenceRuns, Sees
from neuneu.forecasters.unit_scale import in_units, on_unit_scale

MAX_REFERENCES: Final = 24

LAW_SHARE: Final = 0.2
"""Share of the power law through the run's own past in the median of a run without references.

Chosen on families that the networks had not seen: the law errs less there than its error alone
suggests, and differently."""


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
        """
        self._networks = list(networks)
        self.sees: Sees = sees
        self.name, self.calibration, self.joint = name, calibration, joint
        self._assume_end = assume_end
        self._marks = frozenset(m for marks in (training_runs or {}).values() for m in marks)
        self.levels = self._networks[0].config.levels
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
        )

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The share of `trajectories` (of one run, say) that it was trained on, by content."""
        return share_trained_on([t.on_unit_scale() for t in trajectories], self._marks)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs as references; the networks stay as they are."""
        usable = [t for t in references if len(t.without_step_zero())]
        self._references = usable if self.sees == "reference" else []
        mapped = [t.on_unit_scale() for t in self._references]
        self._library = build_curves(mapped, self._codes)
        self._index = index_references(self._library)

    def reference_runs(self, queries: Sequence[Query]) -> list[ReferenceRuns]:
        """The references of each query.

        A run is left out unless it goes as far as the last target, or as far for its size
        (`references.far_enough`).
        """
        runs = [ReferenceRuns(used=[], left_out=[]) for _ in queries]
        indices = answerable(queries) if self._references else []
        if not indices:
            return runs
        chosen = [queries[index] for index in indices]
        contexts = build_curves([query.context for query in chosen], self._codes)
        found = nearest_references(
            chosen, contexts, self._library, self._index, count=MAX_REFERENCES,
        )  # fmt: skip
        for index, used, short in zip(indices, found.nearest, found.too_short, strict=True):
            runs[index].used.extend(self._references[row] for row in used if row != NONE)
            runs[index].left_out.extend(self._references[row] for row in short if row != NONE)
        return runs

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) of the metric; NaN where nothing but step 0 was observed.

        Raises:
            DataError: tokens that are not positive, or a value that is not a number.
        """
        if not queries:
            return []
        given, queries = queries, [on_unit_scale(query) for query in queries]
        answers = [np.full((len(q.target_steps), len(self.levels)), np.nan) for q in queries]
        for pieces in make_batches(
            queries,
            self._library,
            self._codes,
            n_references=MAX_REFERENCES,
            index=self._index,
            assume_end=self._assume_end,
        ):
            means = self._means(pieces.batch)
            if not np.isfinite(means[np.isfinite(pieces.batch.targets)]).all():
                raise DataError(
                    f"forecaster {self.name!r} gave NaN; look for NaN in the context's accuracies."
                )
            pieces.put(answers, np.clip(means, 0.0, 1.0))
        runs = self.reference_runs(queries)
        answers = self._calibrated(queries, self._with_law(queries, answers, runs), runs)
        return in_units(given, answers, self.levels)

    def _with_law(
        self,
        queries: Sequence[Query],
        answers: list[FloatArray],
        runs: Sequence[ReferenceRuns],
    ) -> list[FloatArray]:
        """Moves the answers without references towards the power law."""
        trained = [query.context.without_step_zero() for query in queries]
        alone = [
            i
            for i, of in enumerate(runs)
            if not of.used and len(trained[i]) >= MIN_POINTS and not np.isnan(answers[i]).any()
        ]
        asked = [replace(queries[i], context=trained[i]) for i in alone]
        middle = self.levels.index(MEDIAN)
        for i, law in zip(alone, PowerLaw().predict(asked), strict=True):
            shift = LAW_SHARE * (law - answers[i][:, [middle]])
            answers[i] = np.clip(answers[i] + shift, 0.0, 1.0)
        return answers

    def _means(self, batch: QueryBatch) -> FloatArray:
        """(B, H, Q) means over the networks."""
        total = np.zeros((*batch.targets.shape, len(self.levels)))
        features = to_tensors(make_features(batch))
        with torch.inference_mode(), one_thread():
            for network in self._networks:
                task = task_index(batch.curves, network.config)[batch.rows]
                device = next(network.parameters()).device  # a GPU, while it is trained there
                inputs = {name: v.to(device) for name, v in (features | {"task": task}).items()}
                total += network(inputs)[0].cpu().double().numpy() / len(self._networks)
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
        # Runs that do well do well on each metric, whichever way it points.
        drawn = sample_futures(
            [
                c.scale.quantiles_to_unit(answer, self.levels)
                for c, answer in zip(contexts, answers, strict=True)
            ],
            self.levels,
            [np.log(query.target_tokens) for query in queries],
            self.joint,
            trajectories=[(c.family, *c.key) for c in contexts],
            runs=[c.run_group for c in contexts],
            tasks=[(c.task, c.metric, c.num_fewshot) for c in contexts],
            count=count,
            seed=seed,
        )
        return [c.scale.from_unit(of) for c, of in zip(contexts, drawn, strict=True)]

    def calibration_groups(self, queries: Sequence[Query]) -> list[list[str]] | None:
        """The group that adjusts each target of each query; None without a calibration."""
        mapped = [on_unit_scale(query) for query in queries]
        return self._groups(mapped, self.reference_runs(queries))

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
        counts = [len(answer) for answer in answers]
        noise = np.repeat(evaluation_noise(queries), counts)
        flat[known] = self.calibration.apply(flat[known], names[known].tolist(), noise[known])
        return np.split(flat, np.cumsum(counts)[:-1])
