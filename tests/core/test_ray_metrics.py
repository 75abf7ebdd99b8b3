"""Ray's metrics: when they are recorded, and that Prometheus finds them on a real node."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from curves import family, write_table
from tiny_checkpoints import extract_config, save_checkpoint, truncate, write_inputs

from neuneu.core import logs, ray_metrics
from neuneu.core.ray_metrics import METRICS, Metric, training_name
from neuneu.scoring.workers.fan_out import count
from neuneu.scoring.workers.worker import Outcome


def test_names_and_tags_are_fit_for_prometheus() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("neuneu_")
        assert not metric.name.endswith(("_total", "_bucket", "_sum", "_count"))
        assert set(metric.tags) <= {"suite", "run", "training"}
        assert bool(metric.boundaries) == (metric.kind == "histogram")
        assert list(metric.boundaries) == sorted(set(metric.boundaries))


def test_without_ray_nothing_is_recorded_and_ray_is_not_imported() -> None:
    code = (
        "import sys\nfrom neuneu.core.ray_metrics import METRICS, _made\n"
        "for m in METRICS: m.record(1, **dict.fromkeys(m.tags, 'x'))\n"
        "print('ray' in sys.modules, _made.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False 0\n"


def test_wrong_tags_are_a_defect() -> None:
    with pytest.raises(AssertionError, match="neuneu_training_loss"):
        ray_metrics.TRAINING_LOSS.record(1.0, run="x")


def outcome(status: str, **changes: Any) -> Outcome:
    made = Outcome(suite="s", run="r", step=1, status=status)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (outcome("done"), []),  # by another job
        (outcome("left", error="no answer"), []),
        (outcome("quarantined"), [("checkpoints_quarantined", 1, {"suite": "s", "run": "r"})]),
        (
            outcome("done", engine="e", tokens=7, swaps=2, seconds={"swap": 3.0}),
            [
                ("checkpoints_done", 1, {"suite": "s"}),
                ("tokens_scored", 7, {"suite": "s"}),
                ("swap_seconds", 1.5, {"suite": "s"}),
                ("swap_seconds", 1.5, {"suite": "s"}),
            ],
        ),
    ],
)
def test_outcome_is_counted_once(
    what: Outcome, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def record(self: Metric, value: float, **tags: str) -> None:
        if value:
            seen.append((self.name.removeprefix("neuneu_"), value, tags))

    monkeypatch.setattr(Metric, "record", record)
    count(what)
    assert seen == expected


def test_training_name_tells_trainings_apart() -> None:
    assert training_name("s3://bucket/runs/demo/forecaster/") == "demo/forecaster"
    assert training_name("forecaster") == "forecaster"


def scraped(port: int) -> dict[str, dict[str, float]]:
    """Name of a series -> value by its tag (`suite`, `run` or `training`), summed over the rest."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for group in text_string_to_metric_families(text):
        for sample in group.samples:
            if sample.name.startswith("ray_neuneu"):
                tag = "/".join(
                    sample.labels[k] for k in ("suite", "run", "training") if k in sample.labels
                )
                assert sample.labels["SessionName"], "what the dashboard chooses by"
                values = found.setdefault(sample.name, {})
                values[tag] = values.get(tag, 0.0) + sample.value
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
def test_a_node_of_ray_exports_what_extraction_and_training_did(
    tmp_path: Path, log_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real extraction and a real training; the node's endpoint is asked as Prometheus does."""
    pytest.importorskip("transformers")
    ray = pytest.importorskip("ray")
    from neuneu.core.config import build_config
    from neuneu.core.ray_session import ray_session
    from neuneu.scoring.pipeline import extract
    from neuneu.training.config import TrainConfig
    from neuneu.training.learner import Ranks
    from neuneu.training.run import load_learner, train

    logs.set_up("debug", "json")
    # A gauge of a process that ended is forgotten after two intervals.
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "3000")
    for step in (1, 2, 3):
        folder = save_checkpoint(tmp_path / "checkpoints", run="a", step=step, tied=True)
    truncate(folder)
    (save_checkpoint(tmp_path / "checkpoints", run="b", step=1, tied=True) / "config.json").unlink()
    write_inputs(tmp_path)
    settings = {
        "output": str(tmp_path / "forecaster"),
        "accuracies": str(write_table(tmp_path / "table.parquet", family(["a", "v"]))),
        "validation_runs": ["v"],
        "model": {"width": 16, "layers": 1, "heads": 2, "feed_forward": 32},
        "optim": {"batch_size": 32, "epochs": 2},
        "workers": 2,
    }
    training = build_config(TrainConfig, settings)
    learner = load_learner(training)
    samples = sum(
        learner.draw(epoch, index, Ranks())[1]
        for epoch in (0, 1)
        for index in range(learner.steps_per_epoch(32))
    )
    with ray_session(num_cpus=2):
        summary = extract(extract_config(tmp_path))
        train(training)
        name = f"{tmp_path.name}/forecaster"
        expected = {
            "ray_neuneu_checkpoints_done_total": {"tiny": 2.0},
            "ray_neuneu_checkpoints_quarantined_total": {"tiny/a": 1.0, "tiny/b": 1.0},
            "ray_neuneu_tokens_scored_total": {"tiny": summary.tokens},
            "ray_neuneu_swap_seconds_count": {"tiny": 1.0},
            "ray_neuneu_training_samples_total": {name: samples},
        }
        port = ray.nodes()[0]["MetricsExportPort"]
        deadline = time.monotonic() + 60
        seen: dict[str, dict[str, float]] = {}
        while not expected.items() <= (found := scraped(port)).items():
            assert time.monotonic() < deadline, found
            seen |= found
            time.sleep(0.2)
        seen |= found
        lines = _worker_lines(Path(ray._private.worker._global_node.get_logs_dir_path()))

    assert (summary.done, summary.quarantined, summary.swaps) == (2, 2, 1)
    assert seen.keys() == {name for metric in METRICS for name in metric.series}
    assert seen["ray_neuneu_training_loss"].keys() == {name}
    about = {(line["run"], line["step"]) for line in lines if "run" in line}
    assert about == {("a", 1), ("a", 2), ("a", 3)}, "what workers wrote to Ray's log files"
    assert [line["epoch"] for line in lines if line["message"] == "epoch"] == [1.0, 2.0]


def _worker_lines(folder: Path) -> list[dict[str, Any]]:
    texts = (path.read_text() for path in folder.glob("worker-*.err"))
    found = (line for text in texts for line in text.splitlines() if line.startswith('{"time"'))
    return [json.loads(line) for line in found]


def test_the_page_lists_every_metric_as_it_is() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "observability.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| `ray_")]
    expected = []
    for metric in METRICS:
        name = f"ray_{metric.name}" if metric.kind == "histogram" else metric.series[0]
        expected.append(
            f"| `{name}` | {metric.kind} | {', '.join(metric.tags)} | {metric.description} |"
        )
    assert table == expected
