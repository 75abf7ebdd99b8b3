"""Packages for a machine without a network: what is carried, in parts, and put together again."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from gpu import offline


def wheel(path: Path, files: dict[str, bytes], *, executable: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            item = zipfile.ZipInfo(name)
            item.external_attr = (0o755 if name == executable else 0o644) << 16
            archive.writestr(item, content)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Parts of 2,000 bytes of a package `demo` that wants a package that is nowhere."""
    tree, folder = tmp_path / "tree", tmp_path / "parts"
    files = {
        "demo/__init__.py": b"NUMBER = 7\n",
        "demo/data.bin": os.urandom(5000),
        "demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"
        b"Requires-Dist: nowhere-to-be-found>=2\nRequires-Dist: tilelang\n",
    }
    offline.unpack(wheel(tmp_path / "demo-1.0-py3-none-any.whl", files), tree)
    archive = tmp_path / "archive.tar.xz"
    offline.pack(tree, archive)
    folder.mkdir()
    offline.write_installer(offline.split(archive, folder, 2000), folder)
    return folder


def install(parts: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(parts / "install.py"), *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_installer_parts_in_order_give_the_packages(parts: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in parts.glob("part-*"))
    assert names == ["part-00", "part-01", "part-02"]
    joined, target = tmp_path / "far/joined.tar.xz", tmp_path / "packages"
    for name in ("part-00", "part-01", "part-01", "part-02"):
        assert install(parts, "add", parts / name, joined).returncode == 0
    done = install(parts, "unpack", joined, target)
    assert done.returncode == 0, done.stderr
    assert "1 packages" in done.stdout
    assert "demo wants nowhere-to-be-found>=2; found none." in done.stdout
    assert "tilelang" not in done.stdout
    code = "import demo, importlib.metadata as m; print(demo.NUMBER, m.version('demo'))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(target)},
    )  # fmt: skip
    assert found.stdout.split() == ["7", "1.0"]


def test_installer_damaged_part_is_refused(parts: Path, tmp_path: Path) -> None:
    data = bytearray((parts / "part-00").read_bytes())
    data[100] ^= 1
    (parts / "part-00").write_bytes(data)
    done = install(parts, "add", parts / "part-00", tmp_path / "joined")
    assert done.returncode != 0
    assert "transfer it again" in done.stderr
    assert not (tmp_path / "joined").exists()


def test_installer_part_before_its_turn_is_refused(parts: Path, tmp_path: Path) -> None:
    done = install(parts, "add", parts / "part-01", tmp_path / "joined")
    assert done.returncode != 0
    assert "part-01 begins at 2,000" in done.stderr


def test_installer_interrupted_addition_is_repaired(parts: Path, tmp_path: Path) -> None:
    joined = tmp_path / "joined"
    install(parts, "add", parts / "part-00", joined)
    with joined.open("ab") as file:
        file.write(b"half of part-01")
    for name in ("part-01", "part-02"):
        assert install(parts, "add", parts / name, joined).returncode == 0
    assert install(parts, "unpack", joined, tmp_path / "packages").returncode == 0


def test_installer_without_all_parts_unpacks_nothing(parts: Path, tmp_path: Path) -> None:
    install(parts, "add", parts / "part-00", tmp_path / "joined")
    done = install(parts, "unpack", tmp_path / "joined", tmp_path / "packages")
    assert done.returncode != 0
    assert "add all parts" in done.stderr
    assert not (tmp_path / "packages").exists()


def test_unpack_leaves_out_what_is_dropped_and_keeps_programs_executable(tmp_path: Path) -> None:
    files = {
        "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so": b"",
        "vllm/_C.abi3.so": b"code",
        "ray/core/src/ray/raylet/raylet": b"program",
        "ray/jars/ray_dist.jar": b"",
        "demo-1.data/purelib/demo/pure.py": b"",
        "demo-1.data/scripts/demo": b"",
    }
    path = wheel(tmp_path / "a.whl", files, executable="ray/core/src/ray/raylet/raylet")
    offline.unpack(path, tmp_path / "tree")
    found = {str(p.relative_to(tmp_path / "tree")): os.access(p, os.X_OK)
             for p in (tmp_path / "tree").rglob("*") if p.is_file()}  # fmt: skip
    assert found == {
        "vllm/_C.abi3.so": False,
        "ray/core/src/ray/raylet/raylet": True,
        "demo/pure.py": False,
    }


def test_read_installed_names_and_versions() -> None:
    text = "# there\nTorch==2.11.0\nhuggingface_hub\n\nray.x == 1  # seen\n"
    found = offline.read_installed(text)
    assert found == {"torch": "2.11.0", "huggingface-hub": None, "ray-x": "1"}
    with pytest.raises(ValueError, match="expected NAME"):
        offline.read_installed("torch>=2")


def test_split_manifest_covers_the_archive(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(bytes(range(10)))
    manifest = offline.split(tmp_path / "archive", tmp_path, 4)
    assert [(p["offset"], p["size"]) for p in manifest["parts"]] == [(0, 4), (4, 4), (8, 2)]
    assert (tmp_path / "part-02").read_bytes() == b"\x08\x09"
    assert json.loads(json.dumps(manifest)) == manifest
