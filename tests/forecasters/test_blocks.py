"""How pages are read into blocks, and when two outputs are the same."""

from pathlib import Path

import pytest
from commands import logical_lines
from documents import blocks, same

PAGE = """# Title

```bash
neuneu rank a.csv   # why
```

```text
an output
```

Words.

```text
no output of anything
```

<!-- not run: it needs a cluster -->
```
ray up
```

```python
print(1)
```
Words again.
"""


def test_blocks_have_their_language_line_reason_and_output(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    found = blocks(path)
    assert [b.language for b in found] == ["bash", "text", "text", "bash", "python"]
    assert [b.line for b in found] == [3, 7, 13, 18, 22]
    assert [b.reason for b in found] == [None, None, None, "it needs a cluster", None]
    assert [b.output for b in found] == ["an output\n", None, None, None, None]
    assert found[0].text == "neuneu rank a.csv   # why\n"


def test_a_session_is_commands_and_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```console\n$ neuneu rank a.csv\na 1\nb 2\n```\n")
    (block,) = blocks(tmp_path / "page.md")
    assert (block.language, block.text) == ("bash", "neuneu rank a.csv\n")
    assert block.output == "a 1\nb 2\n"


@pytest.mark.parametrize("text", ["```bash\nnever closed\n", "```ruby\nputs 1\n```\n"])
def test_a_page_that_cannot_be_checked_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=r"page\.md:1"):
        blocks(tmp_path / "page.md")


def test_continued_lines_are_one_and_comments_none() -> None:
    assert logical_lines("# why\na \\\n  b\n\nc # d\n") == ["a b", "c # d"]


@pytest.mark.parametrize(("expected", "actual", "answer"), [
    ("│ a │ 81.7 │", "┃ a ┃  81.9 ┃", True),
    ("│ a │ 81.7 │", "│ a │ 91.7 │", False),
    ("a 1.2M", "a 1.2K", False),
    ("a 1", "a 1 b", False),
    ("first\n...\nlast", "first 1 2 last", True),
    ("first\n...\nlast", "first last", True),
    ("...\nlast", "first last", True),
    ("first\n...\n", "first last", True),
    ("first\n...\nlast", "first middle", False),
    ("first\n...\nlast", "other last", False),
    ("+14 to +17", "-14 to +17", False),
    ("<1 %", ">1 %", False),
])  # fmt: skip
def test_outputs_are_compared_by_words_and_rounded_numbers(
    expected: str, actual: str, answer: bool
) -> None:
    assert same(expected, actual) is answer
