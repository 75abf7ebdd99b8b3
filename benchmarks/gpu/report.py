"""What a step of the GPU check tells: rows of numbers, written as soon as they are measured."""

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

    `rate` is in tokens, samples or bytes a second, as `unit` says; `share` that of the card's
    measured matrix rate; `difference` and `mean_difference` those of log-probabilities, in nats.
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
    """The result file of a step: `{"rows": [...], "errors": [...]}`, always whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, object]] = []
        self.errors: list[str] = []
        self._write()

    def add(self, row: Row) -> None:
        """Keeps a row, whatever happens to this process afterwards."""
        self._rows.append({k: v for k, v in asdict(row).items() if v not in (None, "")})
        self._write()

    def fail(self, message: str) -> None:
        """Keeps a failure and its reason."""
        self.errors.append(message)
        self._write()

    @contextlib.contextmanager
    def case(self, what: str) -> Iterator[None]:
        """The block's exception becomes a failure with its reason, and the step goes on."""
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
    """The kind of an error and the first line of its message, at most 300 characters."""
    text = str(error).strip() or "without a message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"[:300]


class Turns:
    """Lets steps that were started together measure one after the other.

    Starting an engine takes much longer than measuring it. `folder` is shared by the steps
    `names`, of which this is `name`; the driver leaves NAME.ended there when a step has ended.
    """

    def __init__(self, folder: Path, name: str, names: Sequence[str]) -> None:
        self._folder, self._name, self._names = folder, name, names

    def ready(self) -> None:
        """Waits until the others have started, too, or have ended."""
        (self._folder / f"{self._name}.ready").touch()
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and not all(map(self._is_settled, self._names)):
            time.sleep(0.05)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else of them is in this block at the same time."""
        with (self._folder / "turn").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _is_settled(self, name: str) -> bool:
        return any((self._folder / f"{name}.{state}").exists() for state in ("ready", "ended"))


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a step works: `work` holds models and references, which steps leave to later ones."""

    name: str
    work: Path
    dry_run: bool
    report: Report
    turns: Turns

    @property
    def device(self) -> str:
        """`cuda`, or `cpu` in a dry run and where there is no GPU."""
        import torch

        return "cuda" if torch.cuda.is_available() and not self.dry_run else "cpu"

    @property
    def matrix_rate(self) -> float | None:
        """FLOP/s that the step `card` measured."""
        path = self.work / "matrix_rate"
        return float(path.read_text()) if path.exists() else None

    def share(self, params: float, tokens_per_s: float) -> float | None:
        """Of the matrix rate, at 2 FLOPs a parameter and token."""
        return 2 * params * tokens_per_s / self.matrix_rate if self.matrix_rate else None


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
