"""Staging: checkpoints from S3 or a hub on local disk while they are scored, within a budget.

The processes of a node share a folder, which has a folder for each checkpoint:

    .lock            held briefly, whenever a process looks at the others
    <digest>/lock    held by the process that stages or uses the checkpoint
             bytes   the most disk space it may take
             part/   files that have arrived, each whole
             whole/  the checkpoint, once all of it has arrived

A free lock shows what a killed process left. It counts towards the budget until the space is
needed, and the next process to stage that checkpoint resumes from its files.
"""

import errno
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from filelock import FileLock, Timeout

from neuneu.core import logs
from neuneu.core.errors import CheckpointError, TransientError
from neuneu.core.files import parse_mapping, write_text_atomic
from neuneu.data.checkpoints import CheckpointRef, StoredFile
from neuneu.scoring.checkpoints import dcp, hf_olmo
from neuneu.scoring.checkpoints.sources import fetch, list_files, read_small
from neuneu.scoring.checkpoints.weights import (
    INDEX_FILE,
    PICKLED_INDEX,
    is_pickled,
    replace_pickled,
)

T = TypeVar("T")

_log = logging.getLogger(__name__)
_FILES_AT_ONCE: Final = 4
_POLL_S: Final = 0.5
_MAX_WAIT_S: Final = 30.0
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SMALL: Final = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
}  # fmt: skip
_ENTRY: Final = re.compile(r"[0-9a-f]{24}")
_WEIGHTS: Final = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A checkpoint on local disk: `bytes_moved` came over the network in `seconds`."""

    folder: Path
    bytes_moved: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Plan:
    files: dict[str, StoredFile]
    pickled: bool
    distributed: bool
    linked: bool
    old_format: bool
    padding_bytes: int

    @property
    def is_converted(self) -> bool:
        return self.pickled or self.distributed or self.old_format

    @property
    def n_bytes(self) -> int:
        """The most disk space it takes: a conversion has its input beside its output."""
        size = sum(file.size for file in self.files.values())
        copied = self.is_converted and not self.linked
        return 2 * size + self.padding_bytes if copied else size


class Stager:
    """Stages checkpoints into a folder that several processes and threads share.

    A checkpoint on local disk that needs no conversion is used where it is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        budget_bytes: int,
        attempts: int = 4,
        wait_s: float = 1.0,
        allow_pickle: bool = False,
        space_timeout_s: float = 3600.0,
        run: Callable[..., Any] = lambda function, *args: function(*args),
    ) -> None:
        """Name the folder; it is created when needed.

        Args:
            folder: on local disk.
            budget_bytes: the most that all checkpoints in it may take.
            attempts: the most attempts at a file.
            wait_s: seconds before the second attempt; they double.
            allow_pickle: convert checkpoints that have only pickled weights.
            space_timeout_s: how long to wait until others free space.
            run: calls a conversion, which reads untrusted files, with its folders.
        """
        self._folder = folder
        self._budget = budget_bytes
        self._retried = partial(_retried, attempts=attempts, wait_s=wait_s)
        self._allow_pickle = allow_pickle
        self._space_timeout_s = space_timeout_s
        self._run = run

    @contextmanager
    def stage(self, ref: CheckpointRef) -> Iterator[Staged]:
        """Yield a checkpoint on local disk; its space is freed after the block.

        Raises:
            CheckpointError: it is missing, incomplete, unusable, or larger than the budget.
            TransientError: its store failed although retried, or no space became free in time;
                what was copied is kept for the next attempt.
            OSError: the disk is full.
        """
        started = time.perf_counter()
        plan = self._plan(ref)
        if "://" not in ref.uri and not plan.is_converted:
            yield Staged(folder=Path(ref.uri), bytes_moved=0, seconds=0.0)
            return
        entry = self._folder / _digest(ref)
        lock = self._reserve(entry, plan, ref)
        keep = False
        try:
            moved = self._fill(entry, plan, ref)
            seconds = time.perf_counter() - started
            yield Staged(folder=entry / "whole", bytes_moved=moved, seconds=seconds)
        except TransientError:
            keep = not (entry / "whole").exists()
            raise
        finally:
            with self._alone():
                try:
                    if not keep:
                        shutil.rmtree(entry)
                finally:
                    lock.release()

    def _alone(self) -> FileLock:
        return FileLock(self._folder / ".lock")

    def _plan(self, ref: CheckpointRef) -> _Plan:
        found = self._retried(lambda: list_files(ref))
        if "config.json" not in found:
            raise CheckpointError(f"{ref.uri}: expected config.json, found {sorted(found)[:5]}.")
        weights = [name for name in found if _WEIGHTS.fullmatch(name)]
        pickled = [name for name in found if is_pickled(name)]
        distributed = [] if weights else dcp.files(found)
        if not weights and not distributed and not (pickled and self._allow_pickle):
            what = f"pickled weights ({pickled[0]})" if pickled else "no weights"
            advice = "set allow_pickle to convert them" if pickled else "save the checkpoint again"
            raise CheckpointError(f"{ref.uri}: expected safetensors, found {what}; {advice}.")
        names = [*weights, INDEX_FILE] if weights else distributed or [*pickled, PICKLED_INDEX]
        wanted = _SMALL.union(names)
        content = self._retried(lambda: read_small(ref, "config.json"))
        config = parse_mapping(content, "config.json")
        old_format = config.get("model_type") == hf_olmo.MODEL_TYPE
        return _Plan(
            files={name: file for name, file in found.items() if name in wanted},
            pickled=not weights and not distributed,
            distributed=bool(distributed),
            # Most of it may be the optimizer's, which need not be copied to be left out.
            linked=bool(distributed) and "://" not in ref.uri,
            old_format=old_format,
            # This also refuses a config before anything large is copied.
            padding_bytes=hf_olmo.padding_bytes(config) if old_format else 0,
        )

    def _reserve(self, entry: Path, plan: _Plan, ref: CheckpointRef) -> FileLock:
        """Wait for space, record how much is taken, and return the checkpoint's lock, held."""
        if plan.n_bytes > self._budget:
            raise CheckpointError(
                f"{ref.uri}: needs {_gb(plan.n_bytes)} of staging space; the budget is "
                f"{_gb(self._budget)}; give more (staging_gb)."
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self._space_timeout_s
        waiting = False
        while True:
            with self._alone():
                lock = _try_lock(entry)
                if lock is not None:
                    if self._make_room(entry, plan.n_bytes):
                        write_text_atomic(entry / "bytes", str(plan.n_bytes))
                        return lock
                    if not (entry / "bytes").exists():
                        shutil.rmtree(entry)
                    lock.release()
            if not waiting:
                waiting = True
                _log.info("waiting for staging space", extra={"bytes": plan.n_bytes})
            if time.monotonic() >= deadline:
                raise TransientError(
                    f"{ref.uri}: no staging space of {_gb(plan.n_bytes)} within "
                    f"{self._space_timeout_s:g} s: other checkpoints hold it, or this one is "
                    f"in use; give more than {_gb(self._budget)} (staging_gb)."
                )
            time.sleep(_POLL_S)

    def _make_room(self, entry: Path, need: int) -> bool:
        """Remove unused checkpoints, oldest first, if that makes enough room."""
        idle: dict[Path, int] = {}
        held = 0
        found = (path for path in self._folder.iterdir() if _ENTRY.fullmatch(path.name))
        for path in sorted(found, key=lambda path: path.stat().st_mtime):
            if path == entry:
                continue
            lock = _try_lock(path)
            record = path / "bytes"
            if lock is None:
                held += int(record.read_text())
                continue
            if record.exists():
                idle[path] = int(record.read_text())
            else:  # an interrupted removal
                shutil.rmtree(path)
            lock.release()
        if held + need > self._budget:
            return False
        taken = held + sum(idle.values())
        for path, size in idle.items():
            if taken + need <= self._budget:
                break
            shutil.rmtree(path)
            taken -= size
        return True

    def _fill(self, entry: Path, plan: _Plan, ref: CheckpointRef) -> int:
        """Bring the checkpoint into `whole`; return how many bytes were copied."""
        part, whole = entry / "part", entry / "whole"
        if whole.exists():  # left by a killed process; a converted one cannot be compared
            if plan.is_converted:
                shutil.rmtree(whole)
            else:
                whole.rename(part)
        part.mkdir(exist_ok=True)
        try:
            moved = self._copy(part, plan, ref)
            if plan.pickled:
                self._run(replace_pickled, part)
            if plan.distributed or plan.old_format:
                converted = entry / "converted"
                shutil.rmtree(converted, ignore_errors=True)
                convert = dcp.convert if plan.distributed else hf_olmo.convert
                self._run(convert, part, converted)
                shutil.rmtree(part)
                part = converted
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise OSError(
                    error.errno,
                    f"{self._folder}: the disk is full while staging {ref.uri} "
                    f"({_gb(plan.n_bytes)}); free space, or lower staging_gb below what is free",
                ) from error
            raise
        part.rename(whole)
        return moved

    def _copy(self, part: Path, plan: _Plan, ref: CheckpointRef) -> int:
        for path in part.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in plan.files or _difference(path, plan.files[path.name]):
                path.unlink()
        missing = {name: file for name, file in plan.files.items() if not (part / name).exists()}

        def copy(name: str) -> None:
            if plan.linked:
                (part / name).symlink_to(Path(ref.uri, name).resolve())
                return
            self._retried(lambda: fetch(ref, name, part))
            if difference := _difference(part / name, missing[name]):
                (part / name).unlink()
                raise CheckpointError(f"{ref.uri}/{name}: {difference}; save it again.")

        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(logs.carried(copy), missing))
        shutil.rmtree(part / ".cache", ignore_errors=True)
        return 0 if plan.linked else sum(file.size for file in missing.values())


