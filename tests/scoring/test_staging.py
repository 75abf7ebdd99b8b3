"""Staging: whole checkpoints or none, within the budget, whatever stores and processes do."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from s3_server import S3Server
from staging_cases import contents, ref_of, stager
from tiny_checkpoints import save_model

from neuneu.core import logs
from neuneu.core.errors import CheckpointError, TransientError
from neuneu.core.storage import Folder
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.preflight import inspect

CONFIG = b'{"model_type": "llama"}'
FILES = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "model-00001-of-00002.safetensors": os.urandom(6000),
    "model-00002-of-00002.safetensors": os.urandom(4000),
    "model.safetensors.index.json": b'{"weight_map": {}}',
}
OTHERS = {"README.md": b"hello", "modeling.py": b"import os", "pytorch_model.bin": bytes(3000)}
SIZE = sum(map(len, FILES.values()))


def on_hub(hub: HubServer, name: str = "m", **changes: bytes) -> CheckpointRef:
    revision = hub.add(f"org/{name}", "step1", FILES | OTHERS | changes)
    return ref_of(f"hf://org/{name}@step1", revision)


def on_s3(s3: S3Server) -> CheckpointRef:
    folder = Folder(f"s3://{s3.bucket}/run/step-1")
    for name, content in (FILES | OTHERS).items():
        folder.write(name, content)
    return ref_of(folder.address)


def staged_bytes(folder: Path) -> int:
    """What lies in the staging folder, other than locks and notes."""
    found = 0
    for parent, _, names in os.walk(folder / "staging"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += (
                    0 if name in {".lock", "lock", "bytes"} else Path(parent, name).stat().st_size
                )
    return found


def test_local_checkpoint_is_used_in_place(tmp_path: Path) -> None:
    save_model(tmp_path / "c", tied=False, seed=0)
    with stager(tmp_path, budget_bytes=1).stage(ref_of(tmp_path / "c")) as staged:
        assert staged.folder == tmp_path / "c"
        assert staged.bytes_moved == 0
    assert inspect(ref_of(tmp_path / "c")).architecture == "LlamaForCausalLM"
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("kind", ["hub", "s3"])
def test_remote_checkpoint_is_copied_and_removed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = request.getfixturevalue(kind)
    ref = on_hub(server) if kind == "hub" else on_s3(server)
    with stager(tmp_path).stage(ref) as staged:
        assert contents(staged.folder) == FILES
        assert staged.bytes_moved == SIZE
        assert staged.seconds > 0
    assert not list((tmp_path / "staging").glob("*/"))


def test_s3_that_fails_for_a_while_is_waited_for(s3: S3Server, tmp_path: Path) -> None:
    ref = on_s3(s3)
    s3.fail_with_503(2)
    s3.cut_after(1000, times=2)
    with stager(tmp_path).stage(ref) as staged:
        assert contents(staged.folder) == FILES


def test_hub_that_fails_for_a_while_is_waited_for(hub: HubServer, tmp_path: Path) -> None:
    ref = on_hub(hub)
    hub.fail_with_503(2)
    hub.cut_after(1000, times=1)
    with stager(tmp_path).stage(ref) as staged:
        assert contents(staged.folder) == FILES


def test_each_time_a_store_is_asked_again_is_logged_with_the_checkpoint(
    hub: HubServer, tmp_path: Path, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    ref = on_hub(hub)
    hub.fail_with_503(10**6, path="store:model-00002-of-00002.safetensors")
    with (
        pytest.raises(TransientError),
        logs.checkpoint(*ref.key),
        stager(tmp_path, attempts=2).stage(ref),
    ):
        pass
    (line,) = (line for line in log_lines() if line["message"].startswith("retrying: "))
    assert "00002.safetensors of org/m" in line["message"]
    assert (line["suite"], line["run"], line["step"], line["attempt"]) == (*ref.key, 1)


def test_hub_that_stays_busy_is_transient_and_the_next_try_goes_on(
    hub: HubServer, tmp_path: Path
) -> None:
    ref = on_hub(hub)
    second = "model-00002-of-00002.safetensors"
    hub.fail_with_503(10**6, path=f"store:{second}")
    with (
        pytest.raises(TransientError, match=r"00002.safetensors of org/m .*Tried 2 times\."),
        stager(tmp_path, attempts=2).stage(ref),
    ):
        pass
    hub.fail_with_503(0)
    with stager(tmp_path).stage(ref) as staged:
        assert contents(staged.folder) == FILES
        assert staged.bytes_moved == len(FILES[second])


def test_changed_leftover_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    ref = on_hub(hub)
    hub.fail_with_503(10**6, path="store:model-00002")
    with pytest.raises(TransientError), stager(tmp_path, attempts=1).stage(ref):
        pass
    hub.fail_with_503(0)
    (first,) = (tmp_path / "staging").glob("*/part/model-00001*")
    first.write_bytes(os.urandom(first.stat().st_size))
    (first.parent / "stray.safetensors").write_bytes(b"x")
    with stager(tmp_path).stage(ref) as staged:
        assert contents(staged.folder) == FILES


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("tell_wrong_size", r"00001-of-00002.safetensors: expected 6001 bytes, found 6000"),
        ("tell_wrong_hash", r"00001-of-00002.safetensors: expected SHA-256 \w{12}..., found \w"),
    ],
)
def test_file_that_is_not_as_listed_is_refused_at_once(
    hub: HubServer, tmp_path: Path, fault: str, message: str
) -> None:
    ref = on_hub(hub)
    getattr(hub, fault)("model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=message) as refused, stager(tmp_path).stage(ref):
        pass
    assert not isinstance(refused.value, TransientError)
    assert hub.count("GET", "store:model-00001") == 1
    assert not list((tmp_path / "staging").glob("*/"))


def test_checkpoint_that_is_not_there_is_refused_at_once(hub: HubServer, tmp_path: Path) -> None:
    on_hub(hub)
    with (
        pytest.raises(CheckpointError, match="org/m at step2: not found on the hub"),
        stager(tmp_path).stage(ref_of("hf://org/m@step2")),
    ):
        pass
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("config.json", r"expected config.json, found \['README"),
        ("safetensors", r"found pickled weights \(pytorch_model.bin\); set allow_pickle"),
        ("model", "expected safetensors, found no weights; save the checkpoint again"),
    ],
)
def test_folder_that_is_no_checkpoint_is_refused(
    hub: HubServer, tmp_path: Path, without: str, message: str
) -> None:
    files = {k: v for k, v in (FILES | OTHERS).items() if not ("safetensors" in k or without in k)}
    if without == "model":
        files.pop("pytorch_model.bin", None)
    revision = hub.add("org/m", "step1", files)
    with (
        pytest.raises(CheckpointError, match=message),
        stager(tmp_path).stage(ref_of("hf://org/m@step1", revision)),
    ):
        pass


def test_checkpoint_larger_than_the_budget_is_refused(hub: HubServer, tmp_path: Path) -> None:
    ref = on_hub(hub)
    with stager(tmp_path, budget_bytes=SIZE).stage(ref) as staged:
        assert staged.bytes_moved == SIZE
    with (
        pytest.raises(CheckpointError, match=r"needs .* GB of staging space; the budget is .*"),
        stager(tmp_path, budget_bytes=SIZE - 1).stage(ref),
    ):
        pass


def test_space_in_use_is_waited_for_until_the_deadline(hub: HubServer, tmp_path: Path) -> None:
    first, second = on_hub(hub, "a"), on_hub(hub, "b")
    both = stager(tmp_path, budget_bytes=2 * SIZE - 1)
    with both.stage(first) as staged:
        with (
            pytest.raises(TransientError, match=r"org/b.*no staging space"),
            both.stage(second),
        ):
            pass
        assert contents(staged.folder) == FILES
    with both.stage(second) as staged:
        assert contents(staged.folder) == FILES


def test_waiting_checkpoint_gets_space_that_is_given_back(hub: HubServer, tmp_path: Path) -> None:
    refs = [on_hub(hub, name) for name in "abcde"]
    patient = stager(tmp_path, budget_bytes=2 * SIZE, space_timeout_s=60)
    most, done, inside = [0], [], []
    finished = threading.Event()

    def work(ref: CheckpointRef) -> None:
        with patient.stage(ref) as staged:
            inside.append(len(list((tmp_path / "staging").glob("*/whole"))))
            time.sleep(0.05)
            done.append(contents(staged.folder) == FILES)

    def watch() -> None:
        while not finished.is_set():
            most[0] = max(most[0], staged_bytes(tmp_path))

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=work, args=(ref,)) for ref in refs]
    for thread in (watcher, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    finished.set()
    watcher.join()
    assert done == [True] * 5
    assert max(inside) <= 2
    # The cache folder of huggingface_hub holds some notes of a few hundred bytes a file.
    assert SIZE <= most[0] <= 2 * SIZE + 5000


def test_same_checkpoint_is_staged_by_one_at_a_time(hub: HubServer, tmp_path: Path) -> None:
    ref = on_hub(hub)
    with (
        stager(tmp_path).stage(ref),
        pytest.raises(TransientError, match="or this one is in use"),
        stager(tmp_path).stage(ref),
    ):
        pass


def test_error_of_the_user_of_a_checkpoint_gives_its_space_back(
    hub: HubServer, tmp_path: Path
) -> None:
    def score() -> None:
        with stager(tmp_path).stage(on_hub(hub)):
            raise TransientError("of something else")

    with pytest.raises(TransientError, match="of something else"):
        score()
    assert not list((tmp_path / "staging").glob("*/"))


HOLD = """
import sys, time
from pathlib import Path
import huggingface_hub.constants
huggingface_hub.constants.HF_HUB_OFFLINE = False
from neuneu.core import logs
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.staging import Stager
ref = CheckpointRef(family="f", suite="s", run="r", params=1.0, step=1, tokens=1.0, flops=6.0,
                    planned_tokens=None, uri=sys.argv[2], revision=sys.argv[3])
