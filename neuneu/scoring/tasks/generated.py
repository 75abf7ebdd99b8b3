"""Tasks made from held-out text, for models too small for published benchmarks.

Fourteen tasks with 2, 3 or 4 choices and prompts of about 5 to 20 tokens. Some rise within a
million training tokens (word order, casing), some later (agreement, recall), and some are
meant to stay at chance (addition, comparison). A task's documents depend on the text, the seed
and the task alone.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuneu.core.errors import DataError
from neuneu.scoring.corpus import read_documents
from neuneu.scoring.requests import Request, Task, TaskFormat
from neuneu.scoring.tasks import items
from neuneu.scoring.tasks.items import Item
from neuneu.scoring.tasks.phrases import Phrases

N_DOCUMENTS: Final = 400
MIN_DOCUMENTS: Final = 50
_MAX_DRAWS: Final = 40_000


@dataclass(frozen=True, slots=True)
class _Kind:
    make: Callable[[Phrases, random.Random], Item | None]
    format: TaskFormat
    group: str


_KINDS: Final = {
    f"generated_{kind.make.__name__}": kind
    for kind in (
        _Kind(items.word_order, "minimal_pair", "order"),
        _Kind(items.word_swap, "minimal_pair", "order"),
        _Kind(items.plural, "minimal_pair", "grammar"),
        _Kind(items.casing, "minimal_pair", "form"),
        _Kind(items.article, "minimal_pair", "grammar"),
        _Kind(items.agreement, "minimal_pair", "grammar"),
        _Kind(items.function_word, "cloze", "grammar"),
        _Kind(items.next_word, "cloze", "prediction"),
        _Kind(items.continuation, "rc", "prediction"),
        _Kind(items.recall, "cloze", "copying"),
        _Kind(items.bracket, "cloze", "copying"),
        _Kind(items.counting, "cloze", "numbers"),
        _Kind(items.addition, "rc", "numbers"),
        _Kind(items.comparison, "minimal_pair", "numbers"),
    )
}
GENERATED_TASKS: Final = tuple(_KINDS)


def load_generated(text: str | Path, *, seed: int, wanted: Callable[[str], bool]) -> list[Task]:
    """Makes tasks from a text, each of at most `N_DOCUMENTS` documents.

    Args:
        text: what `corpus.read_documents` takes, held out from the models' training.
        seed: of every draw; each task has a generator of its own.
        wanted: says of a task's name whether to make it.

    Raises:
        DataError: the text cannot be read, or is too small for a task (it is named).
    """
    names = [name for name in _KINDS if wanted(name)]
    if not names:
        return []
    phrases = Phrases.from_documents(read_documents(text), seed=seed)
    return [_task(name, _KINDS[name], phrases, seed=seed, text=text) for name in names]


def _task(name: str, kind: _Kind, phrases: Phrases, *, seed: int, text: str | Path) -> Task:
    rng = random.Random(hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    kept = _mirrored(_draw(kind.make, phrases, rng))
    if len(kept) < MIN_DOCUMENTS:
        raise DataError(
            f"task {name}: expected at least {MIN_DOCUMENTS} documents from {text}, found "
            f"{len(kept)}; give more text or leave the task out."
        )
    requests = []
    for doc, item in enumerate(kept):
        order = list(range(len(item.choices)))
        if kind.format != "minimal_pair":
            rng.shuffle(order)
        requests += [
            Request(
                task=name,
                doc=doc,
                choice=place,
                context=item.context,
                continuation=item.choices[choice],
                label=order.index(0),
            )
            for place, choice in enumerate(order)
        ]
    return Task(
        name=name,
        base_task=name,
        format=kind.format,
        split="",
        group=kind.group,
        num_fewshot=0,
        chance=sum(1 / len(item.choices) for item in kept) / len(kept),
        requests=tuple(requests),
    )


def _draw(
    make: Callable[[Phrases, random.Random], Item | None], phrases: Phrases, rng: random.Random
) -> list[Item]:
    """Distinct items in the order drawn, no kind more often than its share of a full task."""
    drawn: dict[Item, None] = {}
    counts: Counter[str] = Counter()
    for _ in range(_MAX_DRAWS):
        if len(drawn) == N_DOCUMENTS:
            break
        item = make(phrases, rng)
        if item is None or item in drawn:
            continue
        if item.kinds:
            if counts[item.kinds[0]] >= N_DOCUMENTS // len(item.kinds):
                continue
            counts[item.kinds[0]] += 1
        drawn[item] = None
    return list(drawn)


def _mirrored(drawn: list[Item]) -> list[Item]:
    """The items, cut so that each kind is as frequent as its mirror image."""
    counts = Counter(item.kinds[0] for item in drawn if item.kinds)
    taken: Counter[str] = Counter()
    kept = []
    for item in drawn:
        if item.kinds:
            if taken[item.kinds[0]] == min(counts[kind] for kind in item.kinds):
                continue
            taken[item.kinds[0]] += 1
        kept.append(item)
    return kept
