import hashlib
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.core.errors import DataError, UserError
from neuneu.ladder.documents import Document, cut_long
from neuneu.ladder.installation import installation_documents
from neuneu.ladder.text import TextConfig, TextFolder, prepare_text


def _texts(path: Path) -> list[str]:
    return pq.read_table(path)["text"].to_pylist()


def _normalized(path: Path) -> set[str]:
    return {" ".join(text.split()) for text in _texts(path)}


def _digests(folder: TextFolder) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.path.glob("*.parquet")
    }


def test_splits_are_disjoint_and_lose_no_document(
    write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_corpus({"news": 60, "books": 40})
    config = TextConfig(path=path, validation_fraction=0.1, tasks_fraction=0.2)
    folder = prepare_text(config, tmp_path / "text")

    splits = [_normalized(folder.train(recipe)) for recipe in folder.recipes]
    splits += [_normalized(folder.validation), _normalized(folder.tasks)]
    assert len(set.union(*splits)) == sum(map(len, splits)) == 100
    assert len(_texts(folder.validation)) == 6 + 4
    assert len(_texts(folder.tasks)) == 12 + 8
    sources = pq.read_table(folder.validation)["source"].to_pylist()
    assert sources.count("news") == 6


def test_pieces_of_one_document_stay_on_one_side_and_validation_mixes_sources(
    tmp_path: Path,
) -> None:
    rows = [
        {
            "source": source,
            "doc_id": f"{source}-{number}",
            "text": "".join(f"{source} {number} line {line}\n" for line in range(300)),
        }
        for source in ("a", "b")
        for number in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    config = TextConfig(path=tmp_path / "text.parquet", document_bytes=1000)
    folder = prepare_text(config, tmp_path / "out")

    wholes: dict[str, int] = {}
    for part in (*map(folder.train, folder.recipes), folder.validation, folder.tasks):
        ids = {doc.split("#")[0] for doc in pq.read_table(part)["doc_id"].to_pylist()}
        for whole in ids:
            wholes[whole] = wholes.get(whole, 0) + 1
    assert len(wholes) == 80
    # Two boundaries a source, each through at most one document.
    assert sum(count > 1 for count in wholes.values()) <= 4
    sources = pq.read_table(folder.validation)["source"].to_pylist()
    changes = sum(one != other for one, other in itertools.pairwise(sources))
    assert changes >= 4


def test_text_prepared_twice_is_identical(
    write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    config = TextConfig(path=write_corpus(), max_bytes=10_000)
    first = prepare_text(config, tmp_path / "a")
    second = prepare_text(config, tmp_path / "b")
    assert _digests(first) == _digests(second)
    other_seed = TextConfig(path=config.path, max_bytes=10_000, seed=1)
    assert _digests(first) != _digests(prepare_text(other_seed, tmp_path / "c"))


def test_rerun_keeps_files_and_another_config_is_refused(
    write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    config = TextConfig(path=write_corpus())
    folder = prepare_text(config, tmp_path / "text")
    before = folder.validation.stat().st_mtime_ns
    assert prepare_text(config, tmp_path / "text") == folder
    assert folder.validation.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"another config \(seed was 0 and is 3\)"):
        prepare_text(TextConfig(path=config.path, seed=3), tmp_path / "text")


def test_interrupted_preparation_is_repaired(
    write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    config = TextConfig(path=write_corpus())
    folder = prepare_text(config, tmp_path / "text")
    whole = _digests(folder)
    folder.tasks.unlink()
    prepare_text(config, tmp_path / "text")
    assert _digests(folder) == whole


def test_repeated_documents_are_kept_once(tmp_path: Path) -> None:
    rows = [{"source": "s", "doc_id": str(i), "text": f"word {i % 10}  end"} for i in range(40)]
    rows += [{"source": "s", "doc_id": f"b{i}", "text": f"word\n{i % 10} end"} for i in range(40)]
    rows.append({"source": "s", "doc_id": "blank", "text": "  \n"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    folder = prepare_text(TextConfig(path=tmp_path / "c.parquet"), tmp_path / "text")
    paths = [folder.train("s"), folder.validation, folder.tasks]
    assert sum(len(_texts(path)) for path in paths) == 10


def test_automatic_recipes_balance_bytes(write_corpus: Callable[..., Path], tmp_path: Path) -> None:
    path = write_corpus({"big": 100, "mid": 60, "small": 50})
    folder = prepare_text(TextConfig(path=path), tmp_path / "text")
    assert folder.recipes == ("big", "mid-small")
    one = prepare_text(TextConfig(path=write_corpus({"only": 9}, "o.parquet")), tmp_path / "one")
    assert one.recipes == ("only",)


def test_folder_sources_are_subfolders_or_stems(tmp_path: Path) -> None:
    root = tmp_path / "texts"
    for name in ["poems/a/1.txt", "poems/2.txt", "notes.md"]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} line {i}\n" for i in range(200)))
    (root / "picture.png").write_bytes(b"\xff\xd8")
    folder = prepare_text(TextConfig(path=root, document_bytes=256), tmp_path / "text")
    table = pq.read_table(folder.validation)
    assert set(table["source"].to_pylist()) == {"poems", "notes"}
    assert all(len(text.encode()) <= 256 for text in table["text"].to_pylist())


def test_single_text_file_is_cut_into_documents(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text("".join(f"line {number}\n" for number in range(2_000)))
    folder = prepare_text(TextConfig(path=path, document_bytes=500), tmp_path / "text")
    assert folder.recipes == ("story",)
    texts = _texts(folder.train("story")) + _texts(folder.validation) + _texts(folder.tasks)
    assert sorted(re.findall(r"\d+", "".join(texts)), key=int) == list(map(str, range(2_000)))


@given(text=st.text(max_size=400), max_bytes=st.integers(4, 60))
def test_cutting_loses_nothing_and_respects_the_limit(text: str, max_bytes: int) -> None:
    document = Document(source="s", doc_id="d", text=text)
    pieces = list(cut_long([document], max_bytes))
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.size_bytes <= max_bytes for piece in pieces)
    assert len({piece.doc_id for piece in pieces}) == len(pieces)


def test_installation_text_has_three_separate_sources() -> None:
    documents = list(installation_documents(60_000, seed=0))
    sources = {document.source for document in documents}
    assert sources == {"code", "docstrings", "docs"}
    code = [document for document in documents if document.source == "code"]
    assert len({document.doc_id.split("/")[0] for document in code}) > 2
    assert documents == list(installation_documents(60_000, seed=0))


class TestErrors:
    def test_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nowhere\.parquet: expected a parquet"):
            prepare_text(TextConfig(path=tmp_path / "nowhere.parquet"), tmp_path / "text")
        assert not (tmp_path / "text").exists()

    def test_wrong_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "c.parquet"
        pq.write_table(pa.table({"source": ["a"], "body": ["b"]}), path)
        with pytest.raises(DataError, match=r"found source, body; add or rename doc_id, text"):
            prepare_text(TextConfig(path=path), tmp_path / "text")

    def test_nulls(self, tmp_path: Path) -> None:
        path = tmp_path / "c.parquet"
        pq.write_table(pa.table({"source": ["a"], "doc_id": ["1"], "text": [None]}), path)
        with pytest.raises(DataError, match="column text has 1 nulls"):
            prepare_text(TextConfig(path=path), tmp_path / "text")

    def test_not_a_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "c.parquet"
        path.write_text("hello")
        with pytest.raises(DataError, match="expected a parquet file"):
            prepare_text(TextConfig(path=path), tmp_path / "text")

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "c.txt"
        path.write_bytes(b"\xff\xfe\xff")
        with pytest.raises(DataError, match="expected UTF-8 text"):
            prepare_text(TextConfig(path=path), tmp_path / "text")

    def test_empty_text(self, tmp_path: Path) -> None:
        path = tmp_path / "c.txt"
        path.write_text(" \n")
        with pytest.raises(DataError, match="expected text, found none"):
            prepare_text(TextConfig(path=path), tmp_path / "text")
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="expected text files"):
            prepare_text(TextConfig(path=tmp_path / "empty"), tmp_path / "text")

    def test_too_little_text(self, tmp_path: Path) -> None:
        path = tmp_path / "c.txt"
        path.write_text("one document")
        with pytest.raises(DataError, match=r"at least 3 distinct documents .* found 1"):
            prepare_text(TextConfig(path=path), tmp_path / "text")

    def test_unknown_source(self, write_corpus: Callable[..., Path], tmp_path: Path) -> None:
        config = TextConfig(path=write_corpus(), recipes={"r": ("news", "nws")})
        with pytest.raises(UserError, match=r"'r': unknown source 'nws'; the text has 'books'"):
            prepare_text(config, tmp_path / "text")

    @pytest.mark.parametrize("recipes", [{"a/b": ("x",)}, {"a": ()}])
    def test_malformed_recipe(self, recipes: dict[str, tuple[str, ...]]) -> None:
        with pytest.raises(ValueError, match="recipe"):
            TextConfig(recipes=recipes)