def _retried(action: Callable[[], T], *, attempts: int, wait_s: float) -> T:
    """Call an action, again after a `TransientError`; waits double up to 30 s.

    Raises:
        TransientError: the last attempt failed, too.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return action()
        except TransientError as error:
            if attempt >= attempts:
                raise TransientError(f"{error} Tried {attempts} times.") from error
            wait = min(wait_s * 2 ** (attempt - 1), _MAX_WAIT_S)
            _log.info("retrying: %s", error, extra={"attempt": attempt, "wait_s": wait})
            time.sleep(wait)


def _digest(ref: CheckpointRef) -> str:
    return hashlib.sha256(f"{ref.uri}\0{ref.revision or ''}".encode()).hexdigest()[:24]


def _try_lock(entry: Path) -> FileLock | None:
    """Return a checkpoint's lock unless it is held; call it while holding the folder's lock."""
    entry.mkdir(exist_ok=True)
    lock = FileLock(entry / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _difference(path: Path, expected: StoredFile) -> str:
    """Describe how a file differs from what its store lists; empty if it does not."""
    size = path.stat().st_size
    if size != expected.size:
        return f"expected {expected.size} bytes, found {size}"
    if expected.sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected.sha256:
            return f"expected SHA-256 {expected.sha256[:12]}..., found {found[:12]}..."
    return ""


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g} GB"
