"""The GPU check goes on whatever fails; a dry run takes its branches on a CPU."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from documents import ROOT
from gpu.check import COLUMNS, STEPS, Check, Found, Step, cells
from page import page_of

CODE = {
    "good": """
report.add(Row(what="measured", rate=2e12, unit="FLOP/s"))
""",
    "raises": """
report.add(Row(what="before"))
with report.case("second"):
    raise ValueError("no kernel\\nand more")
report.add(Row(what="after"))
""",
    "dies": """
report.add(Row(what="before"))
os.abort()
""",
    "hangs": """
report.add(Row(what="before"))
child = subprocess.Popen(["sleep", "600"])
Path(sys.argv[1]).with_suffix(".child").write_text(str(child.pid))
time.sleep(600)
""",
    "exits": "print('a last word'); sys.exit(3)",
    "waits": """
turns = Turns(Path(sys.argv[sys.argv.index("--turns") + 1]), sys.argv[2], sys.argv[3].split(","))
turns.ready()
with turns.alone():
    begun = time.time()
    time.sleep(0.3)
    report.add(Row(what="turn", seconds=begun, note=str(time.time())))
""",
    "once": """
mark = Path(sys.argv[1]).with_suffix(".tried")
if not mark.exists():
    mark.touch()
    raise RuntimeError("no memory left beside the others")
