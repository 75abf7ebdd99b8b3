"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from neuneu.core.files import atomic_path, write_text_atomic


def test_atomic_path_success_replaces_old_content(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    write_text_atomic(target, "old")
    write_text_atomic(target, "new")
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_atomic_path_exception_keeps_old_content_and_no_debris(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        write_half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
