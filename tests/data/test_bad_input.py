"""Tables that cannot be used: one line that says where, what and what to do; nothing is written."""

import datetime
import gzip
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import neuneu
from neuneu.cli.app import app
from neuneu.cli.exit_codes import EXIT_USER_ERROR
from neuneu.data import table_files
from neuneu.decisions.predictor import Predictor

HEADER = "run,task,step,tokens,value"
ROWS = (
    "a,t,10,1e9,0.30", "a,t,20,2e9,0.34", "a,t,30,3e9,0.37",
    "b,t,10,1e9,0.29", "b,t,20,2e9,0.31", "b,t,30,3e9,0.33",
)  # fmt: skip
runner = CliRunner()


@pytest.fixture(scope="module")
def model() -> Predictor:
    return neuneu.load()


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, model: Predictor) -> None:
    """Commands take the forecaster that is loaded already."""
    monkeypatch.setattr(neuneu, "load", lambda _: model)


@dataclass(frozen=True)
class Bad:
    """A way to spoil a table: what is written, and what the line about it has to say."""

    write: Callable[[Path], object]
    says: tuple[str, ...]
    name: str = "points.csv"
    more: tuple[str, ...] = ()


def text(*lines: str, header: str = HEADER, encoding: str = "utf-8") -> Callable[[Path], object]:
    return lambda path: path.write_bytes("\n".join([header, *lines, ""]).encode(encoding))


def with_row(row: str) -> Callable[[Path], object]:
    """A row for line 4 of an otherwise sound table."""
    return text(ROWS[0], ROWS[1], row, *ROWS[3:])


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def parquet(**columns: object) -> Callable[[Path], object]:
    table = {"run": ["a", "a"], "task": ["t", "t"], "step": [1, 2], "value": [0.3, 0.4]} | columns
    return lambda path: pq.write_table(pa.table(table), path)


def truncated(path: Path) -> None:
    parquet()(path)
    path.write_bytes(path.read_bytes()[:-40])


def spoilt(path: Path) -> None:
    """The footer is whole; a page is not."""
    parquet(value=[0.3] * 2)(path)
    content = bytearray(path.read_bytes())
    content[4:120] = os.urandom(116)
    path.write_bytes(content)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 10 * 1024**3)


def damaged_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("\n".join([HEADER, *ROWS]).encode())[:-12])


def wide(path: Path) -> None:
    path.write_text(",".join(["run", *(f"task{n}" for n in range(49_999))]) + "\n")


def wide_parquet(path: Path) -> None:
    pq.write_table(pa.table({f"task{n}": [0.5] for n in range(2000)}), path)


def folder(path: Path) -> None:
    path.mkdir()
    parquet()(path / "accuracies.parquet")


