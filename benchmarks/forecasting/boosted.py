"""Gradient-boosted quantiles on hand-made features: the strongest cheap competitor.

It reads what the cross-run network reads (`neuneu.forecasters.cross_run.features`), with the
nearest three references laid side by side, and learns the change from the present level, one model
a quantile level (scikit-learn's histogram boosting with the pinball loss).
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray
from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.batching import make_batches
from neuneu.forecasters.cross_run.curves import Codes, Float32Array, build_curves
from neuneu.forecasters.cross_run.features import Features, make_features
from neuneu.forecasters.cross_run.references import index_references
from neuneu.forecasters.protocol import Query, Sees
from neuneu.training.cross_run.sampling import Sampler, SamplingConfig

NEAREST: Final = 3
_BATCH: Final = 256


class BoostedQuantiles:
    """Boosted trees on comparisons with other runs, or on the own past alone."""

    levels = FORECAST_LEVELS

    def __init__(
        self,
        *,
        sees: Sees = "reference",
        questions: int = 20_000,
        iterations: int = 300,
        seed: int = 0,
    ) -> None:
        """Trees that have learnt nothing yet, and so answer nothing.

        Args:
            sees: `own` or `reference`; with `own` it is trained on other runs all the same, as
                any trained forecaster is, but compares with none when it answers.
            questions: how many pasts are drawn to learn from, with four targets each.
            iterations: trees a level.
            seed: of the questions and of the trees.
        """
        self.sees: Sees = sees
        self.name = "boosted" if sees == "reference" else "boosted-own"
        self._questions, self._iterations, self._seed = questions, iterations, seed
        self._models: list[Any] = []
        self._codes = Codes()
        self._library = build_curves([], self._codes)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Remembers finished runs to compare with; the trees stay as they are."""
        usable = [t for t in references if len(t.without_step_zero())]
        self._library = build_curves(usable, self._codes)

    def train(self, trajectories: Sequence[Trajectory]) -> None:
        """Trains the trees on questions about finished runs."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        alone = 1.0 if self.sees == "own" else 0.0
        config = SamplingConfig(targets=4, references=NEAREST, alone=alone, spread=0.5)
        usable = [t for t in trajectories if len(t.without_step_zero()) >= 2]
        curves = build_curves(usable, Codes())
        sampler = Sampler(curves, index_references(curves), config)
        generator = np.random.default_rng(self._seed)
        inputs, outputs = [], []
        for _ in range(0, self._questions, _BATCH):
            questions, values = sampler.draw(generator, _BATCH)
            features = make_features(questions)
            rows = self._rows(features)
            change = values - features.level[:, None]
            known = np.isfinite(change)
            inputs.append(rows[known])
            outputs.append(change[known])
        x, y = np.concatenate(inputs), np.concatenate(outputs)
        self._models = [
            HistGradientBoostingRegressor(
                loss="quantile",
                quantile=level,
                max_iter=self._iterations,
                learning_rate=0.06,
                max_leaf_nodes=31,
                min_samples_leaf=60,
                l2_regularization=1.0,
                random_state=self._seed,
            ).fit(x, y)
            for level in self.levels
        ]

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) in [0, 1]; NaN where nothing but step 0 was observed.

        Raises:
            DataError: it was not trained.
        """
        if not self._models:
            raise DataError(f"{self.name}: expected trained trees, found none; call `train` first.")
        answers = [np.full((len(q.target_steps), len(self.levels)), np.nan) for q in queries]
        library = self._library if self.sees == "reference" else build_curves([], self._codes)
        for pieces in make_batches(queries, library, self._codes, n_references=NEAREST):
            features = make_features(pieces.batch)
            rows = self._rows(features)
            shape = (*rows.shape[:2], len(self.levels))
            flat = rows.reshape(-1, rows.shape[-1])
            change = np.stack([model.predict(flat) for model in self._models], axis=-1)
            quantiles = features.level[:, None, None] + change.reshape(shape)
            pieces.put(answers, np.clip(np.sort(quantiles, axis=-1), 0.0, 1.0))
        return answers

    def _rows(self, features: Features) -> Float32Array:
        """(B, H, F): one row a target, absent references as NaN; none of them with `own`."""
        B, H, R, _ = features.pairs.shape
        own = np.broadcast_to(features.own[:, None, :], (B, H, features.own.shape[-1]))
        parts = [own, features.targets]
        if self.sees == "own":
            return np.concatenate(parts, axis=-1).astype(np.float32)
        parts.append(features.size_candidates - features.level[:, None, None])
        for place in range(NEAREST):
            present = features.reference_mask[:, place] if place < R else np.zeros(B, bool)
            index = min(place, R - 1)
            pair = features.pairs[:, :, index]
            reference = np.broadcast_to(
                features.references[:, None, index], (B, H, features.references.shape[-1])
            )
            for part in (pair, reference):
                parts.append(np.where(present[:, None, None], part, np.nan))
        return np.concatenate(parts, axis=-1).astype(np.float32)
