"""Queries on the unit scale of `data.scales`, and answers back in the units of the metric.

Networks and laws made for accuracies forecast any metric this way. Shapes: h targets, Q levels.
"""

from collections.abc import Sequence
from dataclasses import replace

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.wrapper import ForecasterWrapper


def on_unit_scale(query: Query) -> Query:
    """Map the context and the siblings of a query; accuracies stay as they are."""
    parts = (query.context, *query.siblings)
    if all(t.scale.is_unit for t in parts):
        return query
    return replace(
        query,
        context=query.context.on_unit_scale(),
        siblings=[t.on_unit_scale() for t in query.siblings],
    )


def in_units(
    queries: Sequence[Query], answers: Sequence[FloatArray], levels: Sequence[float]
) -> list[FloatArray]:
    """Quantiles (h, Q) in the units of each query's metric, from those on the unit scale."""
    return [
        answer
        if query.context.scale.is_unit
        else query.context.scale.quantiles_from_unit(answer, levels)
        for query, answer in zip(queries, answers, strict=True)
    ]


class OnUnitScale(ForecasterWrapper):
    """A forecaster made for accuracies, which answers about any metric."""

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs as references."""
        self.forecaster.fit([t.on_unit_scale() for t in references])

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) of each query, in the units of its metric."""
        answers = self.forecaster.predict([on_unit_scale(query) for query in queries])
        return in_units(queries, answers, self.levels)
