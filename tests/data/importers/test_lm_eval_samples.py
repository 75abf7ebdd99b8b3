"""Samples of lm-evaluation-harness: files of its own making, and the layouts it had before."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.core.errors import UserError
from neuneu.data.choice_files import read_choices, write_choices
from neuneu.data.importers import import_results
from neuneu.data.schemas import CHOICES

COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
metric_list:
"""
METRIC = "  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n"
TASKS = {
    "plain": (
        'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_target: label\n'
        'doc_to_choice: ["a", "bcd", "déf"]\n',
        ("acc", "acc_norm", "acc_mutual_info"),
    ),
    "named": (
        'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{right}}"\n'
        'doc_to_choice: ["yes", "no", "perhaps"]\ntarget_delimiter: " -- "\n',
        ("acc", "acc_norm"),
    ),
    "pairs": (
        'output_type: multiple_choice\ndoc_to_text: ""\ndoc_to_target: 0\n'
        'doc_to_choice: "{{[q, q + right]}}"\n',
        ("acc",),
    ),
    "contexts": (
        'output_type: multiple_choice\ndoc_to_text: "side"\ndoc_to_target: "{{q}}"\n'
        'doc_to_choice: "{{[right, q]}}"\n',
        ("acc",),
    ),
    "written": (
        'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{right}}"\n',
        ("exact_match",),
    ),
}
DOCUMENTS = [
    {"q": f"question {i}", "label": i % 3, "side": i % 2, "right": ("no", "yes", "perhaps")[i % 3]}
    for i in range(12)
]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints of one run, scored and logged by the harness itself."""
    lm_eval = pytest.importorskip("lm_eval")
    import datasets
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "d.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCUMENTS)))
    for name, (text, metrics) in TASKS.items():
        listed = "".join(METRIC.format(name=metric) for metric in metrics)
        common = COMMON.format(data=data)
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}{common}{listed}")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    out = tmp_path_factory.mktemp("out")
    # Else every local file of documents is looked for on the hub first.
    before, datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE, True
    for step in (100, 200, 300):
        tracker = EvaluationTracker(output_path=str(out / f"step{step}"))
        results = lm_eval.simple_evaluate(
            "dummy",
            model_args=f"pretrained=org/tiny,revision=step{step}-tokens{step // 100}B",
            tasks=list(TASKS),
            task_manager=manager,
            evaluation_tracker=tracker,
            bootstrap_iters=10,
            num_fewshot=0,
            random_seed=step,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for name in TASKS:
            tracker.save_results_samples(task_name=name, samples=samples[name])
    datasets.config.HF_HUB_OFFLINE = before
    return out


@pytest.mark.slow
def test_accuracies_follow_from_the_choices_to_the_digit(harness: Path) -> None:
    imported = import_results(harness, params=1e6)
    choices = {part.items.task: part for part in imported.choices}
    assert set(choices) == {"plain", "named", "pairs", "contexts"}
    assert any("not multiple choice: written" in note for note in imported.notes)
    for record in (json.loads(path.read_text()) for path in harness.rglob("results_*.json")):
        step = int(re.findall(r"step(\d+)", record["config"]["model_args"])[0])
        for task, part in choices.items():
            (row,) = np.flatnonzero(part.steps == step)
            for metric, lengths in (("acc", None), ("acc_norm", part.items.n_chars)):
                stated = record["results"][task].get(f"{metric},none")
                if stated is not None:
                    assert accuracy(part, int(row), lengths) == stated
    assert {part.tokens.tolist() == [1e9, 2e9, 3e9] for part in choices.values()} == {True}
    assert {part.run for part in choices.values()} == {"tiny"}


def accuracy(part, row: int, lengths) -> float:
    items = part.items
    scores = part.logprobs[row].astype(np.float64)
    scores = scores if lengths is None else scores / lengths
    right = [
        int(np.argmax(scores[items.docs == doc])) == label
        for doc, label in zip(np.unique(items.docs), items.labels, strict=True)
    ]
    return sum(right) / len(right)


@pytest.mark.slow
def test_items_say_what_the_harness_knows_of_them(harness: Path) -> None:
    choices = {part.items.task: part for part in import_results(harness).choices}
    plain = choices["plain"]
    assert plain.items.labels.tolist() == [document["label"] for document in DOCUMENTS]
    assert plain.items.n_chars[:3].tolist() == [1, 3, 3]
    assert plain.items.n_bytes[:3].tolist() == [1, 3, 4]
    assert not plain.items.n_tokens.any()
    assert plain.unconditional is not None
    assert plain.unconditional.shape == (3, 36)
    assert choices["named"].items.labels.tolist() == [1, 0, 2] * 4
    assert choices["named"].items.n_chars[:3].tolist() == [3, 2, 7]
    assert choices["pairs"].items.format == "minimal_pair"
    # Choices are contexts here, and the index of the right one is not logged.
    assert choices["contexts"].items.labels.tolist() == [0, 1] * 6
    assert not choices["contexts"].items.n_chars.any()


@pytest.mark.slow
def test_choices_are_written_beside_the_tables_and_read_again(
    harness: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["import", str(harness), "-o", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    path = tmp_path / "choices.parquet"
    assert str(path) in json.loads(result.output)["output"]
    assert pq.read_schema(path).names == CHOICES.names
    expected = {part.items.task: part for part in import_results(harness).choices}
    found = read_choices(path)
    assert [part.items.task for part in found] == sorted(expected)
    for part in found:
        of = expected[part.items.task]
        np.testing.assert_array_equal(part.logprobs, of.logprobs)
        np.testing.assert_array_equal(part.steps, of.steps)
        for name in ("docs", "choices", "labels", "n_chars", "n_bytes", "n_tokens"):
            np.testing.assert_array_equal(getattr(part.items, name), getattr(of.items, name))
        assert (part.items.format, part.items.task_hash) == (of.items.format, of.items.task_hash)
        assert (part.unconditional is None) == (of.unconditional is None)
        if of.unconditional is not None:
            np.testing.assert_array_equal(part.unconditional, of.unconditional)


@pytest.mark.slow
def test_samples_alone_give_accuracies_and_tasks(harness: Path, tmp_path: Path) -> None:
    for found in harness.rglob("samples_plain*.jsonl"):
        folder = tmp_path / "mine" / found.relative_to(harness).parts[0]
        folder.mkdir(parents=True)
        (folder / found.name).write_bytes(found.read_bytes())
    imported = import_results(tmp_path)
    rows = {(r["step"], r["metric"]): r for r in imported.accuracies.to_pylist()}
    assert {r["run"] for r in rows.values()} == {"mine"}
    for record in (json.loads(path.read_text()) for path in harness.rglob("results_*.json")):
        step = int(re.findall(r"step(\d+)", record["config"]["model_args"])[0])
        for metric in ("acc", "acc_norm"):
            stated = record["results"]["plain"]
            assert rows[step, metric]["value"] == stated[f"{metric},none"]
            assert rows[step, metric]["stderr"] == pytest.approx(stated[f"{metric}_stderr,none"])
    assert imported.tasks is not None
    (task,) = {(r["n_items"], r["chance"], r["format"]) for r in imported.tasks.to_pylist()}
    assert task == (12, pytest.approx(1 / 3), "rc")


def sample(doc: int, *logprobs: float, target: object = 0, old: bool = True, **more) -> dict:
    """A line as the harness logs it; `old` is 0.4.0 to 0.4.2, which kept numbers and lists."""
    pairs = [["q", f" {text}"] for text in "abcdef"[: len(logprobs)]]
    counted = {"acc": float(np.argmax(logprobs) == target)} if isinstance(target, int) else {}
    if old:
        return {
            "doc_id": doc, "doc": {}, "target": target, "arguments": pairs,
            "resps": [[[value, False]] for value in logprobs],
            "filtered_resps": [[value, False] for value in logprobs], **counted, **more,
        }  # fmt: skip
    return {
        "doc_id": doc, "target": str(target), "filter": "none",
        "arguments": {f"gen_args_{i}": {"arg_0": c, "arg_1": t} for i, (c, t) in enumerate(pairs)},
        "resps": [[[str(value), "False"]] for value in logprobs],
        "filtered_resps": [[str(value), "False"] for value in logprobs], **counted, **more,
    }  # fmt: skip


def write(folder: Path, *rows: dict, name: str = "samples_t_2025-01-01T10-00-00.1.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def test_the_lists_of_the_first_releases_are_read(tmp_path: Path) -> None:
    for step, best in ((1, -1.0), (2, -9.0)):
        folder = tmp_path / f"run-step{step}"
        folder.mkdir()
        rows = [sample(1, -2.0, -3.0), sample(0, best, -3.0)]
        (folder / "pretrained__gpt_my_task.jsonl").write_text(json.dumps(rows, indent=2))
        acc = np.mean([row["acc"] for row in rows])
        record = {"results": {"my_task": {"acc,none": acc}}, "configs": {"my_task": {}}}
        (folder / "results.json").write_text(json.dumps(record))
    (part,) = import_results(tmp_path).choices
    assert part.items.task == "my_task"
    assert part.items.docs.tolist() == [0, 0, 1, 1]
    assert part.logprobs.tolist() == [[-1.0, -3.0, -2.0, -3.0], [-9.0, -3.0, -2.0, -3.0]]


def test_of_several_filters_the_first_counts(tmp_path: Path) -> None:
    rows = [sample(0, -1.0, -2.0, old=False), sample(0, -1.0, -2.0, old=False, filter="other")]
    rows[1]["filter"] = "other"
    write(tmp_path / "run-step1", *rows)
    (part,) = import_results(tmp_path).choices
    assert part.logprobs.shape == (1, 2)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (sample(0, -1.0, -2.0, target=[0, 1]), "does not have one right choice"),
        (sample(0, -1.0, float("inf")), "a log-probability is not finite"),
        (sample(0, -1.0, -2.0) | {"acc": 0.0}, "does not follow from its log-probabilities"),
        (sample(0, -1.0) | {"resps": [["text"]]}, "not multiple choice"),
    ],
)
def test_what_gives_no_choices_is_left_out_with_the_reason(
    tmp_path: Path, row: dict, reason: str
) -> None:
    write(tmp_path / "run-step1", sample(0, -1.0, -2.0))
    write(tmp_path / "run-step1", row, name="samples_u_2025-01-01T10-00-00.1.jsonl")
    imported = import_results(tmp_path)
    assert [part.items.task for part in imported.choices] == ["t"]
    assert any(reason in note and note.endswith(": u") for note in imported.notes)


def test_results_that_say_otherwise_leave_the_samples_out(tmp_path: Path) -> None:
    path = write(tmp_path / "run-step1", sample(0, -1.0, -2.0))
    record = {"results": {"t": {"acc,none": 0.5}}, "configs": {"t": {}}}
    path.with_name("results_2025-01-01T10-00-00.1.json").write_text(json.dumps(record))
    imported = import_results(tmp_path)
    assert not imported.choices
    assert any("acc follows as 1, where results say 0.5: t" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resps": [[["low", False]], [[-1.0, False]]]}, r"line 2: resps\.0\.0\.0: .*'low'"),
        ({"doc_id": "first"}, r"line 2: doc_id: .*'first'"),
        ({"arguments": 3}, r"line 2: arguments"),
        ({"doc_id": 0}, r"document 0 stands twice"),
    ],
)
def test_nonsense_is_one_line_that_names_the_file(
    tmp_path: Path, change: dict, message: str
) -> None:
    write(tmp_path / "run-step1", sample(0, -1.0, -2.0), sample(1, -1.0, -2.0) | change)
    with pytest.raises(UserError, match=message) as error:
        import_results(tmp_path)
    assert "samples_t_" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_cut_off_writes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "run-step1", sample(0, -1.0, -2.0), sample(1, -1.0, -2.0))
    path.write_text(path.read_text()[:-30])
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["import", str(tmp_path / "in"), "-o", str(out)])
    assert result.exit_code == 2
    assert "line 2" in result.output.replace("\n", " ")
    assert not out.exists()


def test_checkpoints_of_other_items_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "run-step1", sample(0, -1.0, -2.0))
    write(tmp_path / "run-step2", sample(0, -1.0, -2.0, target=1))
    with pytest.raises(UserError, match=r"has other items in .* expected the same documents"):
        import_results(tmp_path)


def test_a_file_of_many_parts_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuneu.data.choice_files.ROWS", 5)
    for step in range(1, 8):
        write(tmp_path / "in" / f"run-step{step}", sample(0, -step, -2.5), sample(1, -3.0, -step))
    (part,) = import_results(tmp_path / "in", params=2e6).choices
    write_choices([part], tmp_path / "c.parquet")
    assert pq.ParquetFile(tmp_path / "c.parquet").num_row_groups == 7
    (again,) = read_choices(tmp_path / "c.parquet")
    np.testing.assert_array_equal(again.logprobs, part.logprobs)
    assert again.steps.tolist() == list(range(1, 8))
    assert again.params == 2e6
    with pytest.raises(UserError, match="expected scored choices in parquet"):
        read_choices(tmp_path / "in" / "run-step1" / "samples_t_2025-01-01T10-00-00.1.jsonl")
