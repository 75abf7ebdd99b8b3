"""Suite files: YAML that describes checkpoints without a `neuneu.json`.

A suite is a product of variables, such as sizes and corpora. Each combination is a location: a
repository of a hub, or a folder. Its checkpoints are what a regular expression matches: names of
branches, or paths of folders below. `docs/checkpoints.md` explains.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Annotated, Final, Literal

import pydantic
from pydantic import Field

from neuneu.core.config import config_dataclass
from neuneu.core.errors import UserError
from neuneu.data.checkpoints import CheckpointRef, check

# Plans are rounded: a run may end this much later.
_PLAN_TOLERANCE: Final = 1.05
_UNITS: Final = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_STEP: Final = re.compile(r"\d{1,12}")
_TOKENS: Final = re.compile(r"(\d+(?:\.\d+)?)([KMBT]?)")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Choice = dict[str, tuple[str, ...]]


@config_dataclass
class ByRun:
    """A number that differs between runs: the template `by` gives a run's key in `values`."""

    by: str
    values: dict[str, Positive]


@config_dataclass
class Steps:
    """Which checkpoints of a run to keep: those that any of the settings selects.

    `every` N keeps steps divisible by N; `first` and `last` are numbers of checkpoints; `at`
    lists steps. Without settings all checkpoints are kept.
    """

    every: Annotated[int, Field(ge=1)] | None = None
    first: Annotated[int, Field(ge=1)] | None = None
    last: Annotated[int, Field(ge=1)] | None = None
    at: tuple[int, ...] = ()


@config_dataclass
class SuiteFile:
    """Where the checkpoints of a suite are, and what their names mean.

    `location` is `org/repo` of a hub or a folder (local or `s3://`), with `{variable}` in it;
    `pattern` is a regular expression for whole names of branches or relative paths of folders,
    with a named group `step` and optionally others, such as `seed`. `run` is a template of
    variables and groups. Tokens are step x `tokens_per_step`, or come from a group `tokens`, such
    as 150B. `include` and `exclude` are lists of conditions on variables and groups: a checkpoint
    is kept if it meets a whole entry of `include` (or there is none) and no whole entry of
    `exclude`.
    """

    source: Literal["hub", "folder"]
    family: str
    suite: str
    location: str
    pattern: str
    run: str
    params: Positive | ByRun
    variables: Choice = Field(default_factory=dict)
    tokens_per_step: Positive | ByRun | None = None
    planned_tokens: Positive | ByRun | None = None
    include: tuple[Choice, ...] = ()
    exclude: tuple[Choice, ...] = ()
    steps: Steps = Steps()

    @pydantic.model_validator(mode="after")
    def _check(self) -> "SuiteFile":
        try:
            groups = re.compile(self.pattern).groupindex.keys()
        except re.error as error:
            raise ValueError(f"pattern is not a regular expression ({error})") from error
        if "step" not in groups:
            raise ValueError(r"pattern needs a group (?P<step>\d+)")
        if ("tokens" in groups) == (self.tokens_per_step is not None):
            raise ValueError("give either tokens_per_step or a group `tokens` in pattern")
        if both := groups & self.variables.keys():
            raise ValueError(f"{sorted(both)} are variables and groups of pattern; rename one")
        _check_template("location", self.location, self.variables.keys())
        known = self.variables.keys() | groups
        _check_template("run", self.run, known)
        for name in ("params", "tokens_per_step", "planned_tokens"):
            number = getattr(self, name)
            if isinstance(number, ByRun):
                _check_template(f"{name}.by", number.by, known)
        for condition in (*self.include, *self.exclude):
            if unknown := condition.keys() - known:
                raise ValueError(f"include/exclude: {sorted(unknown)} are not in {sorted(known)}")
        return self


@dataclass(frozen=True)
class Location:
    """A repository or folder of a suite, and the variables that select it."""

    address: str
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """A branch or folder found at a location: its name, its address and its commit, if any."""

    name: str
    uri: str
    revision: str | None = None


def locations(suite: SuiteFile) -> list[Location]:
    """Return the locations of a suite that `include` and `exclude` do not rule out."""
    combinations = itertools.product(*suite.variables.values())
    named = (dict(zip(suite.variables, values, strict=True)) for values in combinations)
    return [
        Location(address=suite.location.format_map(variables), variables=variables)
        for variables in named
        if _wanted(suite, variables)
    ]


