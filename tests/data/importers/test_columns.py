"""Tables of other makers, long and wide."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuneu.core.errors import UserError
from neuneu.data.importers import import_results

LONG = """Model,Training Step,Benchmark,Score,comment
m,100,piqa,0.5,x
m,200,piqa,0.6,y
m,100,arc_easy,0.25,
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def values(path: Path, **options: object) -> list[tuple]:
    rows = import_results(path, **options).accuracies.to_pylist()
    return [(r["run"], r["task"], r["metric"], r["step"], r["value"]) for r in rows]


EXPECTED = [
    ("m", "arc_easy", "acc", 100, 0.25),
    ("m", "piqa", "acc", 100, 0.5),
    ("m", "piqa", "acc", 200, 0.6),
]


def test_a_long_table_under_its_usual_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", LONG)
    assert values(path) == EXPECTED
    notes = import_results(path).notes
    assert "value from 'Score'" in notes[1]
    assert any("columns left out: comment" in note for note in notes)


@pytest.mark.parametrize("separator", ["\t", ";"])
def test_other_separators(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path / "a.tsv", LONG.replace(",", separator))
    assert values(path) == EXPECTED


def test_columns_of_any_name_by_mapping(tmp_path: Path) -> None:
    table = {"who": ["m"], "when": [1e9], "what": ["piqa"], "how": [0.5], "score": [7.0]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    columns = {"run": "who", "tokens": "when", "task": "what", "value": "how"}
    imported = import_results(tmp_path / "a.parquet", columns=columns)
    (row,) = imported.accuracies.to_pylist()
    assert (row["run"], row["tokens"], row["task"], row["value"]) == ("m", 1e9, "piqa", 0.5)
    with pytest.raises(UserError, match=r"has no 'nothing', only \['who'"):
        import_results(tmp_path / "a.parquet", columns={"value": "nothing"})
    with pytest.raises(UserError, match="expected one of family, suite, run"):
        import_results(tmp_path / "a.parquet", columns={"worth": "how"})


def test_a_wide_table_has_a_column_a_task(tmp_path: Path) -> None:
    text = "run,step,comment,hellaswag_acc_norm,piqa\nm,100,x,0.3,0.5\nm,200,y,,0.6\n"
    path = write(tmp_path / "a.csv", text)
    assert values(path) == [
        ("m", "hellaswag", "acc_norm", 100, 0.3),
        ("m", "piqa", "acc", 100, 0.5),
        ("m", "piqa", "acc", 200, 0.6),
    ]
    assert any(
        "one column per task: hellaswag_acc_norm, piqa" in n for n in import_results(path).notes
    )


def test_columns_that_are_no_tasks_are_left_out_of_a_wide_table(tmp_path: Path) -> None:
    text = ",step,lr,samples,eval_loss,piqa,acc_stderr\n0,5,0.1,4096,0.9,0.5,0.01\n"
    path = write(tmp_path / "m.csv", text)
    assert values(path) == [("m", "piqa", "acc", 5, 0.5)]
    assert any(
        "left out: Unnamed: 0, lr, samples, eval_loss" in note
        for note in import_results(path).notes
    )
    path = write(tmp_path / "p.csv", "step,boolq,piqa\n5,62.5,0.5\n")
    with pytest.raises(UserError, match=r"column 'boolq': .* found 62\.5; give --percent"):
        import_results(path)
    assert [row[4] for row in values(path, percent=True)] == [0.625, 0.005]


def test_wide_beats_a_task_that_is_called_like_the_value(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", "step,score,piqa\n5,0.1,0.2\n")
    assert values(path, wide=True) == [
        ("mine", "piqa", "acc", 5, 0.2),
        ("mine", "score", "acc", 5, 0.1),
    ]


def test_steps_in_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "model,task,acc\nx/m-step100,piqa,0.5\nx/m-step200,piqa,0.6\n")
    assert [(r[0], r[3]) for r in values(path)] == [("m", 100), ("m", 200)]
    text = "run,checkpoint,task,acc\nm,checkpoint-100,piqa,0.5\nm,checkpoint-200,piqa,0.6\n"
    path = write(tmp_path / "b.csv", text)
    assert [(r[0], r[3]) for r in values(path)] == [("m", 100), ("m", 200)]


def test_rows_without_a_value_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "run,step,task,value\nm,1,t,\nm,2,t,0.5\n")
    assert values(path) == [("m", "t", "acc", 2, 0.5)]
    assert "rows without a value left out: 1" in import_results(path).notes


@pytest.mark.parametrize("percent", [False, True])
def test_a_typo_in_scores_is_an_error_and_text_is_left_out(tmp_path: Path, percent: bool) -> None:
    path = tmp_path / "a.csv"
    first, typo, last = ("50", "60x", "70") if percent else ("0.5", "0.6x", "0.7")
    path.write_text(f"run,step,piqa,note\na,1,{first},x\na,2,{typo},\na,3,{last},7\n")
    with pytest.raises(UserError, match=rf"line 3: piqa is '{typo}'; expected a number"):
        import_results(path, wide=True, percent=percent)
    path.write_text(path.read_text().replace(typo, first))
    assert "columns left out: note" in import_results(path, wide=True, percent=percent).notes


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("run,step,piqa,piqa\na,1,0.5,0.4\n")
    with pytest.raises(UserError, match=r"a\.csv: column 'piqa' appears twice; drop or rename one"):
        import_results(path, wide=True)


def test_percentages_are_asked_about_and_divided(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "run,step,task,value,stderr\nm,1,t,50,2\nm,2,t,62.5,1\n")
    with pytest.raises(UserError, match=r"row 1 .*value is 50; expected .*--percent"):
        import_results(path)
    table = import_results(path, percent=True).accuracies
    assert table.column("value").to_pylist() == [0.5, 0.625]
    assert table.column("stderr").to_pylist() == [0.02, 0.01]
    path = write(tmp_path / "b.csv", "run,step,task,value\nm,1,t,50%\nm,2,t,62.5%\n")
    with pytest.raises(UserError, match=r"line 2: value is '50%'; expected a number.* --percent"):
        import_results(path)
    assert [r[4] for r in values(path, percent=True)] == [0.5, 0.625]
    path = write(tmp_path / "c.csv", "run,step,task,value\nm,1,t,0.5\n")
    with pytest.raises(UserError, match="--percent: expected values up to 100"):
        import_results(path, percent=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,step,task,value\nm,1,t,high\n", r"line 2: value is 'high'; expected a number"),
        ("run,step,task,value\nm,soon,t,0.5\n", r"column step: expected a number or step1000"),
        ("run,step,task,value\nm,1,t,-0.5\n", r"value is -0\.5; expected accuracies in \[0, 1\]\."),
        ("run,task,value\nm,t,0.5\n", r"expected a column step, tokens or flops"),
        ("run,step,task,value\nm,1,t,true\n", "line 2: value is 'true'; expected a number"),
        ("run,step,task,value\nm,1,t,\nm,2,t,\n", "found no number among the values"),
        ("run,step,task,value,seed\nm,1,t,0.5,0\nm,1,t,0.6,1\n", r"left out \(seed\) may tell"),
        ("run,step,value\nm,1,0.5\n", r"expected a column task .*--wide"),
        ("run,step,task,value\n", "expected rows of scores, found none"),
        ("run,step,note\nm,1,text\n", r"--column value=NAME"),
        (
            "run,step,task,value\nm,1,t,0.5\nm,1,t,0.6\n",
            "expected each checkpoint of a trajectory once",
        ),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(UserError, match=message) as caught:
        import_results(path)
    assert "a.csv" in str(caught.value)