report.add(Row(what="alone"))
""",
}
START = """
import os, subprocess, sys, time
from pathlib import Path
from gpu.report import Report, Row, Turns
report = Report(Path(sys.argv[1]))
"""


def step(name: str, *, limit_s: float = 60, group: str = "", needs: str | None = None) -> Step:
    return Step(name=name, part="a", limit_s=limit_s, group=group, needs=needs)


def check(work: Path, *, budget_s: float = 120, together: int = 1) -> Check:
    def command(one: Step, group: Sequence[Step]) -> list[str]:
        code = START + CODE[one.name.split("-")[0]]
        names = ",".join(other.name for other in group)
        return [sys.executable, "-c", code, str(work / f"{one.name}.json"), one.name, names]

    return Check(work=work, budget_s=budget_s, command=command, together=together)


def by_name(found: list[Found]) -> dict[str, Found]:
    return {entry.name: entry for entry in found}


def test_check_failing_steps_are_told_and_the_others_run(tmp_path: Path) -> None:
    names = ["raises", "dies", "exits", "good"]
    found = check(tmp_path).run([step(name) for name in names])
    assert [entry.name for entry in found] == names
    raises, dies, exits, good = found
    assert raises.status == "failed"
    assert raises.errors == ["second: ValueError: no kernel"]
    assert [row["what"] for row in raises.rows] == ["before", "after"]
    assert dies.status == "failed"
    assert [row["what"] for row in dies.rows] == ["before"]
    assert dies.errors[0].startswith("ended with -6: ")
    assert exits.errors == ["ended with 3: a last word"]
    assert good.status == "ok"
    assert good.rows == [{"what": "measured", "rate": 2e12, "unit": "FLOP/s"}]


def test_check_hanging_step_is_ended_with_its_children(tmp_path: Path) -> None:
    found = check(tmp_path).run([step("hangs", limit_s=8), step("good")])
    assert [entry.status for entry in found] == ["timed out", "ok"]
    assert found[0].errors == ["still running after 8 s"]
    assert [row["what"] for row in found[0].rows] == ["before"]
    assert not psutil.pid_exists(int((tmp_path / "hangs.child").read_text()))


def test_check_used_up_budget_skips_what_is_left(tmp_path: Path) -> None:
    found = check(tmp_path, budget_s=6).run([step("hangs"), step("good")])
    assert [entry.status for entry in found] == ["timed out", "skipped"]
    assert found[1].errors == ["the budget of 6 s is used up"]


def test_check_missing_package_skips_its_steps(tmp_path: Path) -> None:
    found = check(tmp_path).run([step("good", needs="no_such_package"), step("exits")])
    assert [entry.status for entry in found] == ["skipped", "failed"]
    assert found[0].errors == ["no_such_package is not installed"]


def test_check_steps_together_measure_in_turn(tmp_path: Path) -> None:
    steps = [step(f"waits-{i}", group="all") for i in range(3)]
    found = check(tmp_path, together=3).run(steps)
    spans = sorted((e.rows[0]["seconds"], float(e.rows[0]["note"])) for e in found)
    assert all(end <= begun for (_, end), (begun, _) in itertools.pairwise(spans))


def test_check_step_that_fails_among_others_is_tried_alone(tmp_path: Path) -> None:
    steps = [step("once", group="all"), step("good", group="all")]
    once = by_name(check(tmp_path, together=2).run(steps))["once"]
    assert [row["what"] for row in once.rows] == ["alone"]
    assert once.status == "ok"
    assert len(once.errors) == 1
    assert "RuntimeError: no memory left" in once.errors[0]
    assert once.errors[0].startswith("(together with others: ")


def test_check_killed_leaves_what_was_measured(tmp_path: Path) -> None:
    record = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu/check.py", "--dry-run", "--parts", "a,b",
               "--output", str(record)]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (record.exists() and _rows(record)) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        assert process.wait() == 143
    assert "bf16 product of 256 x 256" in _rows(record)


def _rows(record: Path) -> list[str]:
    return [
        row["what"] for entry in json.loads(record.read_text())["steps"] for row in entry["rows"]
    ]


def test_cells_of_a_row_carry_units() -> None:
    row = {"what": "w", "rate": 7.9e14, "unit": "FLOP/s", "share": 0.123, "difference": 0.25,
           "mean_difference": 0.01, "seconds": 1.234}  # fmt: skip
    expected = ("a", "w", "790 T FLOP", "12 %", "0.25 (0.01)", "1.23", "")
    assert cells({"part": "a"}, row) == expected
    assert len(expected) == len(COLUMNS)


def test_page_without_a_record_says_not_measured(tmp_path: Path) -> None:
    assert "Not measured yet" in page_of("gpu", None, tmp_path / "gpu.md")


def test_page_of_a_record_shows_numbers_and_failures(tmp_path: Path) -> None:
    record = {
        "dry_run": False, "date": "2026-01-02", "budget_s": 300, "seconds": 123.4,
        "steps": [
            {"name": "card", "part": "a", "status": "ok", "seconds": 3, "errors": [],
             "rows": [{"what": "machine", "note": "16 CPU cores; a card"},
                      {"what": "product", "rate": 8e14, "unit": "FLOP/s"}]},
            {"name": "vllm-two-engines-2", "part": "c", "status": "failed", "seconds": 9,
             "errors": ["no kernel"], "rows": [{"what": "llama"}]},
        ],
    }  # fmt: skip
    text = page_of("gpu", record, tmp_path / "gpu.md")
    assert "2026-01-02, in 123 s: 16 CPU cores; a card." in text
    assert "| product | 800 T FLOP |" in text
    assert "| llama |" in text
    assert "* vllm-two-engines-2, failed: no kernel" in text


WHOLE = [step.name for step in STEPS if step.dry]
FEW = ["card", "models", "transformers", "vllm-10M", "training"]
ROWS = {
    "vllm-10M": ["llama-10M bfloat16, swap 3", "llama-10M bfloat16, five-shot"],
    "vllm-tied": ["tied bfloat16"], "vllm-neox-160M": ["neox-160M bfloat16"],
    "pipeline": ["16 checkpoints, vllm"], "training": ["our forecaster"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.parametrize(
    "steps", [FEW, pytest.param(WHOLE, marks=pytest.mark.soak)], ids=["few", "every"]
)
def test_dry_run_takes_its_steps(steps: list[str], tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    record = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu/check.py", "--dry-run", "--budget", "840",
               "--steps", ",".join(steps), "--output", str(record)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {entry["name"]: entry for entry in json.loads(record.read_text())["steps"]}
    assert list(found) == steps
    failed = {name: entry["errors"] for name, entry in found.items() if entry["status"] != "ok"}
    assert not failed, done.stdout[-5000:]
    assert done.returncode == 0
    for name in ROWS.keys() & set(steps):
        assert {row["what"] for row in found[name]["rows"]} >= set(ROWS[name])
    gaps = [row["mean_difference"] for row in found["vllm-10M"]["rows"]]
    assert len(gaps) == 5
    assert max(gaps) < 0.1
