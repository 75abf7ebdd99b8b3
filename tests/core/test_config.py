"""Configs: overrides, unknown keys, resolved copies."""

from pathlib import Path

import pytest

from neuneu.core.config import (
    build_config,
    config_dataclass,
    config_hash,
    config_to_dict,
    load_config,
    save_config,
)
from neuneu.core.errors import UserError


@config_dataclass
class Optimiser:
    learning_rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)


@config_dataclass
class Job:
    output: Path = Path("runs/x")
    optimiser: Optimiser = Optimiser()
    limit: int | None = None


def test_load_config_file_then_overrides_override_wins(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("limit: 3\noptimiser:\n  learning_rate: 0.1\n")
    job = load_config(Job, path, ["optimiser.learning_rate=2e-4", "optimiser.betas=[0.5, 0.6]"])
    assert job == Job(limit=3, optimiser=Optimiser(learning_rate=2e-4, betas=(0.5, 0.6)))


def test_build_config_unknown_key_names_nearest() -> None:
    with pytest.raises(UserError, match=r"optimiser.learning_rat.*did you mean 'optimiser.learn"):
        build_config(Job, {"optimiser": {"learning_rat": 1}})
    with pytest.raises(UserError, match="unknown key 'limits'; did you mean 'limit'"):
        build_config(Job, {"limits": 1})


def test_build_config_wrong_type_says_found() -> None:
    with pytest.raises(UserError, match=r"limit: .*found 'many'"):
        build_config(Job, {"limit": "many"})


@pytest.mark.parametrize("override", ["limit", "=3", "a..b=1", "output.x=1"])
def test_load_config_malformed_override_is_user_error(override: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("output: here\n")
    with pytest.raises(UserError, match=r"--set"):
        load_config(Job, path, [override])


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n"])
def test_load_config_not_a_mapping_is_user_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="expected"):
        load_config(Job, path)


def test_load_config_absent_file_is_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_config(Job, tmp_path / "none.yaml")


def test_save_config_round_trip_keeps_value_and_hash(tmp_path: Path) -> None:
    job = Job(limit=7)
    save_config(job, tmp_path / "resolved.yaml")
    again = load_config(Job, tmp_path / "resolved.yaml")
    assert again == job
    assert config_hash(again) == config_hash(job) != config_hash(Job())
    assert config_to_dict(job)["output"] == "runs/x"


def test_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Job().limit = 4  # type: ignore[misc]
