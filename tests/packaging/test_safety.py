"""External input is never unpickled, executed, or written outside the output folder."""

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from neuneu.core.config import load_config
from neuneu.core.errors import UserError
from neuneu.core.ray_session import ray_session
from neuneu.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("neuneu", "jobs", "tune_spaces") for path in (ROOT / folder).rglob("*.py")
]
FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads",
    "joblib.load", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval",
    "exec", "os.system", "os.popen",
}  # fmt: skip


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, object]:
    return {
        k.arg: k.value.value
        for k in call.keywords
        if k.arg is not None and isinstance(k.value, ast.Constant)
    }


def mistakes(path: Path) -> list[str]:
    found = []
    for name, call in calls(path):
        given = keywords(call)
        where = f"{path.name}:{call.lineno} {name}"
        if name in FORBIDDEN or given.get("shell") is True:
            found.append(where)
        if name == "torch.load" and given.get("weights_only") is not True:
            found.append(where)
        if name in {"np.load", "numpy.load"} and given.get("allow_pickle", False) is not False:
            found.append(where)
        if given.get("trust_remote_code", False) is not False:
            found.append(where)
        if name.endswith(".from_pretrained") and "local_files_only" not in given:
            found.append(where)
    return found


def test_nothing_is_unpickled_or_run() -> None:
    assert len(SOURCES) > 100
    assert [mistake for path in SOURCES for mistake in mistakes(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "pickle.Unpickler(file).load()",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, local_files_only=True, trust_remote_code=True)",
        "subprocess.run(line, shell=True)",
        "eval(text)",
    ],
)
def test_the_scan_sees_each_of_them(line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(line)
    assert len(mistakes(tmp_path / "bad.py")) == 1


class Harm:
    """An object that creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_training_state_that_is_code_is_not_run(tmp_path: Path) -> None:
    import ray.train

    from neuneu.training.worker import STATE, load_state

    torch.save({"model": Harm(tmp_path / "harm")}, tmp_path / STATE)
    with pytest.raises(pickle.UnpicklingError):
        load_state(ray.train.Checkpoint.from_directory(tmp_path))
    assert not (tmp_path / "harm").exists()


def test_a_config_that_is_code_is_not_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    (tmp_path / "config.yaml").write_text(
        f"output: !!python/object/apply:pathlib.Path.touch [{harm}]\n"
    )
    with pytest.raises(UserError, match="YAML"):
        load_config(TrainConfig, tmp_path / "config.yaml")
    assert yaml.safe_load("a: 1") == {"a": 1}
    assert not harm.exists()


def test_the_dashboard_is_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    started: list[dict[str, object]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **settings: started.append(settings))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ray_session(dashboard=True):
        pass
    assert started[0]["include_dashboard"] is True
    assert started[0]["dashboard_host"] == "127.0.0.1"
