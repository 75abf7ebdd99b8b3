"""Answers of forecasters to the questions of a case, kept in a folder.

Shapes: N items (targets of all queries), Q levels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from families.cases import Asked
from families.entrants import Entrant
from neuneu.core.files import atomic_path
from neuneu.core.progress import Bar
from neuneu.data.arrays import FloatArray
from neuneu.forecasters.protocol import Forecaster
from neuneu.forecasters.table import check_answers


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Quantiles (N, Q) of all targets, NaN where there was no answer."""

    quantiles: FloatArray
    levels: tuple[float, ...]

    @property
    def median(self) -> FloatArray:
        """(N,)."""
        return self.quantiles[:, self.levels.index(0.5)]


def answer(
    forecaster: Forecaster, several: Sequence[Asked], bar: Bar | None = None
) -> list[Answers]:
    """Answer the questions of several cases, all with the same references at once.

    Raises:
        DataError: a forecaster that breaks its protocol.
    """
    found: list[list[FloatArray]] = [[np.zeros(0)] * len(asked) for asked in several]
    for beside in dict.fromkeys(key for asked in several for key in asked.batches):
        batches = [(asked, asked.batches.get(beside)) for asked in several]
        if forecaster.sees != "own":
            references = next(batch.references for _, batch in batches if batch is not None)
            forecaster.fit(references)
        for (asked, batch), answers in zip(batches, found, strict=True):
            if batch is None:
                continue
            given = forecaster.predict([asked.queries[i] for i in batch.queries])
            for i, quantiles in zip(batch.queries, given, strict=True):
                answers[i] = quantiles
            if bar is not None:
                bar.advance(len(batch.queries))
    return [
        Answers(
            quantiles=check_answers(forecaster, answers, asked.queries),
            levels=tuple(forecaster.levels),
        )
        for asked, answers in zip(several, found, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A folder of answers; `mark` identifies data and questions."""

    folder: Path
    mark: str

    def answers(
        self, entrant: Entrant, several: Sequence[Asked], bar: Bar | None = None
    ) -> list[Answers]:
        """Return the answers of an entrant in several cases, computed if they are not there."""
        missing = [asked for asked in several if not self._path(entrant, asked).exists()]
        if missing:
            for asked, answers in zip(missing, answer(entrant.make(), missing, bar), strict=True):
                self._write(self._path(entrant, asked), answers)
        if bar is not None:
            bar.advance(sum(map(len, several)) - sum(map(len, missing)))
        return [self._read(self._path(entrant, asked)) for asked in several]

    def _path(self, entrant: Entrant, asked: Asked) -> Path:
        made_from = "-".join(filter(None, (self.mark, entrant.mark)))
        return self.folder / f"{asked.family}-{asked.case.name}-{entrant.name}-{made_from}.npz"

    @staticmethod
    def _write(path: Path, answers: Answers) -> None:
        content = io.BytesIO()
        np.savez_compressed(
            content,
            quantiles=answers.quantiles.astype(np.float32),
            levels=np.array(answers.levels),
        )
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())

    @staticmethod
    def _read(path: Path) -> Answers:
        with np.load(path) as file:
            return Answers(
                quantiles=file["quantiles"].astype(np.float64),
                levels=tuple(file["levels"].tolist()),
            )
