"""Predictions of oe-eval, in the layout of its published files.

oe-eval is not a package that a test can install; the records below have the fields of the
predictions that Ai2 published with DataDecide.
"""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from neuneu.core.errors import UserError
from neuneu.data.importers import import_results

TEXTS = ((" one", " four", " thirty-one"), (" a", " bé", " cde"), (" x", " yy", " zzz"))
LABELS = (2, 0, 1)


def scores(step: int) -> np.ndarray:
    return np.random.default_rng(step).uniform(-30.0, -5.0, (3, 3)).astype(np.float32)


def prediction(doc: int, sums: np.ndarray, *, n_bytes: str) -> dict:
    outputs = []
    for text, value in zip(TEXTS[doc], sums.tolist(), strict=True):
        size = len(text.encode())
        density = -value / (size * math.log(2))
        outputs.append({
            "sum_logits": value, "num_tokens": 2, "num_tokens_all": 90, "is_greedy": False,
            "sum_logits_uncond": value - 1.0, "logits_per_token": value / 2,
            "logits_per_char": value / len(text), "num_chars": len(text),
            n_bytes: size if n_bytes == "num_bytes" else density,
        })  # fmt: skip
    metrics = {
        "correct_choice": LABELS[doc],
        "predicted_index_raw": int(sums.argmax()),
        "acc_raw": int(sums.argmax() == LABELS[doc]),
    }
    return {
        "doc_id": doc, "label": LABELS[doc], "native_id": f"Q{doc}", "task_hash": "da4d",
        "model_hash": "340b", "metrics": metrics, "model_output": outputs,
    }  # fmt: skip


def per_char(doc: int, sums: np.ndarray) -> int:
    chars = np.array([len(text) for text in TEXTS[doc]])
    return int(np.argmax(sums.astype(np.float64) / chars) == LABELS[doc])


def write(folder: Path, step: int, *, n_bytes: str = "num_bytes", packed: bool = False) -> Path:
    sums = scores(step)
    rows = [prediction(doc, sums[doc], n_bytes=n_bytes) for doc in range(3)]
    out = folder / f"mine-step{step}"
    out.mkdir(parents=True)
    record = {
        "task_name": "arc_easy", "task_hash": "da4d", "num_instances": 3,
        "model_config": {"model": None}, "task_config": {"num_shots": 5, "split": "test"},
        "metrics": {
            "acc_raw": sum(row["metrics"]["acc_raw"] for row in rows) / 3,
            "acc_per_char": sum(per_char(doc, sums[doc]) for doc in range(3)) / 3,
        },
    }  # fmt: skip
    (out / "task-000-arc_easy-metrics.json").write_text(json.dumps(record))
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = out / f"task-000-arc_easy-predictions.jsonl{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text) if packed else text)
    return path


@pytest.mark.parametrize("n_bytes", ["num_bytes", "bits_per_byte", "logits_per_byte"])
@pytest.mark.parametrize("packed", [False, True])
def test_choices_are_read_and_give_the_accuracies(
    tmp_path: Path, n_bytes: str, packed: bool
) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step, n_bytes=n_bytes, packed=packed)
    imported = import_results(tmp_path)
    (part,) = imported.choices
    assert (part.run, part.items.task, part.items.num_fewshot) == ("mine", "arc_easy", 5)
    assert part.steps.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(part.logprobs, [scores(step).reshape(-1) for step in part.steps])
    np.testing.assert_allclose(part.unconditional, part.logprobs - 1.0)
    assert part.items.labels.tolist() == list(LABELS)
    assert part.items.n_tokens.tolist() == [2] * 9
    assert part.items.n_chars.tolist() == [len(text) for of in TEXTS for text in of]
    assert part.items.n_bytes.tolist() == [len(text.encode()) for of in TEXTS for text in of]
    assert not any("left out" in note for note in imported.notes)
    assert imported.tasks is not None
    assert {row["chance"] for row in imported.tasks.to_pylist()} == {1 / 3}


def test_metrics_that_say_otherwise_leave_predictions_out(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    metrics = path.with_name("task-000-arc_easy-metrics.json")
    record = json.loads(metrics.read_text())
    record["metrics"]["acc_raw"] = 0.123
    metrics.write_text(json.dumps(record))
    imported = import_results(tmp_path)
    assert not imported.choices
    assert any("where metrics say 0.123: arc_easy" in note for note in imported.notes)


def test_nonsense_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    lines = path.read_text().splitlines()
    row = json.loads(lines[1])
    row["model_output"][1]["sum_logits"] = "low"
    path.write_text("\n".join([lines[0], json.dumps(row)]))
    with pytest.raises(UserError, match=r"line 2: model_output\.1\.sum_logits: .*'low'") as error:
        import_results(tmp_path)
    assert "\n" not in str(error.value)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(b"{}" * 1000)[:30])
    path.unlink()
    with pytest.raises(UserError, match=r"predictions\.jsonl\.gz: not readable"):
        import_results(tmp_path)
