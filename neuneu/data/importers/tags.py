"""Names of logged series, such as eval/hellaswag/acc_norm, as task and metric."""

import re
from dataclasses import dataclass
from typing import Final

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
"""Also the names of LLM Foundry, which are accuracies."""
_SHOTS: Final = re.compile(r"[/_.-](\d+)[-_]?shots?$", re.IGNORECASE)
_LOSS: Final = re.compile(
    r"^(?:(?P<name>.+?)[/_., :-])?(?:loss|ce_?loss|cross_?entropy(?:_?loss)?)$", re.IGNORECASE
)
_PREFIX: Final = re.compile(
    r"^(?P<word>eval(?:uation)?s?|val(?:id(?:ation)?)?|test|downstream|benchmarks?|lm_eval|metrics|icl)[/_.]",
    re.IGNORECASE,
)
_TRAINING: Final = re.compile(r"^(?:train(?:ing)?|optim(?:izer)?|system|perf)[/_.]", re.IGNORECASE)
VALIDATION: Final = "validation"
"""The name of a validation set that has none."""


@dataclass(frozen=True, kw_only=True)
class Tag:
    """`subject` is a task, or the name of a validation set where `loss`."""

    subject: str
    metric: str
    shots: int = 0
    loss: bool = False


def read_tag(text: str) -> Tag | None:
    """What a series is; None where its name is that of no accuracy and no validation loss."""
    name, held_out = text.strip(), False
    if _TRAINING.match(name):
        return None
    while match := _PREFIX.match(name):
        name, held_out = name[match.end() :], True
    if match := _SUFFIX.match(name):
        metric = _METRICS.get(match["metric"].lower(), "acc")
        task = match["task"] or ""
        shots = _SHOTS.search(task)
        if shots:
            task = task[: shots.start()]
        return (
            Tag(subject=task, metric=metric, shots=int(shots[1]) if shots else 0) if task else None
        )
    match = _LOSS.match(name)
    if match and held_out:
        return Tag(subject=match["name"] or VALIDATION, metric="cross_entropy_loss", loss=True)
    return None
