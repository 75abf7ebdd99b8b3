"""The command, the guessing of formats, and a forecast from what was imported."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.data.schemas import ACCURACIES, TASKS


def run(*words: object) -> object:
    return CliRunner().invoke(app, ["import", *map(str, words)])


def results(folder: Path, *, n: int = 10) -> Path:
    for number in range(1, n + 1):
        value = 0.7 - 0.4 * number**-0.4
        record = {
            "results": {"piqa": {"acc,none": value, "acc_stderr,none": 0.01}},
            "configs": {"piqa": {"num_fewshot": 0, "validation_split": "validation"}},
            "n-samples": {"piqa": {"original": 1838, "effective": 1838}},
            "model_name": f"ckpt/mine/step{number * 1000}",
        }
        path = folder / f"out{number}" / "results_2025-01-01T10-00-00.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
    return folder


def test_from_results_to_a_forecast(tmp_path: Path) -> None:
    folder, table = results(tmp_path / "in"), tmp_path / "accuracies.parquet"
    done = run(folder, "-o", table, "--tokens-per-step", "4e6", "--family", "mine")
    assert done.exit_code == 0, done.output
    assert "format lm-eval: results_2025" in done.output
    answer = CliRunner().invoke(app, ["forecast", str(table), "--until", "120e9", "--json"])
    assert answer.exit_code == 0, answer.output
    (row,) = json.loads(answer.stdout)["rows"]
    assert (row["run"], row["task"], row["tokens"]) == ("mine", "piqa", 120e9)
    assert 0.5 < row["q0.5"] < 0.75


def test_a_folder_gets_all_tables_and_json_says_which(tmp_path: Path) -> None:
    folder = results(tmp_path / "in", n=2)
    done = run(folder, "-o", tmp_path / "out", "--json", "--run", "renamed", "--params", "1e9")
    record = json.loads(done.stdout)
    assert record["output"] == [
        str(tmp_path / "out" / f"{n}.parquet") for n in ("accuracies", "tasks")
    ]
    assert (record["rows"], record["runs"], record["tasks"]) == (2, 1, 1)
    assert any("steps stand for them" in note for note in record["notes"])
    accuracies = pq.read_table(record["output"][0])
    assert accuracies.schema.equals(ACCURACIES, check_metadata=True)
    assert set(accuracies.column("run").to_pylist()) == {"renamed"}
    assert pq.read_table(record["output"][1]).schema.equals(TASKS, check_metadata=True)


def test_csv_out_can_be_imported_again(tmp_path: Path) -> None:
    folder, out = results(tmp_path / "in", n=3), tmp_path / "a.csv"
    assert run(folder, "-o", out).exit_code == 0
    again = tmp_path / "b.csv"
    assert run(out, "-o", again).exit_code == 0
    assert again.read_text() == out.read_text()


def failed(*words: object) -> str:
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_what_cannot_be_imported_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no known format found in an empty folder; known are lm-eval" in failed(empty, "-o", out)
    (empty / "notes.md").write_text("x")
    assert "found in a folder with notes.md" in failed(empty, "-o", out)
    assert "expected a local file or folder" in failed(tmp_path / "none", "-o", out)
    assert "--format 'xml': expected one of lm-eval, csv" in failed(
        empty, "-o", out, "--format", "xml"
    )
    assert "expected accuracies, found none" in failed(empty, "-o", out, "--format", "lm-eval")
    table = tmp_path / "t.csv"
    table.write_text("run,step,task,value\nm,1,t,55\n")
    assert "--percent" in failed(table, "-o", out)
    assert "expected ours=theirs" in failed(table, "-o", out, "--column", "value")
    good = results(tmp_path / "in", n=1)
    assert "expected a .parquet or .csv file or a folder" in failed(good, "-o", tmp_path / "a.xlsx")
    assert "expected a local file or folder" in failed(good, "-o", "s3://bucket/a.parquet")
    assert not out.exists()


def test_two_formats_in_one_folder_are_asked_about(tmp_path: Path) -> None:
    folder = results(tmp_path / "in", n=2)
    (folder / "h.jsonl").write_text('{"_step": 5, "piqa/acc": 0.5}\n')
    message = failed(folder, "-o", tmp_path / "o.csv")
    assert "several formats fit (lm-eval: " in message
    assert "wandb: h.jsonl" in message
    assert run(folder, "-o", tmp_path / "o.csv", "--format", "wandb").exit_code == 0


@pytest.mark.parametrize("tokens", ["0B", "4B"])
def test_rounded_tokens_of_names_do_not_hide_checkpoints(tmp_path: Path, tokens: str) -> None:
    lines = ["model,task,acc", *(f"m-step{s}-tokens{tokens},t,0.5" for s in (100, 200))]
    lines.append("m-step400-tokens8B,t,0.5")
    (tmp_path / "a.csv").write_text("\n".join(lines))
    done = run(tmp_path / "a.csv", "-o", tmp_path / "o.parquet")
    assert done.exit_code == 0, done.output
    assert "in proportion to steps: ['m']" in done.output
    assert pq.read_table(tmp_path / "o.parquet").column("tokens").to_pylist() == [2e9, 4e9, 8e9]


def test_params_of_some_runs_only(tmp_path: Path) -> None:
    rows = [
        f"{run},{params},{s}00,t,0.{s}" for run, params in (("a", 1e9), ("b", "")) for s in (1, 2)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["run,params,step,task,value", *rows]))
    done = run(tmp_path / "a.csv", "-o", tmp_path / "o.parquet", "--tokens-per-step", "1000")
    assert "neither params nor FLOPs known of runs 'b'" in done.output
    flops = pq.read_table(tmp_path / "o.parquet").column("flops").to_numpy()
    assert flops[:2].tolist() == [6e14, 1.2e15]
    assert all(flops[2:] != flops[2:])
    words = ["forecast", str(tmp_path / "o.parquet"), "--until-flops", "1e16"]
    asked = CliRunner().invoke(app, words)
    assert asked.exit_code == 2
    assert "the FLOPs of run 'b' are not known" in asked.stderr
