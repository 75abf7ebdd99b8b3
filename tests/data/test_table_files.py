"""Files of tables that people have: read as they are meant, and what was recognised is said."""

import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import accuracy
from typer.testing import CliRunner

import neuneu
from neuneu.cli.app import app
from neuneu.core.errors import DataError
from neuneu.data.cells import LinedName, as_type
from neuneu.data.defaults import fill_defaults
from neuneu.data.load import load_dataset, load_table
from neuneu.data.schemas import ACCURACIES, TASKS, validate
from neuneu.data.table_files import read_file, read_local
from neuneu.decisions.predictor import Predictor

PLAIN = "run,task,step,value\na,t,1,0.3\na,t,2,0.35\na,u v,1,0.5\n"
COLUMNS = {
    "run": ["a", "a", "a"], "task": ["t", "t", "u v"], "step": ["1", "2", "1"],
    "value": ["0.3", "0.35", "0.5"],
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Predictor:
    return neuneu.load()


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", " , ").encode(),
        PLAIN.replace("\n", "\n\n").encode(),
        b"\n" + PLAIN.rstrip().encode(),
        PLAIN.replace("u v", '"u v"').encode(),
        gzip.compress(PLAIN.encode()),
    ],
    ids=["plain", "mark", "windows", "old mac", "semicolons", "tabs", "spaces", "blank lines",
         "no last line end", "quotes", "gzip"],
)  # fmt: skip
def test_the_same_table_however_it_is_written(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert read_file(path).table.to_pydict() == COLUMNS


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.csv.gz"])
def test_the_content_decides_not_the_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(PLAIN)
    assert read_file(tmp_path / name).table.to_pydict() == COLUMNS
    pq.write_table(pa.table(COLUMNS), tmp_path / name)
    assert read_file(tmp_path / name).table.to_pydict() == COLUMNS


def test_columns_that_pandas_wrote_for_its_index_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",run,task,step,value\n0,a,t,1,0.3\n1,a,t,2,0.4\n")
    table = load_table(path, ACCURACIES, name="x").table
    assert table.column("value").to_pylist() == [0.3, 0.4]
    assert table.schema == ACCURACIES


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("run,task,step,value\n01,1e5,1,.3\n1,2026-01-05,1,3e-1\nNA,true,1e3,0.3\n")
    table = load_table(path, ACCURACIES, name="x").table
    assert sorted(table.column("run").to_pylist()) == ["01", "1", "NA"]
    assert sorted(table.column("task").to_pylist()) == ["1e5", "2026-01-05", "true"]
    assert sorted(table.column("step").to_pylist()) == [1, 1, 1000]
    assert set(table.column("value").to_pylist()) == {0.3}


def test_a_column_may_begin_with_whole_numbers(tmp_path: Path) -> None:
    """Beyond the first megabyte, by which types are often guessed."""
    rows = [f"a,t,{step},0" for step in range(1, 150_000)] + ["a,t,1e6,0.5"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["run,task,step,value", *rows]))
    table = load_table(path, ACCURACIES, name="x").table
    assert table.column("value").to_pylist()[-1] == 0.5
    assert table.column("step").to_pylist()[-1] == 1_000_000


def test_unknown_numbers_are_null(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("run,task,step,value,stderr,params\na,t,1,0.3,NaN,n/a\na,t,2,0.4,,\n")
    table = load_table(path, ACCURACIES, name="x").table
    assert table.column("params").null_count == 2
    assert table.column("stderr").to_pylist()[1] is None


@pytest.mark.parametrize(
    ("kind", "values", "cast"),
    [
        (pa.int64(), ["7", " 8 ", None], [7, 8, None]),
        (pa.int64(), ["7", "8.0", "9e3"], [7, 8, 9000]),
        (pa.int64(), [7.0, float("nan")], [7, None]),
        (pa.float64(), ["7", "nan", "-", "1e-3"], [7.0, None, None, 0.001]),
        (pa.string(), [7, None], ["7", None]),
        (pa.bool_(), ["true", "0"], [True, False]),
    ],
)
def test_cells_as_a_type(kind: pa.DataType, values: list, cast: list) -> None:
    found = as_type(pa.chunked_array([values[:1], values[1:]]), kind, title="x", name="y")
    assert found.to_pylist() == cast


def test_cells_of_categories_and_bytes_are_text() -> None:
    categories = pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode()])
    assert as_type(categories, pa.string(), title="x", name="y").to_pylist() == ["a", "b", "a"]
    found = as_type(pa.chunked_array([[b"a", b"b"]]), pa.string(), title="x", name="y")
    assert found.to_pylist() == ["a", "b"]
    with pytest.raises(DataError, match="column 'x': expected text in UTF-8"):
        as_type(pa.chunked_array([[b"\xff"]]), pa.string(), title="x", name="y")