def read_entries(
    suite: SuiteFile, location: Location, entries: Iterable[Entry]
) -> list[CheckpointRef]:
    """Return the checkpoints among the entries of a location, as selected by the suite.

    Raises:
        UserError: nothing matches the pattern, a run that a table does not have, a step that is
            no number, impossible names or numbers, or tokens beyond the plan.
    """
    entries = list(entries)
    pattern = re.compile(suite.pattern)
    matches = [(entry, match) for entry in entries if (match := pattern.fullmatch(entry.name))]
    if not matches:
        found = ", ".join(sorted(entry.name for entry in entries)[:3]) or "nothing"
        raise UserError(
            f"{location.address}: expected names that match {suite.pattern!r}, found {found}; "
            "correct pattern or location, or leave it out with exclude."
        )
    runs: dict[str, list[CheckpointRef]] = {}
    for entry, match in matches:
        values = {**location.variables, **{k: v or "" for k, v in match.groupdict().items()}}
        if _wanted(suite, values):
            ref = _read(suite, entry, values)
            runs.setdefault(ref.run, []).append(ref)
    chosen = [ref for run in runs.values() for ref in _choose(suite.steps, run)]
    for ref in chosen:
        if ref.planned_tokens and ref.tokens > _PLAN_TOLERANCE * ref.planned_tokens:
            raise UserError(
                f"{ref.uri}: step {ref.step} would be {ref.tokens:.4g} tokens, of "
                f"{ref.planned_tokens:.4g} planned; correct tokens_per_step or planned_tokens, "
                "or leave the run out with exclude."
            )
    return chosen


def _read(suite: SuiteFile, entry: Entry, values: Mapping[str, str]) -> CheckpointRef:
    if not _STEP.fullmatch(values["step"]):
        raise UserError(
            f"{entry.name}: expected a step such as 1000, found {values['step']!r}; "
            r"let pattern take digits only: (?P<step>\d+)."
        )
    step = int(values["step"])
    params = _number("params", suite.params, values)
    tokens_per_step = _number("tokens_per_step", suite.tokens_per_step, values)
    if tokens_per_step is not None:
        tokens = step * tokens_per_step
    elif match := _TOKENS.fullmatch(values["tokens"]):
        tokens = float(match[1]) * _UNITS[match[2]]
    else:
        raise UserError(f"{entry.name}: expected tokens such as 150B, found {values['tokens']!r}.")
    assert params is not None
    ref = CheckpointRef(
        family=suite.family,
        suite=suite.suite,
        run=suite.run.format_map(values),
        params=params,
        step=step,
        tokens=tokens,
        flops=6.0 * params * tokens,
        planned_tokens=_number("planned_tokens", suite.planned_tokens, values),
        uri=entry.uri,
        revision=entry.revision,
    )
    return check(ref, where=entry.uri)


def _choose(steps: Steps, run: list[CheckpointRef]) -> Iterator[CheckpointRef]:
    run = sorted(run, key=lambda ref: ref.step)
    everything = steps == Steps()
    for index, ref in enumerate(run):
        if (
            everything
            or (steps.every and ref.step % steps.every == 0)
            or (steps.first and index < steps.first)
            or (steps.last and index >= len(run) - steps.last)
            or ref.step in steps.at
        ):
            yield ref


def _wanted(suite: SuiteFile, values: Mapping[str, str]) -> bool:
    """Return whether the filters keep it, as far as `values` are known."""

    def holds(condition: Choice) -> bool:
        return all(values[key] in allowed for key, allowed in condition.items() if key in values)

    if suite.include and not any(map(holds, suite.include)):
        return False
    return not any(c.keys() <= values.keys() and holds(c) for c in suite.exclude)


def _number(name: str, number: float | ByRun | None, values: Mapping[str, str]) -> float | None:
    if not isinstance(number, ByRun):
        return number
    key = number.by.format_map(values)
    if key not in number.values:
        raise UserError(
            f"{name}: no value for {key!r}; expected one for each of {number.by!r}, found "
            f"{sorted(number.values)}."
        )
    return number.values[key]


def _check_template(name: str, template: str, known: Iterable[str]) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ValueError(f"{name} is not a template ({error})") from error
    if unknown := fields - set(known):
        raise ValueError(f"{name} names {sorted(unknown)}; known are {sorted(known)}")
