"""The worker without Ray and with a scripted engine: attempts, engines, quarantine."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import extract_config, save_checkpoint, write_inputs

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.data.checkpoints import CheckpointRef, list_local
from neuneu.data.store.store import Store
from neuneu.scoring.checkpoints.grouping import Pending, group
from neuneu.scoring.checkpoints.preflight import Preflight
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.wanted import load_wanted
from neuneu.scoring.workers import engine, inspection
from neuneu.scoring.workers.processes import ProcessError
from neuneu.scoring.workers.worker import Worker

pytest.importorskip("transformers")


class Script:
    """What engines were asked, and on which (verb, step) they fail how often."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.failures: dict[tuple[str, int], list[Exception]] = {}
        self.broken: dict[str, str] = {}
        self.limits: list[tuple[str, int]] = []
        self.rests: list[float] = []

    def note(self, verb: str, folder: Path) -> None:
        step = int(folder.name.removeprefix("step-"))
        self.calls.append((verb, step))
        failures = self.failures.get((verb, step))
        if failures:
            raise failures.pop(0)

    def make(self, config: EngineConfig, folder: Path) -> "ScriptedScorer":
        self.note("start", folder)
        return ScriptedScorer(self, folder)


class ScriptedScorer:
    max_prompt_tokens = 127
    proof = "scripted"

    def __init__(self, script: Script, folder: Path) -> None:
        self.script, self.folder = script, folder
        self.computed_tokens = 0

    def load(self, folder: Path) -> None:
        self.script.note("load", folder)
        self.folder = folder

    def score(self, prompts: Prompts) -> np.ndarray:
        self.script.note("score", self.folder)
        self.computed_tokens += len(prompts.tokens)
        return np.full(int(prompts.last.sum()), -1.0, np.float32)

    def close(self) -> None:
        self.script.calls.append(("close", 0))


class Here:
    """A host in this process; what it made of is noted, as is the end of an engine's."""

    def __init__(self, script: Script, make: Callable[..., Any], *args: Any) -> None:
        self.script, self.engine = script, make is engine.EngineHost
        self.target = make(*args)

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        if method in self.script.broken:
            raise ProcessError(self.script.broken.pop(method))
        self.script.limits.append((method, round(timeout_s)))
        return getattr(self.target, method)(*args)

    def close(self) -> None:
        self.target.close()
        self.kill()

    def kill(self) -> None:
        if self.engine:
            self.script.calls.append(("end", 0))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suite")
    for step in (1, 2, 3):
        save_checkpoint(root / "checkpoints", run="a", step=step, tied=True)
    save_checkpoint(root / "checkpoints", run="b", step=4, tied=False)
    write_inputs(root)
    return root


@pytest.fixture
def checked(suite: Path) -> list[Pending]:
    """Runs a (steps 1 to 3) and b (step 4), in the order of their steps."""
    return sorted(group(list_local(suite / "checkpoints")).pending, key=lambda p: p.ref.step)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    monkeypatch.setattr(engine, "make_scorer", script.make)
    return script


@pytest.fixture
def worker(make_worker: Callable[..., Worker]) -> Worker:
    return make_worker()


@pytest.fixture
def make_worker(suite: Path, tmp_path: Path, script: Script) -> Callable[..., Worker]:
    return lambda **settings: _worker(suite, tmp_path, script, **settings)


def _worker(suite: Path, tmp_path: Path, script: Script, *, peers: bool = False) -> Worker:
    config = extract_config(suite)
    store = Store(tmp_path / "store")
    store.bind({"test": 1})
    return Worker(
        replace(
            config,
            store=str(tmp_path / "store"),
            staging=tmp_path / "staging",
            staging_gb=1,
            checkpoint_timeout_s=100,
            inspect_timeout_s=50,
        ),
        load_wanted(replace(config, corpus_words=50)),
        peers=peers,
        host=partial(Here, script),
        sleep=script.rests.append,
    )


def test_run_one_engine_per_architecture_swaps_between(
    worker: Worker, checked: list[Pending], script: Script, tmp_path: Path
) -> None:
    outcomes = [worker.run(item) for item in checked]
    assert script.calls == [
        ("start", 1),
        ("score", 1),
        ("load", 2),
        ("score", 2),
        ("load", 3),
        ("score", 3),
        ("close", 0),
        ("end", 0),
        ("start", 4),
        ("score", 4),
    ]
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert [outcome.engines_started for outcome in outcomes] == [1, 0, 0, 1]
    assert [outcome.swaps for outcome in outcomes] == [0, 1, 1, 0]
    assert len({outcome.engine for outcome in outcomes}) == 2
    assert set(Store(tmp_path / "store").status().values()) == {"done"}
    assert not list((tmp_path / "store" / "attempts").iterdir())
    rows = Store(tmp_path / "store").checkpoints().to_pylist()
    # Every choice of the scripted engine has the same log-probability a token.
    assert {row["proof"] for row in rows} == {"scripted"}
    assert [outcome.ties for outcome in outcomes] == [row["ties"] for row in rows]