@given(
    st.lists(st.sampled_from(["1", "2.5", "3e2", "", "nan", "x", "0x1", "1,5", "-7"]), min_size=1),
)
def test_the_first_misfit_is_named(cells: list[str]) -> None:
    def fits(cell: str) -> bool:
        return cell not in {"x", "0x1", "1,5"}

    column = pa.chunked_array([cells])
    name = LinedName("y", range(2, len(cells) + 2))
    if all(map(fits, cells)):
        assert len(as_type(column, pa.float64(), title="x", name=name)) == len(cells)
        return
    row = next(row for row, cell in enumerate(cells) if not fits(cell))
    with pytest.raises(DataError, match=f"y: line {row + 2}: x is '{cells[row]}'; expected"):
        as_type(column, pa.float64(), title="x", name=name)


@given(st.binary(max_size=200) | st.text(alphabet='ab,;\t"\r\n 1.é', max_size=80).map(str.encode))
def test_any_bytes_are_a_table_or_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_bytes(content)
        refusal, found = "", None
        try:
            found = read_local(path, name="a.csv")
        except DataError as error:
            refusal = str(error)
    if found is None:
        assert refusal.startswith("a.csv: ")
    else:
        assert isinstance(found.name, LinedName)
        assert len(found.name.lines) == found.table.num_rows


def test_a_table_in_memory_is_checked_as_a_file_is() -> None:
    table = pa.Table.from_pylist([accuracy(), accuracy(step=20, value=30.0)])
    with pytest.raises(DataError, match="mine: row 1: value is 30"):
        validate(table, ACCURACIES, name="mine")
    tasks = pa.table([pa.array([None], field.type) for field in TASKS], schema=TASKS)
    with pytest.raises(DataError, match="mine: row 0: task is missing"):
        validate(tasks, TASKS, name="mine")


def ask(path: Path, *more: str) -> dict:
    result = CliRunner().invoke(app, ["forecast", str(path), "--until", "9000", "--json", *more])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_unsorted_rows_and_other_delimiters_change_no_forecast(
    model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuneu, "load", lambda _: model)
    rows = [f"{run},t,{step},{0.3 + step / 1e5}" for run in "ab" for step in range(100, 1000, 100)]
    (tmp_path / "a.csv").write_text("\n".join(["run,task,step,value", *rows]))
    (tmp_path / "b.csv").write_text(
        "\n".join(["run;task;step;value", *reversed(rows)]).replace(",", ";")
    )
    first, second = ask(tmp_path / "a.csv"), ask(tmp_path / "b.csv")
    assert first["rows"] == second["rows"]
    assert any("separated by semicolons" in note for note in second["notes"])
    assert not any("separated" in note for note in first["notes"])


def test_one_point_is_answered_with_a_warning(
    model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuneu, "load", lambda _: model)
    (tmp_path / "a.csv").write_text("run,task,step,value\na,t,100,0.3\n")
    answer = ask(tmp_path / "a.csv")
    (row,) = answer["rows"]
    assert 0 <= row["q0.1"] < row["q0.5"] < row["q0.9"] <= 1
    assert "few-checkpoints" in {warning["code"] for warning in answer["warnings"]}


def test_what_was_recognised_is_logged_where_there_is_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text(PLAIN.replace(",", "\t"))
    load_dataset(tmp_path / "a.csv")
    assert any("separated by tabs" in line for line in caplog.messages)
    assert any("steps stand for" in line for line in caplog.messages)


def test_flops_that_are_missing_are_those_of_the_parameters_else_unknown() -> None:
    table = pa.table(
        {
            "run": ["a", "a", "b"], "task": ["t"] * 3, "value": [0.5] * 3,
            "tokens": [1e9, 2e9, 1e9], "params": [1e8, 1e8, None], "flops": [7e17, None, None],
        }
    )  # fmt: skip
    filled, notes = fill_defaults(table, name="mine")
    assert filled.column("flops").to_pylist() == [7e17, pytest.approx(1.2e18), None]
    assert notes == ["mine: neither params nor FLOPs known of runs 'b'"]
