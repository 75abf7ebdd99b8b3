"""Logged series: exports and histories of Weights & Biases, event files of TensorBoard."""

import json
from pathlib import Path

import pytest

from neuneu.core.errors import UserError
from neuneu.data.importers import import_results
from neuneu.data.importers.series import Tag, read_tag

EXPORT = """"Step","big - eval/piqa/acc","big - eval/piqa/acc__MIN","big - eval/piqa/acc__MAX",\
"a - b - eval/piqa/acc","big - train/loss","big - eval/loss"
100,0.5,0.5,0.5,0.25,3.5,3.0
200,0.6,0.6,0.6,,3.25,2.5
"""


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("eval/hellaswag/acc", Tag(subject="hellaswag", metric="acc")),
        ("eval/hellaswag_acc", Tag(subject="hellaswag", metric="acc")),
        ("hellaswag/acc_norm", Tag(subject="hellaswag", metric="acc_norm")),
        ("hellaswag/acc_norm,none", Tag(subject="hellaswag", metric="acc_norm")),
        ("eval/downstream/arc_easy_acc", Tag(subject="arc_easy", metric="acc")),
        ("eval/downstream/hellaswag_len_norm", Tag(subject="hellaswag", metric="acc_norm")),
        ("eval/piqa_5shot/acc", Tag(subject="piqa", metric="acc", shots=5)),
        (
            "metrics/piqa/10-shot/InContextLearningMultipleChoiceAccuracy",
            Tag(subject="piqa", metric="acc", shots=10),
        ),
        ("val/accuracy", None),
        ("hellaswag/acc_stderr", None),
        ("train/piqa_acc", None),
        ("train/loss", None),
        ("loss", None),
        ("eval/loss", Tag(subject="validation", metric="cross_entropy_loss", loss=True)),
        ("eval/c4/CrossEntropyLoss", Tag(subject="c4", metric="cross_entropy_loss", loss=True)),
        ("learning_rate", None),
    ],
)
def test_tags(text: str, tag: Tag | None) -> None:
    assert read_tag(text) == tag


def test_an_export_of_a_chart(tmp_path: Path) -> None:
    (tmp_path / "wandb_export.csv").write_text(EXPORT)
    imported = import_results(tmp_path / "wandb_export.csv", tokens_per_step=1e6)
    assert imported.notes[0].startswith("format wandb: wandb_export.csv has columns such as 'big")
    rows = imported.accuracies.to_pylist()
    assert [(r["run"], r["task"], r["step"], r["tokens"], r["value"]) for r in rows] == [
        ("a - b", "piqa", 100, 1e8, 0.25),
        ("big", "piqa", 100, 1e8, 0.5),
        ("big", "piqa", 200, 2e8, 0.6),
    ]
    assert imported.losses is not None
    losses = imported.losses.to_pylist()
    assert [(r["run"], r["name"], r["step"], r["value"]) for r in losses] == [
        ("big", "validation", 100, 3.0),
        ("big", "validation", 200, 2.5),
    ]


def test_an_export_over_tokens(tmp_path: Path) -> None:
    text = '"tokens","r - piqa/acc"\n1000000,0.5\n2000000,0.75\n'
    (tmp_path / "e.csv").write_text(text)
    rows = import_results(tmp_path / "e.csv").accuracies.to_pylist()
    assert [(r["tokens"], r["value"]) for r in rows] == [(1e6, 0.5), (2e6, 0.75)]
    (tmp_path / "e.csv").write_text(text.replace("tokens", "Relative Time (Wall)"))
    with pytest.raises(UserError, match="found 'Relative Time"):
        import_results(tmp_path / "e.csv")


def test_histories_count_the_steps_of_training_and_their_tokens(tmp_path: Path) -> None:
    for run, gain in (("a", 0.1), ("b", 0.2)):
        rows = [
            {"_step": 1, "train/global_step": 50, "train/total_tokens": 5e6, "lr": 0.1},
            {"_step": 2, "train/global_step": 50, "eval/piqa/acc": 0.5},
            {"_step": 3, "train/global_step": 90, "train/total_tokens": 9e6, "lr": 0.1},
            {"_step": 4, "train/global_step": 90, "eval/piqa/acc": 0.5 + gain},
        ]
        (tmp_path / f"{run}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    imported = import_results(tmp_path)
    assert [
        (r["run"], r["step"], r["tokens"], r["value"]) for r in imported.accuracies.to_pylist()
    ] == [("a", 50, 5e6, 0.5), ("a", 90, 9e6, 0.6), ("b", 50, 5e6, 0.5), ("b", 90, 9e6, 0.7)]
    assert "no accuracies, left out: lr" in imported.notes


def test_evaluations_before_the_first_tokens_and_numbers_that_are_none(tmp_path: Path) -> None:
    rows = [
        {"_step": 0, "eval/piqa/acc": 0.5, "eval/boolq/acc": float("nan")},
        {"_step": 10, "eval/piqa/acc": 0.5, "eval/boolq/acc": 0.625},
        {"_step": 20, "eval/piqa/acc": 0.75, "tokens": 2e6},
    ]
    (tmp_path / "h.jsonl").write_text("\n".join(map(json.dumps, rows)))
    imported = import_results(tmp_path)
    found = [(r["task"], r["step"], r["tokens"]) for r in imported.accuracies.to_pylist()]
    assert found == [
        ("boolq", 10, 1e6), ("piqa", 0, 0.0), ("piqa", 10, 1e6), ("piqa", 20, 2e6),
    ]  # fmt: skip
    assert "no finite number, left out: acc of boolq" in imported.notes


def test_no_accuracy_among_the_series(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text('{"_step": 1, "train/loss": 3.0}\n')
    with pytest.raises(UserError, match="such as eval/hellaswag/acc, found train/loss"):
        import_results(tmp_path)


def test_event_files_of_tensorboard_each_folder_a_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    writer = pytest.importorskip("tensorboardX").SummaryWriter
    for run in ("small", "sweep/large"):
        with writer(str(tmp_path / run)) as log:
            for step in range(1, 1501):
                log.add_scalar("train/loss", 3.0, step)
                log.add_scalar("eval/hellaswag/acc", step / 3000, step)
            log.add_scalar("eval/hellaswag/acc", 0.75, 1500)
    imported = import_results(tmp_path)
    rows = imported.accuracies.to_pylist()
    assert {r["run"] for r in rows} == {"small", "sweep/large"}
    assert len(rows) == 3000
    last = [r["value"] for r in rows if r["step"] == 1500]
    assert last == [0.75, 0.75]
    assert any("train/loss" in note for note in imported.notes)


def test_without_tensorboard_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs tensorboard: pip install 'neuneu\[tensorboard\]'"):
        import_results(tmp_path)
