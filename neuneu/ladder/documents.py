"""Documents: reading them from what a user has, cutting long ones, dropping repeated ones."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
    """A piece of text: where it comes from, its name within that source, and the text.

    `piece` is its number when it was cut out of a longer document, `<whole>#<piece>`.
    """

    source: str
    doc_id: str
    text: str
    piece: int | None = None

    @property
    def whole(self) -> str:
        """The name of the document it was cut out of, or its own."""
        return self.doc_id if self.piece is None else self.doc_id.removesuffix(f"#{self.piece}")

    @property
    def content_hash(self) -> str:
        """Equal for texts that differ only in white space."""
        return hashlib.sha256(" ".join(self.text.split()).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text.encode())


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of a parquet (source, doc_id, text), a folder of text files, or one text file.

    In a folder the source is the first sub-folder, or the file's stem where there is none.

    Raises:
        UserError: no such path.
        DataError: a parquet without these columns, a file that is not UTF-8 text, no text file.
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
    """Cuts documents of more than `max_bytes` at line ends into pieces `<doc_id>#<n>`.

    A single line that is longer still is cut between words, or inside one word if it must be.
    """
    for document in documents:
        if document.size_bytes <= max_bytes:
            yield document
            continue
        pieces = _pieces(document.text, max_bytes)
        for number, text in enumerate(pieces):
            yield Document(
                source=document.source,
                doc_id=f"{document.doc_id}#{number}",
                text=text,
                piece=number,
            )


def distinct(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents that are not blank and repeat no earlier one, white space aside."""
    seen: set[str] = set()
    for document in documents:
        digest = document.content_hash
        if digest not in seen and not document.text.isspace() and document.text:
            seen.add(digest)
            yield document


def sample_by_source(
    documents: Iterable[Document], max_bytes: int | None, seed: int
) -> dict[str, list[Document]]:
    """Documents by source, at most `max_bytes` a source, chosen by a seeded hash of their names.

    Sources and documents come out sorted, so that the result does not depend on reading order.
    """
    by_source: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_source[document.source].append(document)
    sampled: dict[str, list[Document]] = {}
    for source in sorted(by_source):
        candidates = sorted(by_source[source], key=lambda doc: seeded_hash(doc.doc_id, seed))
        chosen: list[Document] = []
        total = 0
        for document in candidates:
            total += document.size_bytes
            if max_bytes is not None and total > max_bytes and chosen:
                break
            chosen.append(document)
        sampled[source] = sorted(chosen, key=lambda doc: doc.doc_id)
    return sampled


def seeded_hash(name: str, seed: int) -> str:
    """A hash that orders names in a way that is random, fixed, and different for each seed."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def to_table(documents: Iterable[Document]) -> pa.Table:
    """The documents as a table of `SCHEMA`."""
    columns = list(zip(*((doc.source, doc.doc_id, doc.text) for doc in documents), strict=True))
    if not columns:
        return SCHEMA.empty_table()
    return pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=SCHEMA)


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
    piece: list[str] = []
    size = 0
    for line in _short_lines(text, max_bytes):
        length = len(line.encode())
        if piece and size + length > max_bytes:
            yield "".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += length
    if piece:
        yield "".join(piece)


def _short_lines(text: str, max_bytes: int) -> Iterator[str]:
    # A character has at most 4 bytes in UTF-8, so this many always fit.
    characters = max(1, max_bytes // 4)
    for line in text.splitlines(keepends=True):
        if len(line.encode()) <= max_bytes:
            yield line
            continue
        for word in re.findall(r"\S*\s*", line):
            for start in range(0, len(word), characters):
                yield word[start : start + characters]
