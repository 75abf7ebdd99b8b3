"""Runs, steps and tokens of checkpoints, parsed from the names they go by."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from neuneu.core.errors import UserError

_STEP: Final = re.compile(
    r"(?:global[-_]?)?(?<![a-z])(?:step|checkpoint|ckpt|iteration|iter)s?[-_=]?"
    r"(\d+(?:\.\d+)?)([km]?)(?![a-z0-9])",
    re.IGNORECASE,
)
_TOKENS: Final = re.compile(
    r"(?<![a-z0-9])(?:tokens?[-_=]?(\d+(?:\.\d+)?)([kmbt]?)"
    r"|(\d+(?:\.\d+)?)([kmbt])[-_]?tok(?:en)?s?"
    r"|(?<=\d[km]-)(\d+(?:\.\d+)?)([bt]))"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
_SCALES: Final = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_FORMATS: Final = frozenset({"", "hf", "unsharded", "vllm", "safetensors", "converted", "model"})
"""Parts of names that say how a checkpoint is stored, not which it is."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_GROUPS: Final = frozenset({"run", "step", "tokens"})


@dataclass(frozen=True, kw_only=True)
class CheckpointName:
    """A parsed name: `identity` is all that is known of the run, `run` its short name."""

    run: str
    identity: str
    step: int | None = None
    tokens: float | None = None

    @property
    def has_position(self) -> bool:
        """Whether it says where in training the checkpoint is."""
        return self.step is not None or self.tokens is not None


def compile_step_from(text: str | None) -> re.Pattern[str] | None:
    """Compile the regular expression of `--step-from`.

    Raises:
        UserError: not a regular expression, or none of the groups step, tokens and run.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(
            f"--step-from {text!r}: expected a regular expression, found an error ({error})."
        ) from error
    if not pattern.groupindex or not set(pattern.groupindex) <= _GROUPS:
        raise UserError(
            f"--step-from {text!r}: expected groups named step, tokens or run, such as "
            f"'(?P<run>.*)-(?P<step>[0-9]+)', found {sorted(pattern.groupindex)}."
        )
    return pattern


def parse_checkpoint(
    *,
    model: str = "",
    revision: str = "",
    folders: Sequence[str] = (),
    step_from: re.Pattern[str] | None = None,
) -> CheckpointName:
    """Parse run, step and tokens; the first name that has a step decides.

    Args:
        model: a name on a hub, or a path.
        revision: revision of the model, such as step1000-tokens4B; `main` and commits are ignored.
        folders: names of the file and the folders around the results, nearest first.
        step_from: takes precedence over the known patterns; searched in revision, model, then path.

    Returns:
        The parsed name; its run is "" where nothing is left for one.
    """
    if revision == "main" or _COMMIT.fullmatch(revision):
        revision = ""
    parsed = _by_names(model, revision, folders)
    if step_from is None:
        return parsed
    found: dict[str, str] = {}
    for text in (revision, model, "/".join(reversed(folders))):
        match = step_from.search(text)
        for key, value in (match.groupdict() if match else {}).items():
            if value is not None:
                found.setdefault(key, value)
    run = found.get("run", parsed.run)
    step, tokens = parsed.step, parsed.tokens
    if {"step", "tokens"} & step_from.groupindex.keys():
        step = round(_amount(found["step"], step_from)) if "step" in found else None
        tokens = _amount(found["tokens"], step_from) if "tokens" in found else None
    identity = run if "run" in found else parsed.identity
    return CheckpointName(run=run, identity=identity, step=step, tokens=tokens)


def _by_names(model: str, revision: str, folders: Sequence[str]) -> CheckpointName:
    parts = [part for part in re.split(r"[/\\]", model) if part not in {"", "."}]
    names = [revision, *reversed(parts), *folders]
    step = next((number for name in names if (number := step_of(name)) is not None), None)
    tokens = next((amount for name in names if (amount := tokens_of(name)) is not None), None)
    before, after = _rest(revision)
    kept = _named(list(reversed(parts)), "-".join(filter(None, (before, after))))
    around = [rest for folder in folders[:0:-1] if (rest := _joined(folder))]
    if folders and _has_position(folders[0]):
        around += filter(None, [_joined(folders[0])])
    if not kept:
        kept = around[::-1] or [_joined(folder) for folder in folders[:1]]
    elif not any(_has_position(name) for name in (revision, *parts)):
        # Folders that distinguish checkpoints may also distinguish runs of one model.
        kept = [*kept, *reversed(around)]
    run = kept[0] if kept else ""
    return CheckpointName(run=run, identity="/".join(reversed(kept)), step=step, tokens=tokens)


def _named(parts: Sequence[str], ending: str) -> list[str]:
    """Names of the parts of a path, last first, from the first that is more than a step."""
    for index, part in enumerate(parts):
        before, after = _rest(part)
        if before:
            return ["-".join(filter(None, (before, after, ending))), *parts[index + 1 :]]
        ending = "-".join(filter(None, (after, ending)))
    return [ending] if ending else []


def _has_position(name: str) -> bool:
    return step_of(name) is not None or tokens_of(name) is not None


def _joined(name: str) -> str:
    return "-".join(filter(None, _rest(name)))


def step_of(name: str) -> int | None:
    """Return the step in a name such as checkpoint-500, iter_0001000 or step20k."""
    match = _STEP.search(name)
    return None if match is None else round(float(match[1]) * _SCALES[match[2].lower()])


def tokens_of(name: str) -> float | None:
    """Return the tokens in a name such as step1000-tokens4B, 300B-tokens or step-50K-105b."""
    match = _TOKENS.search(name)
    if match is None:
        return None
    number, scale = (group for group in match.groups() if group is not None)
    return float(number) * _SCALES[scale.lower()]


def _rest(name: str) -> tuple[str, str]:
    """Return what is before and after step and tokens in a name, without words for formats."""
    spans = [match.span() for pattern in (_STEP, _TOKENS) if (match := pattern.search(name))]
    if not spans:
        return ("", "") if name.lower() in _FORMATS else (name, "")
    before = name[: min(start for start, _ in spans)].rstrip("-_.@ ")
    after = name[max(stop for _, stop in spans) :]
    words = [word for word in re.split(r"[-_.]", after) if word.lower() not in _FORMATS]
    return ("" if before.lower() in _FORMATS else before), "-".join(words)


def _amount(text: str, pattern: re.Pattern[str]) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmbt]?)", text.strip(), re.IGNORECASE)
    if match is None:
        raise UserError(
            f"--step-from {pattern.pattern!r}: expected a number such as 1000 or 4B, "
            f"found {text!r}."
        )
    return float(match[1]) * _SCALES[match[2].lower()]