def test_run_engine_error_rebuilds_the_engine_once(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    script.failures["load", 2] = [EngineError("stale")]
    second, third = [worker.run(item) for item in checked[:3]][1:]
    assert script.calls[2:6] == [("load", 2), ("end", 0), ("start", 2), ("score", 2)]
    assert (second.status, second.attempts, second.engines_started) == ("done", 2, 1)
    assert (third.status, third.swaps) == ("done", 1)


def test_run_second_engine_error_quarantines_and_goes_on(
    worker: Worker, checked: list[Pending], script: Script, tmp_path: Path
) -> None:
    script.failures["score", 1] = [EngineError("first"), EngineError("second")]
    failed, following = [worker.run(item) for item in checked[:2]]
    assert (failed.status, failed.error, failed.attempts) == ("quarantined", "second", 2)
    assert following.status == "done"
    rows = Store(tmp_path / "store").checkpoints().to_pylist()
    assert [(row["step"], row["error"]) for row in rows] == [(1, "second"), (2, None)]


def test_run_architecture_that_never_works_is_left_untried_by_a_worker_alone(
    worker: Worker, checked: list[Pending], script: Script, tmp_path: Path
) -> None:
    for step in (1, 2, 3):
        script.failures["start", step] = [EngineError("no kernel"), EngineError("no kernel")]
    outcomes = [worker.run(item) for item in checked]
    assert [call for call in script.calls if call[0] != "end"] == [
        ("start", 1),
        ("start", 1),
        ("start", 2),
        ("start", 2),
        ("start", 4),
        ("score", 4),
    ]
    assert [outcome.status for outcome in outcomes] == ["quarantined"] * 2 + ["left", "done"]
    assert [outcome.engine_failed for outcome in outcomes] == [True, True, False, False]
    assert outcomes[2].error == (
        "not tried, left for the next run: the engine failed on 2 checkpoints of this "
        "architecture and scored none; last error: no kernel"
    )
    assert script.rests == []
    assert ("tiny", "a", 3) not in Store(tmp_path / "store").status()
    assert not list((tmp_path / "store" / "attempts").iterdir())


def test_run_a_broken_worker_leaves_the_queue_to_its_peers_and_recovers(
    make_worker: Callable[..., Worker], checked: list[Pending], script: Script
) -> None:
    worker = make_worker(peers=True)
    for step in (1, 2, 3):
        script.failures["start", step] = [EngineError("CUDA error")] * 3
    first = [worker.run(item) for item in (*checked[:2], checked[2], checked[2])]
    assert [o.status for o in first] == ["quarantined", "quarantined", "left", "left"]
    assert [o.engine_failed for o in first] == [True] * 4
    assert script.rests == [15.0, 30.0]
    # It was tried once after each rest; the third time it works, and the breaker is closed.
    assert script.calls.count(("start", 3)) == 2
    assert first[2].error.startswith("tried once, left for the next run: the engine failed")
    script.failures.clear()
    assert worker.run(checked[2]).status == "done"
    assert worker.run(checked[3]).status == "done"
    assert script.rests == [15.0, 30.0, 60.0]


def test_run_engine_error_ends_the_process_and_what_broke_there(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    worker.run(checked[0])
    script.broken["load"] = "its process died (SIGSEGV; see the worker's log)."
    second = worker.run(checked[1])
    assert (second.status, second.attempts, second.engines_started) == ("done", 2, 1)
    assert script.calls[2:] == [("end", 0), ("start", 2), ("score", 2)]


def test_run_inspection_that_breaks_costs_that_checkpoint_only(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    script.broken["inspect"] = "took longer than the limit of 50 s; it was stopped."
    outcomes = [worker.run(item) for item in checked[:2]]
    assert [outcome.status for outcome in outcomes] == ["quarantined", "done"]
    assert outcomes[0].error == (
        "inspecting it: took longer than the limit of 50 s; it was stopped."
    )


def test_run_another_tokenizer_inside_a_run_is_quarantined(
    worker: Worker, checked: list[Pending]
) -> None:
    outcome = worker.run(replace(checked[0], tokenizer_hash="0" * 16))
    assert outcome.status == "quarantined"
    assert "its tokenizer differs from that of the run's other checkpoints" in outcome.error
    assert worker.run(replace(checked[1], tokenizer_hash=None)).status == "done"


def test_run_unexpected_failure_quarantines_with_its_reason(
    worker: Worker, checked: list[Pending], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuneu.scoring.checkpoints.staging import Stager

    monkeypatch.setattr(Stager, "stage", lambda *_: 1 / 0)
    outcome = worker.run(checked[0])
    assert outcome.status == "quarantined"
    assert "could not be scored (ZeroDivisionError: division by zero" in outcome.error


def test_run_time_limits_grow_with_the_model(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    small, large = checked[0], checked[1]
    large = replace(large, ref=replace(large.ref, params=3e9))
    for item in (small, large):
        assert worker.run(item).status == "done"
    limits = [limit for method, limit in script.limits if method in {"inspect", "score"}]
    assert limits == [50, 100, 150, 300]


def test_run_checkpoint_error_quarantines_at_once_and_keeps_the_engine(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    script.failures["load", 2] = [CheckpointError("not finite")]
    outcomes = [worker.run(item) for item in checked[:3]]
    assert [outcome.status for outcome in outcomes] == ["done", "quarantined", "done"]
    assert ("end", 0) not in script.calls


def test_run_death_of_the_process_counts_as_an_attempt(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    # A process that dies leaves its ledger entry, as `begin` without an end does.
    for _ in range(2):
        worker._ledger.begin(checked[0].ref)
    outcome = worker.run(checked[0])
    assert (outcome.status, outcome.attempts) == ("quarantined", 2)
    assert "the scoring process died" in outcome.error
    assert script.calls == []


def test_run_next_checkpoint_is_made_ready_while_one_is_scored(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    scoring, ready = threading.Event(), threading.Event()
    inspect = inspection.inspect

    def wait_for_the_next(verb: str, folder: Path) -> None:
        Script.note(script, verb, folder)
        if verb == "score" and folder.name == "step-1":
            scoring.set()
            assert ready.wait(60), "step 2 was not looked at while step 1 was scored"

    def inspect_and_tell(ref: CheckpointRef, folder: Path) -> Preflight:
        found = inspect(ref, folder)
        if ref.step == 2:
            ready.set()
        return found

    script.note = wait_for_the_next  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(inspection, "inspect", inspect_and_tell)
        first = pool.submit(worker.run, checked[0])
        assert scoring.wait(60)
        second = pool.submit(worker.run, checked[1])
        assert [future.result().status for future in (first, second)] == ["done", "done"]
    assert script.calls == [("start", 1), ("score", 1), ("load", 2), ("score", 2)]


def test_run_every_log_line_names_its_checkpoint(
    worker: Worker,
    checked: list[Pending],
    script: Script,
    log_lines: Callable[[], list[dict[str, Any]]],
) -> None:
    script.failures["load", 2] = [EngineError("stale")]
    turn_taken = threading.Semaphore(0)

    def inspect_and_tell(ref: CheckpointRef, folder: Path) -> Preflight:
        turn_taken.release()
        return inspect(ref, folder)

    inspect = inspection.inspect
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(inspection, "inspect", inspect_and_tell)
        scored = []
        for item in checked:
            scored.append(pool.submit(worker.run, item))
            assert turn_taken.acquire(timeout=60)
        assert [future.result().status for future in scored] == ["done"] * 4
    lines = log_lines()
    by_step = {
        step: [line["message"] for line in lines if line["step"] == step] for step in (1, 2, 3, 4)
    }
    assert {line["suite"] for line in lines} == {checked[0].ref.suite}
    assert {line["run"] for line in lines if line["step"] == 4} == {checked[3].ref.run}
    begin, end = ["stage", "inspect", "tokenise"], ["score", "write"]
    assert by_step[1] == [*begin, "engine_start", *end]
    assert by_step[2] == [*begin, "swap", "engine failed: stale", "engine_start", *end]
    assert by_step[3] == [*begin, "swap", *end]
    assert all(line["seconds"] >= 0 for line in lines if line["message"] == "swap")


def test_run_leaves_what_another_job_has_done(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    worker.run(checked[0])
    again = worker.run(checked[0])
    assert (again.status, again.engine, again.tokens) == ("done", "", 0)
    assert script.calls == [("start", 1), ("score", 1)]


def test_run_config_that_changed_since_it_was_listed_is_quarantined(
    worker: Worker, checked: list[Pending], script: Script
) -> None:
    outcome = worker.run(replace(checked[0], config_hash="0" * 16, earlier_attempts=3))
    assert (outcome.status, outcome.attempts) == ("quarantined", 4)
    assert "config.json changed while this ran" in outcome.error
    assert script.calls == []
