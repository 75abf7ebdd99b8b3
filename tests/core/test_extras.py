"""Optional packages."""

from pathlib import Path

import pytest

from neuneu.core.errors import UserError
from neuneu.core.extras import require


def test_folder_of_a_packages_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "neuneu_none").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"tracking needs neuneu_none: pip install 'neuneu\[wandb\]'"
    ):
        require("tracking", "neuneu_none", extra="wandb")
    require("tracking", "json", extra="wandb")