KINDS = {
    "missing column": Bad(
        text("a,1,0.3", header="run,step,value"), ("missing column 'task'", "Add")
    ),
    "misspelt column": Bad(
        text("a,t,1,0.3", header="run,task,step,valeu"), ("'valeu'", "did you mean 'value'?")
    ),
    "column of another name": Bad(
        text("a,t,1,0.3", header="model,task,step,value"), ("'model'", "did you mean 'run'?")
    ),
    "no place in training": Bad(
        text("a,t,0.3", header="run,task,value"), ("step, tokens or flops", "Add one")
    ),
    "column twice": Bad(
        text("a,t,1,2,0.3", header="run,task,step,step,value"), ("'step'", "twice", "rename one")
    ),
    "text in a number": Bad(
        with_row("a,t,30,3e9,good"), ("line 4", "value is 'good'", "expected a number", "Correct")
    ),
    "percent": Bad(
        text("a,t,10,1e9,30", "a,t,20,2e9,34"),
        ("line 2", "value is 30", "Divide percentages by 100", "`neuneu import --percent`"),
    ),
    "one percent": Bad(
        with_row("a,t,30,3e9,37.5"), ("line 4", "value is 37.5", "fraction in [0, 1]", "Divide")
    ),
    "percent sign": Bad(with_row("a,t,30,3e9,37%"), ("line 4", "value is '37%'", "45 % is 0.45")),
    "duplicate": Bad(
        with_row(ROWS[0]), ("line 4", "step 10 of run 'a'", "in line 2 already", "Drop one")
    ),
    "tokens against steps": Bad(
        with_row("a,t,30,1.5e9,0.37"), ("line 4", "tokens do not grow with step", "Correct")
    ),
    "negative value": Bad(with_row("a,t,30,3e9,-0.37"), ("line 4", "value is -0.37", "Correct")),
    "negative tokens": Bad(with_row("a,t,30,-3e9,0.37"), ("line 4", "tokens is -30", "Correct")),
    "negative step": Bad(with_row("a,t,-30,3e9,0.37"), ("line 4", "step is -30", "Correct")),
    "no tokens yet": Bad(with_row("a,t,30,0,0.37"), ("line 4", "tokens is 0", "Give the tokens")),
    "impossible tokens": Bad(with_row("a,t,30,1e99,0.4"), ("line 4", "tokens is 1e+99", "at most")),
    "NaN": Bad(with_row("a,t,30,3e9,NaN"), ("line 4", "value is missing or NaN", "drop the row")),
    "NaN in parquet": Bad(
        parquet(value=[0.3, float("nan")]), ("row 1", "value is missing or NaN"), "points.parquet"
    ),
    "infinity": Bad(with_row("a,t,30,inf,0.37"), ("line 4", "tokens is inf", "Correct")),
    "infinite value": Bad(with_row("a,t,30,3e9,inf"), ("line 4", "value is inf", "Correct")),
    "empty cell": Bad(with_row(",t,30,3e9,0.37"), ("line 4", "run is missing", "Give it")),
    "fraction of a step": Bad(with_row("a,t,30.5,3e9,0.4"), ("line 4", "step is '30.5'", "whole")),
    "empty file": Bad(raw(b""), ("an empty file", "write the table again")),
    "blank lines": Bad(raw(b"\n\n \n"), ("an empty file", "write the table again")),
    "header only": Bad(text(), ("at least one row", "add rows")),
    "Latin-1": Bad(
        lambda path: path.write_bytes(f"{HEADER}\n{ROWS[0]}\né,t,1,1,0.5\n".encode("latin-1")),
        ("line 3", "UTF-8", "byte 0xe9", "save the file as UTF-8"),
    ),
    "UTF-16": Bad(text(*ROWS, encoding="utf-16"), ("UTF-16", "save it as UTF-8")),
    "UTF-16 without mark": Bad(text(*ROWS, encoding="utf-16-le"), ("UTF-16", "save it as UTF-8")),
    "binary": Bad(raw(bytes(range(256)) * 9), ("a binary file", "export it as CSV")),
    "Excel": Bad(raw(b"PK\x03\x04" + bytes(99)), ("an Excel workbook", "save the sheet as CSV")),
    "Excel by its name": Bad(
        raw(b"PK\x03\x04"), (".xlsx", "expected a store folder or a file", "as CSV"), "points.xlsx"
    ),
    "JSON": Bad(raw(b'{"results": {}}'), ("JSON", "`neuneu import`")),
    "truncated parquet": Bad(truncated, ("cut off", "copy or write it again"), "points.parquet"),
    "spoilt parquet": Bad(spoilt, ("damaged", "copy or write it again"), "points.parquet"),
    "parquet that is none": Bad(
        text(*ROWS), ("expected a parquet file", "copy or write"), "points.parquet"
    ),
    "parquet of another schema": Bad(
        lambda path: pq.write_table(pa.table({"prompt": ["x"], "answer": ["y"]}), path),
        ("unknown columns 'prompt', 'answer'", "Rename or drop"), "points.parquet",
    ),
    "another delimiter": Bad(
        text(*(row.replace(",", "|") for row in ROWS), header=HEADER.replace(",", "|")),
        ("line 1", "commas, semicolons or tabs", "write the table as CSV"),
    ),
    "thousands separators": Bad(
        with_row('a,t,30,"3,000,000",0.37'),
        ("line 4", "tokens is '3,000,000'", "without separators: 3000000"),
    ),
    "decimal commas": Bad(
        text("a;t;10;0,305", header="run;task;step;value"),
        ("line 2", "value is '0,305'", "decimal point: 0.305"),
    ),
    "thousands separators without quotes": Bad(
        with_row("a,t,30,3,000,0.37"), ("line 4", "expected 5 cells", "found 6", "in quotes")
    ),
    "short row": Bad(with_row("a,t,30"), ("line 4", "expected 5 cells", "found 3", "Fill in")),
    "open quote": Bad(with_row('"a,t,30,3e9,0.37'), ("line 4", "quote", "Close it")),
    "dates": Bad(
        text("a,t,2026-01-05,0.3", header="run,task,step,value"),
        ("line 2", "step is '2026-01-05'", "A date is no step"),
    ),
    "dates in parquet": Bad(
        parquet(step=[datetime.date(2026, 1, 5)] * 2),
        ("row 0", "step is 2026-01-05", "A date is no step"), "points.parquet",
    ),
    "truth values": Bad(
        parquet(value=[True, False]), ("row 0", "value is True", "Give value"), "points.parquet"
    ),
    "lists": Bad(parquet(value=[[0.1], [0.2]]), ("row 0", "value is [0.1]"), "points.parquet"),
    "two sizes of a run": Bad(
        text("a,t,1,0.3,1e9", "a,t,2,0.4,2e9", header="run,task,step,value,params"),
        ("line 3", "params is 2000000000", "in line 2", "different names"),
    ),
    "two families of a run": Bad(
        text("a,t,1,0.3,x", "a,t,2,0.4,y", header="run,task,step,value,family"),
        ("line 3", "family is 'y'", "in line 2", "different names"),
    ),
    "50,000 columns": Bad(wide, ("line 1", "found 50,000 columns", "make rows of them")),
    "many columns of parquet": Bad(
        wide_parquet, ("found 2,000 columns", "make rows of them"), "points.parquet"
    ),
    "10 GB": Bad(sparse, ("at most 1 GB", "found 10.7 GB", "write it as parquet")),
    "10 GB parquet": Bad(sparse, ("expected a parquet file", "write it again"), "points.parquet"),
    "damaged gzip": Bad(damaged_gzip, ("damaged", "copy it again"), "points.csv.gz"),
    "a folder that is no store": Bad(
        folder, ("found another folder", "name one of 'accuracies.parquet'"), "points"
    ),
    "an empty folder": Bad(lambda path: path.mkdir(), ("another folder", "make one with"), "p"),
    "no such file": Bad(lambda _: None, ("no such file", "check the path")),
    "a pipe": Bad(os.mkfifo, ("found a device or a pipe", "write it to one")),
    "the end was passed": Bad(
        text(*ROWS), ("found 2.5e+09 tokens", "run 'a'", "larger --until"), more=("--until", "25e8")
    ),
    "no end": Bad(text(*ROWS), ("has a horizon", "give --until"), more=("--points", "3")),
}  # fmt: skip


