"""Results of oe-eval in the layouts that it documents."""

import json
from pathlib import Path

import pytest

from neuneu.core.errors import UserError
from neuneu.data.importers import import_results


def record(task: str, step: int, value: float, *, primary: str = "acc_per_char") -> dict:
    return {
        "task_name": task,
        "task_hash": "a0",
        "model_hash": "9d",
        "model_config": {
            "model": "allenai/OLMo-1B",
            "revision": f"step{step}-tokens{step // 250}B",
            "model_path": None,
        },
        "task_config": {"num_shots": 5, "primary_metric": primary, "split": "validation"},
        "metrics": {
            "acc_raw": value,
            "acc_per_token": value / 2,
            "acc_per_char": value / 4,
            "sum_logits_corr": -12.5,
            "bits_per_byte_corr": 0.9,
            "primary_score": value / 4,
        },
        "num_instances": 500,
        "task_idx": 0,
    }


RECORDS = [
    record(task, step, value)
    for step, value in ((1000, 0.4), (2000, 0.8))
    for task in ("arc_easy", "commonsense_qa", "arc_easy:mc")
]


def single_files(folder: Path) -> None:
    for index, one in enumerate(RECORDS):
        out = folder / one["model_config"]["revision"]
        out.mkdir(exist_ok=True)
        name = one["task_name"].replace(":", "_")
        (out / f"task-{index:03}-{name}-metrics.json").write_text(json.dumps(one))
        (out / f"task-{index:03}-{name}-predictions.jsonl").write_text(
            '{"doc_id": 0, "model_output": []}\n'
        )
        (out / "metrics-all.jsonl").write_text("not read, as there are single files")


def lines(folder: Path) -> None:
    (folder / "metrics-all.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))


def simple_view(folder: Path) -> None:
    for revision in {one["model_config"]["revision"] for one in RECORDS}:
        mine = [one for one in RECORDS if one["model_config"]["revision"] == revision]
        (folder / revision).mkdir()
        view = {
            "all_primary_scores": ["arc_easy: 0.1"],
            "metrics": [
                {"task": one["task_name"], **one["metrics"], "num_instances": 500}
                | {"task_config": one["task_config"]}
                for one in mine
            ],
            "model_config": mine[0]["model_config"],
        }
        (folder / revision / "metrics.json").write_text(json.dumps(view))


@pytest.mark.parametrize("layout", [single_files, lines, simple_view])
def test_each_layout_gives_the_same(tmp_path: Path, layout) -> None:
    layout(tmp_path)
    imported = import_results(tmp_path)
    rows = imported.accuracies.to_pylist()
    assert len(rows) == 2 * 3 * 3
    assert {(r["run"], r["num_fewshot"]) for r in rows} == {("OLMo-1B", 5)}
    assert {(r["step"], r["tokens"]) for r in rows} == {(1000, 4e9), (2000, 8e9)}
    values = {(r["task"], r["metric"], r["step"]): r["value"] for r in rows}
    assert values["arc_easy", "acc", 2000] == 0.8
    assert values["arc_easy:mc", "acc_norm", 1000] == 0.1
    assert values["arc_easy", "acc_per_token", 1000] == 0.2
    assert any("acc_raw" in note for note in imported.notes)
    assert not any("several times" in note for note in imported.notes)


def test_base_tasks_and_items_stand_in_the_task_table(tmp_path: Path) -> None:
    lines(tmp_path)
    imported = import_results(tmp_path)
    assert imported.tasks is not None
    tasks = {row["task"]: row for row in imported.tasks.to_pylist()}
    assert {name: row["base_task"] for name, row in tasks.items()} == {
        "arc_easy": "arc_easy", "arc_easy:mc": "arc_easy", "commonsense_qa": "csqa",
    }  # fmt: skip
    assert {name: row["format"] for name, row in tasks.items()} == {
        "arc_easy": "rc", "arc_easy:mc": "mc", "commonsense_qa": "rc",
    }  # fmt: skip
    assert {(row["n_items"], row["split"]) for row in tasks.values()} == {(500, "val")}


def test_a_primary_score_of_its_own_kind_is_kept(tmp_path: Path) -> None:
    one = record("gsm8k", 1000, 0.5, primary="maj_at_1")
    one["metrics"] = {"primary_score": 0.5, "maj_at_8": 0.75}
    (tmp_path / "task-000-gsm8k-metrics.json").write_text(json.dumps(one))
    (row,) = import_results(tmp_path).accuracies.to_pylist()
    assert (row["metric"], row["value"]) == ("maj_at_1", 0.5)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics-all.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n" + json.dumps(RECORDS[1])[:-9])
    with pytest.raises(UserError, match=r"metrics-all\.jsonl: expected a JSON object in line 2"):
        import_results(tmp_path, format="olmes")
