"""A trained network as a `Forecaster`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray
from neuneu.data.fingerprints import share_trained_on
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query, Sees
from neuneu.forecasters.unit_scale import in_units, on_unit_scale
from neuneu.forecasters.window.batching import make_batch
from neuneu.forecasters.window.encoders import READS
from neuneu.forecasters.window.export import Provenance, load_model
from neuneu.forecasters.window.network import Network
from neuneu.forecasters.window.windows import (
    Samples,
    Series,
    gap_positions,
    log_tokens,
    mean_losses,
)

BATCH = 1024
ENCODE_BATCH = 16
EVEN_SPACING = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuralForecaster:
    """The published forecaster; it reads no other runs.

    With gaps in checkpoints, a target's distance is measured in units of the context's spacing
    when that is even (within 1 %), so that a single far target works; otherwise targets
    count as the consecutive checkpoints after the context, as in the anchored protocol.
    """

    network: Network
    provenance: Provenance
    name: str = "neural"

    @classmethod
    def load(cls, folder: str | Path, *, name: str = "neural") -> "NeuralForecaster":
        """Reads a folder that `neuneu train` wrote.

        Raises:
            UserError: no forecaster there, or files that do not fit each other.
        """
        network, provenance = load_model(Path(folder))
        return cls(network=network, provenance=provenance, name=name)

    @property
    def sees(self) -> Sees:
        """Only the run's own past."""
        return "own"

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels it was trained with."""
        return self.network.config.levels

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Does nothing: it is trained already."""

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The share of `trajectories` (of one run, say) that it was trained on, by content."""
        marks = frozenset(m for run in self.provenance.training_runs.values() for m in run)
        return share_trained_on([t.on_unit_scale() for t in trajectories], marks)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) of the metric for each query.

        NaN, which counts as unanswered, where nothing but step 0 was observed or the last
        observed checkpoint lacks the losses that the network reads.

        Raises:
            DataError: no query at all has those losses, or word losses are of a text of
                another length.
        """
        given, queries = queries, [on_unit_scale(query) for query in queries]
        answers = [np.full((len(q.target_steps), len(self.levels)), np.nan) for q in queries]
        observed = [
            index
            for index, query in enumerate(queries)
            if len(query.context.without_step_zero()) and len(query.target_steps)
        ]
        answerable = [index for index in observed if self._has_losses(queries[index])]
        if observed and not answerable:
            raise self._no_losses(queries[observed[0]].context)
        if not answerable:
            return answers
        losses, rows = self._losses([queries[index] for index in answerable])
        series, samples = self._lay_out([queries[index] for index in answerable], losses, rows)
        quantiles = self._answer(series, samples)
        counts = [len(queries[index].target_steps) for index in answerable]
        pieces = np.split(quantiles, np.cumsum(counts)[:-1])
        for index, piece in zip(answerable, pieces, strict=True):
            answers[index] = piece
        return in_units(given, answers, self.levels)

    def _answer(self, series: Series, samples: Samples) -> FloatArray:
        """(M, Q); each distinct loss vector is encoded once, similar lengths share a batch."""
        order = np.argsort(samples.end, kind="stable")
        result = np.empty((len(samples), len(self.levels)))
        # Prompts are gathered by row here, so that batches need no loss vectors of their own.
        blank = Series(
            starts=series.starts,
            values=series.values,
            positions=series.positions,
            loss_rows=np.zeros_like(series.loss_rows),
            losses=np.zeros((1, 0), dtype=np.float32),
            noise=series.noise,
        )
        prompt_row = series.loss_rows[series.starts[samples.trajectory] + samples.end]
        with torch.inference_mode():
            prompts_RPD = self._encode(series.losses)
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                batch = make_batch(blank, samples.take(chosen))
                quantiles_BQ = self.network.answer(
                    prompts_RPD[torch.from_numpy(prompt_row[chosen])],
                    batch["accuracy_BK"],
                    batch["gap_BK"],
                    batch["mask_BK"],
                )
                result[chosen] = quantiles_BQ.double().clamp(0.0, 1.0).numpy()
        if not np.isfinite(result).all():
            raise DataError(
                f"forecaster {self.name!r} gave NaN; look for NaN in the context's accuracies."
            )
        # The published head can cross; the contract asks for non-decreasing quantiles.
        return np.maximum.accumulate(result, axis=1)

    def _encode(self, losses: npt.NDArray) -> Tensor:
        pieces = [
            self.network.encode(torch.from_numpy(losses[start : start + ENCODE_BATCH]))
            for start in range(0, len(losses), ENCODE_BATCH)
        ]
        return torch.cat(pieces)

    def _lay_out(
        self, queries: Sequence[Query], losses: npt.NDArray, rows: Sequence[int]
    ) -> tuple[Series, Samples]:
        """Contexts followed by their targets, whose values are NaN: nothing of them can leak."""
        contexts = [query.context.without_step_zero() for query in queries]
        n = np.array([len(context) for context in contexts])
        h = np.array([len(query.target_steps) for query in queries])
        values = [
            np.append(context.values, np.full(targets, np.nan))
            for context, targets in zip(contexts, h, strict=True)
        ]
        positions = [
            np.append(*self._positions(context, query))
            for context, query in zip(contexts, queries, strict=True)
        ]
        series = Series(
            starts=np.concatenate(([0], np.cumsum(n + h))),
            values=np.concatenate(values).astype(np.float32),
            positions=np.concatenate(positions),
            loss_rows=np.repeat(np.asarray(rows, dtype=np.int64), n + h),
            losses=losses,
            noise=np.zeros(len(queries), dtype=np.float32),
        )
        trajectory = np.repeat(np.arange(len(queries)), h)
        ahead = np.arange(len(trajectory)) - (np.cumsum(h) - h)[trajectory]
        samples = Samples(
            trajectory=trajectory, end=(n - 1)[trajectory], target=n[trajectory] + ahead
        )
        return series, samples

    def _positions(self, context: Trajectory, query: Query) -> tuple[FloatArray, FloatArray]:
        unit = self.network.config.gap_unit
        own = gap_positions(context, unit)
        if unit == "log_tokens":
            return own, log_tokens(query.target_tokens, context)
        spacing = np.diff(context.steps)
        if len(spacing) and np.ptp(spacing) <= EVEN_SPACING * spacing[0]:
            return own, own[-1] + (query.target_steps - context.steps[-1]) / spacing[0]
        return own, own[-1] + 1.0 + np.arange(len(query.target_steps))

    def _losses(self, queries: Sequence[Query]) -> tuple[npt.NDArray, list[int]]:
        """Distinct loss vectors (R, W), and the row of each query."""
        match READS[self.network.config.encoder.kind]:
            case "nothing":
                return np.zeros((1, 0), dtype=np.float32), [0] * len(queries)
            case "mean":
                means = [self._mean_loss(query.context) for query in queries]
                return np.array(means, dtype=np.float32)[:, None], list(range(len(queries)))
            case "words":
                return self._word_losses(queries)

    def _has_losses(self, query: Query) -> bool:
        match READS[self.network.config.encoder.kind]:
            case "nothing":
                return True
            case "mean":
                return bool(np.isfinite(self._mean_loss(query.context)))
            case "words":
                return query.word_losses is not None and query.word_losses.size > 0

    def _no_losses(self, context: Trajectory) -> DataError:
        names = ", ".join(self.provenance.loss_names) or "the only one given"
        what = {"mean": f"a mean validation loss ({names})", "words": "word losses"}
        return DataError(
            f"forecaster {self.name!r} reads {what[READS[self.network.config.encoder.kind]]} and "
            f"no trajectory has any at the end of its context, such as {context.key} at step "
            f"{context.steps[-1]}; give losses, or use a forecaster that reads none."
        )

    def _mean_loss(self, context: Trajectory) -> float:
        return float(mean_losses(context, self.provenance.loss_names)[-1])

    def _word_losses(self, queries: Sequence[Query]) -> tuple[npt.NDArray, list[int]]:
        units = self.network.config.encoder.units
        fixed = self.network.config.encoder.kind == "cnn"
        row_of: dict[tuple[int, ...], int] = {}
        vectors: list[npt.NDArray] = []
        rows: list[int] = []
        for query in queries:
            words, key = query.word_losses, query.context.key
            assert words is not None, "queries without losses were left out"
            text = self.provenance.corpus_hash
            other = None not in {text, query.corpus_hash} and text != query.corpus_hash
            if fixed and (other or len(words) != units):
                raise DataError(
                    f"forecaster {self.name!r} reads the losses of {units} words of the corpus "
                    f"{text}, found {len(words)} of {query.corpus_hash} for {key}; choose that "
                    "text of the store by corpus, extract it, or use a forecaster with the "
                    "histogram encoder."
                )
            # Queries of one checkpoint are views of one matrix row: the same memory.
            pointer = (words.__array_interface__["data"][0], *words.strides, len(words))
            if pointer not in row_of:
                row_of[pointer] = len(vectors)
                vectors.append(words)
            rows.append(row_of[pointer])
        lengths = {len(vector) for vector in vectors}
        if len(lengths) > 1:
            raise DataError(
                f"word losses of different lengths {sorted(lengths)} in one set of queries; "
                "extract all checkpoints with one corpus."
            )
        losses = np.stack(vectors)
        if not (losses >= 0).all():
            raise DataError("word losses: expected nats >= 0, found NaN or negative values.")
        return losses, rows
