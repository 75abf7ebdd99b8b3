"""The list of rules, and what they find.

A rule is a function that yields breaches: the object, where in it, what is expected, what is found.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rules.manifests import Doc, name_of

Breach = tuple[Doc, str, str, Any]
Check = Callable[[list[Doc]], Iterator[Breach]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: in which object, where in it, what it should be and what it is."""

    subject: str
    place: str
    expected: str
    found: Any
    because: str = ""

    def __str__(self) -> str:
        """One line."""
        found = "nothing" if self.found is None else repr(self.found)
        reason = f" ({self.because})" if self.because else ""
        return f"{self.subject}: {self.place}: expected {self.expected}, found {found}{reason}"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A check, why it is one (its docstring), and where that is written down."""

    name: str
    reason: str
    source: str
    check: Check


RULES: list[Rule] = []


def rule(source: str) -> Callable[[Check], Check]:
    """Adds a check to `RULES`."""

    def register(check: Check) -> Check:
        reason = " ".join((check.__doc__ or "").split())
        RULES.append(Rule(name=check.__name__, reason=reason, source=source, check=check))
        return check

    return register


def check_rules(docs: list[Doc]) -> list[Finding]:
    """What all rules find in one rendering."""
    return [
        Finding(
            subject=name_of(doc),
            place=place,
            expected=expected,
            found=found,
            because=f"{each.name}: {each.reason} {each.source}",
        )
        for each in RULES
        for doc, place, expected, found in each.check(docs)
    ]
