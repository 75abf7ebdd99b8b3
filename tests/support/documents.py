"""Code blocks of the documentation with their outputs, and the comparison of outputs."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
DATA = ROOT / "docs" / "tutorials" / "data"

LANGUAGES = {
    "": "bash", "sh": "bash", "bash": "bash", "python": "python", "yaml": "yaml", "json": "json",
    "console": "console", "text": "text",
}  # fmt: skip
"""Language of a fence -> treatment of the block. `console` has commands, each after `$ `, with
their output; `text` is not code: an output or a layout."""

COLUMNS = 120
"""Terminal width of the outputs on the pages."""

_MARKER = re.compile(r"<!-- not run: (.+?) -->")
_TOKEN = re.compile(r"\d[\d,]*\.?\d*|[A-Za-z_%<>+-]+")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    `reason` comes from a comment `<!-- not run: REASON -->` above it, `output` from a `text` block
    directly below it. A `console` block becomes commands with an output.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None
    output: str | None = None

    @property
    def name(self) -> str:
        """Page and line of the block."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order.

    Raises:
        ValueError: a fence is not closed or has an unknown language.
    """
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number, above, after_block = 0, "", False
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.startswith("```"):
            if line.strip():
                above, after_block = line.strip(), False
            continue
        if line[3:].strip() not in LANGUAGES:
            raise ValueError(f"{page}:{number}: {line!r}: expected one of {sorted(LANGUAGES)}")
        end = next((n for n in range(number, len(lines)) if lines[n].startswith("```")), None)
        if end is None:
            raise ValueError(f"{page}:{number}: the block is not closed")
        marker = _MARKER.fullmatch(above)
        block = Block(
            page, number, LANGUAGES[line[3:].strip()], "\n".join(lines[number:end]) + "\n",
            marker[1] if marker else None,
        )  # fmt: skip
        if block.language == "console":
            block = _session(block)
        if after_block and block.language == "text" and found[-1].language in {"bash", "python"}:
            found[-1] = replace(found[-1], output=block.text)
        found.append(block)
        number, above, after_block = end + 1, "", True
    return found


def _session(block: Block) -> Block:
    lines = block.text.splitlines(keepends=True)
    commands = "".join(line[2:] for line in lines if line.startswith("$ "))
    said = "".join(line for line in lines if not line.startswith("$ "))
    return replace(block, language="bash", text=commands, output=said)


def same(expected: str, actual: str) -> bool:
    """Return whether two outputs agree.

    Frames and white space are ignored, numbers may differ by rounding (other processors sum in
    another order), and one line `...` matches anything.
    """
    head, dots, tail = f"\n{expected}".partition("\n...\n")
    first, last, found = (_TOKEN.findall(text) for text in (head, tail, actual))
    if not dots:
        return _alike(first, found)
    fits = len(found) >= len(first) + len(last)
    return (
        fits
        and _alike(first, found[: len(first)])
        and _alike(last, found[len(found) - len(last) :])
    )


def _alike(expected: list[str], actual: list[str]) -> bool:
    return len(expected) == len(actual) and all(map(_near, expected, actual))


def _near(expected: str, actual: str) -> bool:
    if not (expected[0].isdigit() and actual[0].isdigit()):
        return expected == actual
    a, b = (float(word.replace(",", "")) for word in (expected, actual))
    return abs(a - b) <= 0.5 + 0.05 * abs(a)