def invoke(command: list[str], path: Path, *more: str) -> Result:
    return runner.invoke(app, [command[0], str(path), *command[1:], *more])


def one_line(result: Result) -> str:
    assert result.exit_code == EXIT_USER_ERROR, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("neuneu: ")
    assert len(line) < 600
    return line


@pytest.mark.parametrize("kind", KINDS)
def test_one_line_says_where_what_and_what_to_do(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = KINDS[kind]
    path = tmp_path / bad.name
    bad.write(path)
    before = sorted(tmp_path.rglob("*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    more = bad.more or ("--until", "9e9")
    line = one_line(invoke(["forecast"], path, *more, "-o", "out"))
    for part in bad.says:
        assert part in line, line
    assert bad.more or str(path) in line
    assert sorted(tmp_path.rglob("*")) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # KiB


COMMANDS = (
    ["forecast"], ["rank"], ["stop", "--target", "0.5"], ["when", "0.5"], ["next-eval"],
    ["backtest"],
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    "kind", ["misspelt column", "text in a number", "percent", "duplicate", "empty file",
             "truncated parquet", "Latin-1", "no such file", "a folder that is no store"],
)  # fmt: skip
def test_every_command_that_reads_tables_says_so(
    command: list[str], kind: str, tmp_path: Path
) -> None:
    bad = KINDS[kind]
    path = tmp_path / bad.name
    bad.write(path)
    before = sorted(tmp_path.rglob("*"))
    line = one_line(invoke(command, path, "-o", str(tmp_path / "out")))
    assert all(part in line for part in bad.says), line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--reference", "--losses", "--tasks"])
def test_the_table_beside_it_is_checked_too(option: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "points.csv", tmp_path / "beside.csv"
    text(*ROWS)(good)
    text("x,y", header="run,valeu")(bad)
    line = one_line(invoke(["forecast"], good, "--until", "9e9", option, str(bad)))
    assert f"{bad}: unknown column" in line


@pytest.mark.parametrize(
    ("option", "header", "row", "says"),
    [
        ("--tasks", "task,metric,base_task,format,split,group,chance,n_items,higher_is_better",
         "t,acc,t,rc,x,g,25,100,true", ("line 2", "chance is 25", "0.25 for four choices")),
        ("--tasks", "task,metric,base_task,format,split,group,chance,n_items,higher_is_better",
         "t,acc,t,rc,x,g,,0,true", ("line 2", "n_items is 0", "expected a positive number")),
        ("--tasks", "task,metric,base_task,format,split,group,chance,n_items,higher_is_better",
         "t,acc,t,rc,x,g,,,perhaps", ("line 2", "higher_is_better is 'perhaps'", "true or false")),
        ("--losses",
         "family,suite,run,params,num_fewshot,step,tokens,flops,name,metric,value",
         "f,s,a,1,0,1,1,1,v,cross_entropy_loss,-2", ("line 2", "value is -2", "loss in nats")),
    ],
)  # fmt: skip
def test_losses_and_tasks_that_cannot_be(
    option: str, header: str, row: str, says: tuple[str, ...], tmp_path: Path
) -> None:
    good, bad = tmp_path / "points.csv", tmp_path / "beside.csv"
    text(*ROWS)(good)
    text(row, header=header)(bad)
    line = one_line(invoke(["forecast"], good, "--until", "9e9", option, str(bad)))
    assert all(part in line for part in (str(bad), *says)), line


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    text(*ROWS)(path)
    for folder in path.parents:
        if "pytest" in str(folder):
            folder.chmod(0o755)
    invoke(["forecast"], path, "--until", "9e9")
    path.chmod(0)
    with nobody():
        line = one_line(invoke(["forecast"], path, "--until", "9e9"))
    assert f"{path}: expected a file that can be read, found: Permission denied" in line


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    text(*ROWS)(path)
    line = invoke(["forecast"], path, "--until", "9e9", "-o", str(path)).stderr
    assert f"{path}: expected a path to read or write, found: File exists; check the path" in line
    assert path.read_text().splitlines() == [HEADER, *ROWS]


def test_a_line_is_one_line_whatever_the_names(tmp_path: Path) -> None:
    path = tmp_path / "points.parquet"
    parquet(run=["a\nb\x1b[31m"] * 2, step=[1, 1])(path)
    assert "\x1b" not in one_line(invoke(["forecast"], path, "--until", "9e9"))


def test_a_zip_of_many_gigabytes_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "MAX_BYTES", 1_000_000)
    path = tmp_path / "points.csv.gz"
    path.write_bytes(gzip.compress(b"a,t,1,1,0.5\n" * 1_000_000))
    line = one_line(invoke(["forecast"], path, "--until", "9e9"))
    assert "expected at most 0.001 GB of text, found more; write it as parquet" in line


def test_too_many_rows_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "MAX_ROWS", 1)
    path = tmp_path / "points.parquet"
    parquet()(path)
    assert "at most 1 rows, found 2" in one_line(invoke(["forecast"], path, "--until", "9e9"))


def lines_after_blank_ones(path: Path) -> None:
    path.write_text(f"{HEADER}\n\n{ROWS[0]}\n\n\n{ROWS[1]}\na,t,30,3e9,good\n")


def test_blank_lines_do_not_shift_the_count(tmp_path: Path) -> None:
    lines_after_blank_ones(tmp_path / "points.csv")
    assert "line 7: value is 'good'" in one_line(
        invoke(["forecast"], tmp_path / "points.csv", "--until", "9e9")
    )
