"""Documents: read from what a user has, cut to size, without duplicates."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import DataError, UserError

COLUMNS: Final = ("source", "doc_id", "text")
SCHEMA: Final = pa.schema([pa.field(name, pa.large_string(), nullable=False) for name in COLUMNS])
_TEXT_SUFFIXES: Final = frozenset({".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".json"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text, its source and its name within the source.

    `piece` is set for a piece cut out of a longer document, which is named `<whole>#<piece>`.
    """

    source: str
    doc_id: str
    text: str
    piece: int | None = None

    @property
    def whole(self) -> str:
        """The name of the uncut document."""
        return self.doc_id if self.piece is None else self.doc_id.removesuffix(f"#{self.piece}")

    @property
    def size_bytes(self) -> int:
        """Length of the text in UTF-8."""
        return len(self.text.encode())


def read_documents(path: Path) -> Iterator[Document]:
    """Read a parquet file (source, doc_id, text), a folder of text files, or one text file.

    In a folder the source is the first subfolder, or the stem of a file outside subfolders.

    Raises:
        UserError: The path does not exist.
        DataError: A parquet file lacks columns or values, a file is not UTF-8 text, or a folder has
            no text files.
    """
    if not path.exists():
        raise UserError(
            f"text.path {path}: expected a parquet, a folder of text files or a text file, "
            "found nothing; correct the path, or leave it out to use this installation's text."
        )
    if path.is_dir():
        yield from _read_folder(path)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path)
    else:
        yield Document(source=path.stem, doc_id=path.name, text=_read_text(path))


def cut_long(documents: Iterable[Document], max_bytes: int) -> Iterator[Document]:
    """Cut documents of more than `max_bytes` at line ends into pieces `<doc_id>#<n>`.

    A line that is longer still is cut between words, or within a word if necessary.
    """
    for document in documents:
        if document.size_bytes <= max_bytes:
            yield document
            continue
        for number, text in enumerate(_pieces(document.text, max_bytes)):
            yield replace(document, doc_id=f"{document.doc_id}#{number}", text=text, piece=number)


def distinct(documents: Iterable[Document]) -> Iterator[Document]:
    """Drop blank documents, and those that equal an earlier one up to white space."""
    seen: set[str] = set()
    for document in documents:
        words = " ".join(document.text.split())
        digest = hashlib.sha256(words.encode()).hexdigest()
        if words and digest not in seen:
            seen.add(digest)
            yield document


def sample_by_source(
    documents: Iterable[Document], max_bytes: int | None, seed: int
) -> dict[str, list[Document]]:
    """Group documents by source, at most `max_bytes` each, chosen by a seeded hash of their names.

    Sources and documents are sorted, so the result does not depend on the order of reading.
    """
    by_source: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_source[document.source].append(document)
    sampled: dict[str, list[Document]] = {}
    for source, candidates in sorted(by_source.items()):
        chosen: list[Document] = []
        total = 0
        for document in sorted(candidates, key=lambda doc: seeded_hash(doc.doc_id, seed)):
            total += document.size_bytes
            if max_bytes is not None and total > max_bytes and chosen:
                break
            chosen.append(document)
        sampled[source] = sorted(chosen, key=lambda doc: doc.doc_id)
    return sampled


def seeded_hash(name: str, seed: int) -> str:
    """A sort key that puts names in a random order, fixed for each seed."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def to_table(documents: Iterable[Document]) -> pa.Table:
    """Return documents as a table of `SCHEMA`."""
    rows = [{name: getattr(document, name) for name in COLUMNS} for document in documents]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _read_parquet(path: Path) -> Iterator[Document]:
    try:
        names = pq.read_schema(path).names
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise DataError(
                f"{path}: expected columns {', '.join(COLUMNS)}, found {', '.join(names)}; "
                f"add or rename {', '.join(missing)}."
            )
        table = pq.read_table(path, columns=list(COLUMNS))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: expected a parquet file, found {error}.") from error
    for name in COLUMNS:
        if table[name].null_count:
            raise DataError(f"{path}: column {name} has {table[name].null_count} nulls; drop them.")
    for row in table.to_pylist():
        yield Document(source=str(row["source"]), doc_id=str(row["doc_id"]), text=str(row["text"]))


def _read_folder(root: Path) -> Iterator[Document]:
    files = sorted(
        path for path in root.rglob("*") if path.is_file() and path.suffix in _TEXT_SUFFIXES
    )
    if not files:
        raise DataError(
            f"{root}: expected text files ({', '.join(sorted(_TEXT_SUFFIXES))}), found none."
        )
    for path in files:
        relative = path.relative_to(root)
        source = relative.parts[0] if len(relative.parts) > 1 else path.stem
        yield Document(source=source, doc_id=relative.as_posix(), text=_read_text(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, found {error}.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error


def _pieces(text: str, max_bytes: int) -> Iterator[str]:
    piece, size = "", 0
    for line in _short_lines(text, max_bytes):
        length = len(line.encode())
        if piece and size + length > max_bytes:
            yield piece
            piece, size = "", 0
        piece += line
        size += length
    if piece:
        yield piece


def _short_lines(text: str, max_bytes: int) -> Iterator[str]:
    # A character takes at most 4 bytes in UTF-8.
    characters = max(1, max_bytes // 4)
    for line in text.splitlines(keepends=True):
        if len(line.encode()) <= max_bytes:
            yield line
            continue
        for word in re.findall(r"\S*\s*", line):
            for start in range(0, len(word), characters):
                yield word[start : start + characters]
