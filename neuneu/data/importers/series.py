"""Logged series, such as eval/hellaswag/acc_norm, as accuracies and validation losses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from neuneu.core.errors import UserError
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scores import Score, as_imported, examples

_METRICS: Final = {
    "acc": "acc",
    "accuracy": "acc",
    "acc_raw": "acc",
    "acc_norm": "acc_norm",
    "len_norm": "acc_norm",
    "acc_per_char": "acc_norm",
    "acc_bytes": "acc_bytes",
    "acc_per_byte": "acc_bytes",
    "acc_per_token": "acc_per_token",
    "acc_uncond": "acc_uncond",
    "exact_match": "exact_match",
    "em": "exact_match",
    "f1": "f1",
}
_SUFFIX: Final = re.compile(
    rf"^(?:(?P<task>.+?)[/_., :-])?(?P<metric>{'|'.join(sorted(_METRICS, key=len, reverse=True))}"
    r"|(?:InContextLearning)?(?:MultipleChoice|LM|QA)Accuracy)(?:,none)?$",
    re.IGNORECASE,
)
"""Also matches the names of LLM Foundry, which are accuracies."""
_SHOTS: Final = re.compile(r"[/_.-](\d+)[-_]?shots?$", re.IGNORECASE)
_LOSS: Final = re.compile(
    r"^(?:(?P<name>.+?)[/_., :-])?(?:loss|ce_?loss|cross_?entropy(?:_?loss)?)$", re.IGNORECASE
)
_PREFIX: Final = re.compile(
    r"^(?P<word>eval(?:uation)?s?|val(?:id(?:ation)?)?|test|downstream|benchmarks?|lm_eval|metrics|icl)[/_.]",
    re.IGNORECASE,
)
_TRAINING: Final = re.compile(r"^(?:train(?:ing)?|optim(?:izer)?|system|perf)[/_.]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A parsed name of a series: `subject` is a task, or a validation set if `loss`."""

    subject: str
    metric: str
    shots: int = 0
    loss: bool = False


def read_tag(text: str) -> Tag | None:
    """Parse the name of a series; None if it is neither an accuracy nor a validation loss."""
    name, held_out = text.strip(), False
    if _TRAINING.match(name):
        return None
    while match := _PREFIX.match(name):
        name, held_out = name[match.end() :], True
    if match := _SUFFIX.match(name):
        metric, task = _METRICS.get(match["metric"].lower(), "acc"), match["task"] or ""
        shots = _SHOTS.search(task)
        task = task[: shots.start()] if shots else task
        return (
            Tag(subject=task, metric=metric, shots=int(shots[1]) if shots else 0) if task else None
        )
    match = _LOSS.match(name)
    if match and held_out:
        return Tag(subject=match["name"] or "validation", metric="cross_entropy_loss", loss=True)
    return None


def import_series(
    points: Sequence[Score], options: ImportOptions, *, name: str, notes: Sequence[str] = ()
) -> Imported:
    """Keep the accuracies and validation losses among logged series.

    Args:
        points: logged numbers; their `task` is the name of the series.
        options: options of the import.
        name: what messages call the source.
        notes: notes of the importer.

    Raises:
        UserError: no series is an accuracy.
    """
    tags = {text: read_tag(text) for text in dict.fromkeys(point.task for point in points)}
    others = [text for text, tag in tags.items() if tag is None]
    if all(tag is None or tag.loss for tag in tags.values()):
        raise UserError(
            f"{name}: expected series of accuracies such as eval/hellaswag/acc, found "
            f"{examples(tags) or 'none'}."
        )
    scores: dict[bool, list[Score]] = {True: [], False: []}
    for point in points:
        if (tag := tags[point.task]) is not None:
            score = replace(point, task=tag.subject, metric=tag.metric, shots=tag.shots)
            scores[tag.loss].append(score)
    said = [*notes, *([f"no accuracies, left out: {examples(others)}"] if others else [])]
    return as_imported(scores[False], options, name=name, losses=scores[True], notes=said)
