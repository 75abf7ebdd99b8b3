"""Results of lm-evaluation-harness: files of its own making, and the layouts it had before."""

import json
from pathlib import Path

import pytest

from neuneu.core.errors import UserError
from neuneu.data.importers import import_results

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["a", "b"]
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
GROUP = """
group: both
task: [one, two]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
"""
STREAM = """
task: stream
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{q}}}}"
metric_list:
  - {{metric: word_perplexity}}
  - {{metric: bits_per_byte}}
"""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two checkpoints each, scored and saved by the harness itself."""
    lm_eval = pytest.importorskip("lm_eval")
    import datasets
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    documents = [{"q": f"question {i}", "label": i % 2} for i in range(8)]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, documents)))
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=folder / "d.jsonl"))
    (folder / "both.yaml").write_text(GROUP)
    (folder / "stream.yaml").write_text(STREAM.format(data=folder / "d.jsonl"))
    out = tmp_path_factory.mktemp("out")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    # Else every local file of documents is looked for on the hub first.
    before, datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE, True
    for model in ("org/tiny-a", "org/tiny-b"):
        for revision in ("step100-tokens1B", "step200-tokens2B"):
            tracker = EvaluationTracker(output_path=str(out / revision))
            results = lm_eval.simple_evaluate(
                "dummy",
                model_args=f"pretrained={model},revision={revision}",
                tasks=["both", "stream"],
                task_manager=manager,
                evaluation_tracker=tracker,
                bootstrap_iters=10,
                num_fewshot=0,
            )
            samples = results.pop("samples")
            tracker.save_results_aggregated(results=results, samples=samples)
            tracker.save_results_samples(task_name="one", samples=samples["one"])
    datasets.config.HF_HUB_OFFLINE = before
    return out


@pytest.mark.slow
def test_what_the_harness_wrote_is_read_with_runs_steps_and_tokens(harness: Path) -> None:
    assert list(harness.rglob("samples_*.jsonl"))
    files = [json.loads(path.read_text()) for path in harness.rglob("results_*.json")]
    imported = import_results(harness)
    rows = imported.accuracies.to_pylist()
    assert {row["run"] for row in rows} == {"tiny-a", "tiny-b"}
    assert {(row["step"], row["tokens"]) for row in rows} == {(100, 1e9), (200, 2e9)}
    assert {(row["task"], row["metric"]) for row in rows} == {
        (task, metric) for task in ("one", "two") for metric in ("acc", "acc_norm")
    }
    assert len(rows) == 16
    found = {
        (row["run"], row["step"], row["task"], row["metric"]): (row["value"], row["stderr"])
        for row in rows
    }
    for record in files:
        run, step = record["model_name"].removeprefix("org/"), record["config"]["model_args"]
        for task in ("one", "two"):
            at = (run, 100 if "step100" in step else 200, task, "acc")
            expected = record["results"][task]
            assert found[at] == (expected["acc,none"], expected["acc_stderr,none"])
    assert any("groups of tasks left out" in note and "both" in note for note in imported.notes)


@pytest.mark.slow
def test_tasks_and_losses_come_with_them(harness: Path) -> None:
    imported = import_results(harness, family="tiny", params=1e6)
    assert imported.tasks is not None
    tasks = imported.tasks.to_pylist()
    assert {(row["task"], row["n_items"], row["split"]) for row in tasks} == {
        ("one", 8, "test"),
        ("two", 8, "test"),
    }
    assert imported.losses is not None
    losses = imported.losses.to_pylist()
    of_text = [row for row in losses if row["name"] == "stream"]
    assert {row["metric"] for row in of_text} == {"bpb", "nll_per_word"}
    assert len(of_text) == 8
    of_choices = [row for row in losses if row["name"] == "one"]  # whose samples were saved
    assert {row["metric"] for row in of_choices} == {"bpb", "p_gold", "margin", "brier"}
    assert len(of_choices) == 16
    assert all(row["flops"] == 6 * 1e6 * row["tokens"] for row in losses)
    assert {row["family"] for row in imported.accuracies.to_pylist()} == {"tiny"}


def results(task: str = "piqa", **metrics: float | str) -> dict:
    return {"results": {task: metrics}, "versions": {task: 0}, "config": {"model": "hf"}}


def write(path: Path, record: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def test_the_older_layout_with_the_step_in_the_file_name(tmp_path: Path) -> None:
    for step, value in ((1000, 0.5), (2000, 0.6)):
        record = results(acc=value, acc_stderr=0.01, acc_norm=value + 0.1)
        record["config"] = {"model_args": f"pretrained=EleutherAI/pythia-1.4b,revision=step{step}"}
        write(tmp_path / f"1.4b_step{step}.json", record)
    rows = import_results(tmp_path).accuracies.to_pylist()
    assert {row["run"] for row in rows} == {"pythia-1.4b"}
    acc = [row for row in rows if row["metric"] == "acc"]
    assert [(row["step"], row["value"], row["stderr"]) for row in acc] == [
        (1000, 0.5, 0.01),
        (2000, 0.6, 0.01),
    ]


@pytest.mark.parametrize(
    ("layout", "run"),
    [("mine/checkpoint-{}", "mine"), ("mine/global_step{}", "mine"), ("mine-iter_000{}", "mine")],
)
def test_steps_in_folder_names(tmp_path: Path, layout: str, run: str) -> None:
    for step in (500, 900):
        path = tmp_path / layout.format(step) / "results_2025-01-01T10-00-00.1.json"
        write(path, results(**{"acc,none": step / 1000}))
    rows = import_results(tmp_path).accuracies.to_pylist()
    assert [(row["run"], row["step"], row["value"]) for row in rows] == [
        (run, 500, 0.5),
        (run, 900, 0.9),
    ]


def test_a_checkpoint_scored_twice_counts_once_and_the_newest_file_wins(tmp_path: Path) -> None:
    for name, date, value in (("b", 100.0, 0.25), ("a", 200.0, 0.75)):
        record = results(**{"acc,none": value}) | {"date": date, "model_name": "x/m-step7"}
        write(tmp_path / f"results_{name}.json", record)
    imported = import_results(tmp_path)
    assert imported.accuracies.column("value").to_pylist() == [0.75]
    assert any("the newest counts: 1 older" in note for note in imported.notes)


def test_perplexities_are_kept_among_the_losses(tmp_path: Path) -> None:
    record = results(**{"acc,none": 0.5, "perplexity,none": 12.5, "alias": "piqa"})
    path = write(tmp_path / "step5" / "results.json", record | {"model_name": "m"})
    imported = import_results(path)
    assert imported.accuracies.column("metric").to_pylist() == ["acc"]
    assert imported.losses is not None
    (row,) = imported.losses.to_pylist()
    assert (row["name"], row["metric"], row["value"]) == ("piqa", "perplexity", 12.5)


def test_other_filters_are_metrics_of_their_own(tmp_path: Path) -> None:
    record = results("gsm8k", **{"exact_match,strict": 0.25, "exact_match,flexible": 0.5})
    path = write(tmp_path / "results.json", record | {"model_name": "m-step5"})
    assert import_results(path).accuracies.column("metric").to_pylist() == [
        "exact_match:flexible",
        "exact_match:strict",
    ]


def test_run_and_step_from_a_regular_expression(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"exp7_at{number}k" / "results.json", results(**{"acc,none": 0.1}))
    pattern = r"(?P<run>exp\d+)_at(?P<step>\d+k)"
    rows = import_results(tmp_path, step_from=pattern, tokens_per_step=5).accuracies.to_pylist()
    assert [(r["run"], r["step"], r["tokens"]) for r in rows] == [
        ("exp7", 1000, 5000.0),
        ("exp7", 2000, 10000.0),
    ]
    with pytest.raises(UserError, match=r"no step found .*--step-from"):
        import_results(tmp_path)
    with pytest.raises(UserError, match="groups named step, tokens or run"):
        import_results(tmp_path, step_from=r"at(\d+)")
    with pytest.raises(UserError, match="expected a regular expression"):
        import_results(tmp_path, step_from="(?P<step>")


def test_models_of_the_same_short_name_stay_apart_and_one_run_is_not_forced(tmp_path: Path) -> None:
    for org in ("x", "y"):
        record = results(**{"acc,none": 0.5}) | {"model_name": f"{org}/m-step5"}
        write(tmp_path / f"results_{org}.json", record)
    assert import_results(tmp_path).accuracies.column("run").to_pylist() == ["x/m", "y/m"]
    with pytest.raises(
        UserError, match=r"--run z: expected one run .* found x/m, y/m with the same"
    ):
        import_results(tmp_path, run="z")


def test_runs_of_one_model_path_are_told_apart_by_folders(tmp_path: Path) -> None:
    for run, value in (("a", 0.25), ("b", 0.5)):
        for step in (1, 2):
            record = results(**{"acc,none": value}) | {"model_name": "/tmp/hf"}
            write(tmp_path / run / f"step{step}" / "results_x.json", record)
    rows = import_results(tmp_path).accuracies.to_pylist()
    assert [(r["run"].split("/")[-2:], r["value"]) for r in rows] == [
        (["a", "tmp"], 0.25), (["a", "tmp"], 0.25), (["b", "tmp"], 0.5), (["b", "tmp"], 0.5),
    ]  # fmt: skip


def test_one_run_under_several_names_gets_the_name_given(tmp_path: Path) -> None:
    for number, name in ((1, "first-step5"), (2, "second-step9")):
        record = results(**{"acc,none": 0.5}) | {"model_name": name}
        write(tmp_path / f"results_{number}.json", record)
    rows = import_results(tmp_path, run="all").accuracies.to_pylist()
    assert [(r["run"], r["step"]) for r in rows] == [("all", 5), ("all", 9)]


def test_broken_files_are_named(tmp_path: Path) -> None:
    good = write(tmp_path / "step1" / "results_a.json", results(**{"acc,none": 0.5}))
    bad = tmp_path / "step2" / "results_b.json"
    bad.parent.mkdir()
    bad.write_text(good.read_text()[:-20])
    with pytest.raises(UserError, match=r"results_b\.json: expected JSON, found it broken"):
        import_results(tmp_path)
    write(bad, results(**{"acc,none": "high"}))
    with pytest.raises(UserError, match=r"results_b\.json: acc,none of piqa: .* found 'high'"):
        import_results(tmp_path)


def test_numbers_that_are_none_are_said(tmp_path: Path) -> None:
    record = results(**{"acc,none": float("nan")}) | {"model_name": "m-step5"}
    path = write(tmp_path / "results.json", record)
    with pytest.raises(UserError, match="found none; no finite number, left out: acc of piqa"):
        import_results(path)


def test_nothing_but_perplexities_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "step1" / "results.json", results(**{"perplexity,none": 9.0}))
    with pytest.raises(UserError, match="expected accuracies, found none"):
        import_results(path)