with Stager(Path(sys.argv[1]), budget_bytes=10**9).stage(ref):
    print("holding", flush=True)
    time.sleep(600)
"""


def hold(folder: Path, ref: CheckpointRef) -> subprocess.Popen[str]:
    """Another process that has a checkpoint staged until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / "staging"), ref.uri, str(ref.revision)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_leftover_of_a_killed_process_is_used_or_reclaimed(hub: HubServer, tmp_path: Path) -> None:
    first, second = on_hub(hub, "a"), on_hub(hub, "b")
    one_at_a_time = stager(tmp_path, budget_bytes=SIZE)
    process = hold(tmp_path, first)
    try:
        with pytest.raises(TransientError), one_at_a_time.stage(second):
            pass
        assert staged_bytes(tmp_path) >= SIZE
    finally:
        kill(process)
    assert staged_bytes(tmp_path) >= SIZE
    with stager(tmp_path).stage(first) as staged:
        assert staged.bytes_moved == 0
        assert contents(staged.folder) == FILES
    kill(hold(tmp_path, first))
    with one_at_a_time.stage(second) as staged:
        assert staged.bytes_moved == SIZE
        assert len(list((tmp_path / "staging").glob("*/whole"))) == 1
    assert staged_bytes(tmp_path) == 0


def test_interrupted_removal_is_finished(hub: HubServer, tmp_path: Path) -> None:
    kill(hold(tmp_path, on_hub(hub, "a")))
    (entry,) = (tmp_path / "staging").glob("*/")
    (entry / "bytes").unlink()
    with stager(tmp_path, budget_bytes=SIZE).stage(on_hub(hub, "b")):
        assert not entry.exists()


def test_what_is_not_ours_in_the_folder_stays(hub: HubServer, tmp_path: Path) -> None:
    other = tmp_path / "staging" / "notes"
    other.mkdir(parents=True)
    (other / "bytes").write_text("999999999")
    with stager(tmp_path, budget_bytes=SIZE).stage(on_hub(hub)):
        pass
    assert (other / "bytes").exists()


def test_full_disk_is_neither_the_checkpoints_nor_the_networks_fault(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ref = on_hub(hub)
    monkeypatch.setattr("neuneu.scoring.checkpoints.hub.download", full)
    with (
        pytest.raises(OSError, match=r"the disk is full while staging hf://org/m@step1") as error,
        stager(tmp_path).stage(ref),
    ):
        pass
    assert not isinstance(error.value, CheckpointError)
    assert not list((tmp_path / "staging").glob("*/"))
