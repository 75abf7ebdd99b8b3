"""Results of a step of the GPU check, written as soon as they are measured."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from neuneu.core.files import write_text_atomic

_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured case.

    `rate` is in tokens, samples or bytes per second (`unit`), `share` a fraction of the measured
    matrix rate; `difference` and `mean_difference` are of log-probabilities, in nats.
    """

    what: str
    rate: float | None = None
    unit: str = "tokens/s"
    share: float | None = None
    difference: float | None = None
    mean_difference: float | None = None
    seconds: float | None = None
    note: str = ""


class Report:
    """The result file of a step, `{"rows": [...], "errors": [...]}`, always complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, object]] = []
        self.errors: list[str] = []
        self._write()

    def add(self, row: Row) -> None:
        """Save a row, whatever happens to this process afterwards."""
        self._rows.append({k: v for k, v in asdict(row).items() if v not in (None, "")})
        self._write()

    def fail(self, message: str) -> None:
        """Save a failure and its reason."""
        self.errors.append(message)
        self._write()

    @contextlib.contextmanager
    def case(self, what: str) -> Iterator[None]:
        """Turn an exception in the block into a failure; the step continues."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a check goes on whatever fails
            import traceback

            traceback.print_exc()
            self.fail(f"{what}: {first_line(error)}")

    def _write(self) -> None:
        content = {"rows": self._rows, "errors": self.errors}
        write_text_atomic(self._path, json.dumps(content, indent=1) + "\n")


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message, at most 300 characters."""
    text = str(error).strip() or "without a message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"[:300]


class Turns:
    """Lets steps that start together measure one after the other.

    Starting an engine takes much longer than measuring it. The steps `names`, one of which is
    `name`, share `folder`; the driver creates NAME.ended there when a step ends.
    """

    def __init__(self, folder: Path, name: str, names: Sequence[str]) -> None:
        self._folder, self._name, self._names = folder, name, names

    def ready(self) -> None:
        """Wait until the others have started, too, or have ended."""
        (self._folder / f"{self._name}.ready").touch()
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and not all(map(self._is_settled, self._names)):
            time.sleep(0.05)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a lock, so that only one of the steps is in this block."""
        with (self._folder / "turn").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _is_settled(self, name: str) -> bool:
        return any((self._folder / f"{name}.{state}").exists() for state in ("ready", "ended"))


@dataclass(frozen=True, kw_only=True)
class Context:
    """Settings of a step; `work` has models and reference values for later steps."""

    name: str
    work: Path
    dry_run: bool
    report: Report
    turns: Turns

    @property
    def device(self) -> str:
        """`cuda`, or `cpu` in a dry run or without a GPU."""
        import torch

        return "cuda" if torch.cuda.is_available() and not self.dry_run else "cpu"

    @property
    def matrix_rate(self) -> float | None:
        """FLOP/s measured by the step `card`."""
        path = self.work / "matrix_rate"
        return float(path.read_text()) if path.exists() else None

    def share(self, params: float, tokens_per_s: float) -> float | None:
        """Return the fraction of the matrix rate, at 2 FLOPs per parameter and token."""
        return 2 * params * tokens_per_s / self.matrix_rate if self.matrix_rate else None


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
