"""Samples of lm-evaluation-harness (`--log_samples`): the log-probability of every choice.

One line a document: `samples_TASK_DATE.jsonl`, or a JSON list in the first releases of 0.4.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import pydantic

from neuneu.data.importers.files import files_under, json_rows, parse_row
from neuneu.data.importers.scored_items import Lengths, ScoredItem, UnusableItemsError, fingerprint

_DATE: Final = r"_(\d{4}-\d\d-\d\dT[\d.-]+)"
_NAME: Final = re.compile(rf"samples_(?P<task>.+?)(?:{_DATE})?\.jsonl?")
_OLD: Final = ".jsonl"
_DELIMITER: Final = " "

Response = tuple[float, bool]
"""Summed log-probability in nats, and whether greedy decoding gives the choice."""


class Sample(pydantic.BaseModel):
    """lm-evaluation-harness logs it with --log_samples.

    `resps` has a list of one response for each request of the document, `arguments` its context and
    continuation: a list, or a mapping with keys in order (0.4.3 and later, which write numbers as
    text). `target` is the right choice: its index or its text.
    """

    doc_id: int
    target: Any
    arguments: list[list[Any]] | dict[str, dict[str, Any]]
    resps: list[Annotated[list[Response], pydantic.Field(min_length=1)]]
    filter: str = "none"
    acc: float | None = None


def sample_files(path: Path, tasks: Mapping[Path, Sequence[str]]) -> Iterator[tuple[Path, str]]:
    """Yield (file, task) of the samples under a path.

    Args:
        path: file or folder.
        tasks: folder -> tasks with results in it, by which files of the first releases
            (`MODEL_TASK.jsonl`) are known.
    """
    for found in files_under(path, ".jsonl", ".json"):
        if match := _NAME.fullmatch(found.name):
            yield found, match["task"]
        elif found.suffix == _OLD:
            endings = [t for t in tasks.get(found.parent, ()) if found.stem.endswith(f"_{t}")]
            if endings:
                yield found, max(endings, key=len)


def date_of(path: Path) -> str | None:
    """Return the date in the name of a file of samples or results, by which they belong."""
    match = re.search(rf"{_DATE}$", path.stem)
    return None if match is None else match[1]


def read_samples(path: Path, *, delimiter: str | None) -> Iterator[ScoredItem]:
    """Yield the items of a file; of several filters the first counts.

    Args:
        path: of the file.
        delimiter: what joins a choice to its context, which does not count for its length; None
            is a space.

    Raises:
        DataError: a line that is broken or not a sample.
        UnusableItemsError: the task is not multiple choice with one right choice.
    """
    kept = None
    for number, row in json_rows(path):
        if _is_other(row.get("resps")):
            raise UnusableItemsError("not multiple choice")
        sample = parse_row(Sample, row, path, number)
        kept = kept or sample.filter
        if sample.filter == kept:
            yield _item(sample, _DELIMITER if delimiter is None else delimiter)


def _is_other(responses: Any) -> bool:
    """Whether responses are generated text, or the log-probability of one text."""
    if not isinstance(responses, list) or not responses:
        return False
    first = responses[0]
    return len(responses) == 1 or (isinstance(first, list) and bool(first) and _is_text(first[0]))


def _is_text(response: Any) -> bool:
    return isinstance(response, str | int | float)


def _item(sample: Sample, delimiter: str) -> ScoredItem:
    arguments = sample.arguments
    pairs = [
        tuple(str(part) for part in (of.values() if isinstance(of, dict) else of))
        for of in (arguments.values() if isinstance(arguments, dict) else arguments)
    ]
    if len(pairs) != len(sample.resps) or any(len(pair) != 2 for pair in pairs):
        raise UnusableItemsError("not multiple choice")
    scores = [responses[0][0] for responses in sample.resps]
    unconditional: list[float] = []
    half = len(pairs) // 2
    if len(pairs) > 2 and pairs[half:] == [("", of) for _, of in pairs[:half]] and pairs[0][0]:
        # The choices again without a context, for `acc_mutual_info`.
        pairs, scores, unconditional = pairs[:half], scores[:half], scores[half:]
    texts = [of.removeprefix(delimiter) for _, of in pairs]
    return ScoredItem(
        doc=sample.doc_id,
        label=_label(sample, texts, scores),
        logprobs=scores,
        lengths=_lengths(texts, [context for context, _ in pairs]),
        content=fingerprint(pairs),
        is_minimal_pair=len(pairs) == 2 and not any(context for context, _ in pairs),
        unconditional=unconditional,
        counted={} if sample.acc is None else {"acc": sample.acc},
    )


def _lengths(texts: Sequence[str], contexts: Sequence[str]) -> list[Lengths]:
    """Lengths of the choices; unknown where these are in the contexts, as in Winogrande."""
    if len(set(contexts)) > 1:
        return [(0, 0, 0)] * len(texts)
    return [(0, len(text), len(text.encode("utf-8", "surrogatepass"))) for text in texts]


def _label(sample: Sample, texts: Sequence[str], scores: Sequence[float]) -> int:
    target = str(sample.target)
    if target.isdigit() and int(target) < len(texts):
        return int(target)
    if target in texts and len(set(texts)) > 1:
        return texts.index(target)
    if sample.acc is None or target.startswith("["):
        raise UnusableItemsError(f"document {sample.doc_id} does not have one right choice")
    # Where the choices are contexts the index of the right one is not logged, but whether the
    # likeliest was right is.
    likeliest = scores.index(max(scores))
    if sample.acc == 1.0:
        return likeliest
    if len(texts) > 2:
        raise UnusableItemsError("the samples do not say which choice is right")
    return 1 - likeliest
