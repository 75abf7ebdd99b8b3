"""Logged series, each point with the name of its series, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuneu.core.errors import UserError
from neuneu.data.importers.places import Place
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scores import Score, as_imported, examples
from neuneu.data.importers.tags import read_tag


@dataclass(frozen=True, kw_only=True)
class Point:
    """One logged number; of several at a step the one written last counts."""

    place: Place
    tag: str
    value: float
    written: float = 0.0
    source: str = ""


def as_imported_series(
    points: Sequence[Point],
    options: ImportOptions,
    *,
    name: str,
    notes: Sequence[str] = (),
) -> Imported:
    """Accuracies and validation losses among logged series; all others are left out.

    Raises:
        UserError: no series is an accuracy.
    """
    tags = {point.tag: read_tag(point.tag) for point in points}
    others = [text for text, tag in tags.items() if tag is None]
    if all(tag is None or tag.loss for tag in tags.values()):
        raise UserError(
            f"{name}: expected series of accuracies such as eval/hellaswag/acc, found "
            f"{examples(tags) or 'none'}."
        )
    scores: dict[bool, list[Score]] = {True: [], False: []}
    for point in points:
        tag = tags[point.tag]
        if tag is not None:
            scores[tag.loss].append(
                Score(
                    place=point.place,
                    task=tag.subject,
                    metric=tag.metric,
                    value=point.value,
                    shots=tag.shots,
                    written=point.written,
                    source=point.source,
                )
            )
    said = [*notes, *([f"no accuracies, left out: {examples(others)}"] if others else [])]
    return as_imported(scores[False], options, name=name, losses=scores[True], notes=said)
