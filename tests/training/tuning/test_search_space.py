"""Spaces against the config they search: every key is there, with that default and in range."""

from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers.pbt import _explore as explore

from neuneu.core.config import build_config
from neuneu.core.errors import UserError
from neuneu.training.config import TrainConfig
from neuneu.training.tuning.search import mutable, scheduler
from neuneu.training.tuning.space import (
    FOLDER,
    Parameter,
    choice,
    lay_over,
    load_space,
    real,
    usable,
)

SPACES = sorted(path.stem for path in (Path(__file__).parents[3] / FOLDER).glob("*.py"))


def config(parameters: dict[str, Any], *, cross_run: bool) -> TrainConfig:
    base: dict[str, Any] = {"output": "x", "store": "s"} | ({"cross_run": {}} if cross_run else {})
    return build_config(TrainConfig, lay_over(base, parameters))


def edges(parameter: Parameter) -> list[Any]:
    if parameter.kind == "choice":
        return list(parameter.values)
    kind = int if parameter.kind == "int" else float
    return [kind(parameter.low or 0), kind(parameter.high or 0)]


def test_there_are_the_three_spaces() -> None:
    assert SPACES == ["architecture", "joint", "quantile_loss"]


@pytest.mark.parametrize("name", SPACES)
def test_keys_are_of_the_config_with_its_defaults(name: str) -> None:
    space = load_space(name)
    assert len({p.key for p in space}) == len(space)
    for parameter in space:
        cross_run = parameter.key.startswith("cross_run.")
        assert attrgetter(parameter.key)(config({}, cross_run=cross_run)) == parameter.default
        assert len(parameter.reason) > 15


@pytest.mark.parametrize("name", SPACES)
def test_every_edge_makes_a_valid_config(name: str) -> None:
    for parameter in load_space(name):
        cross_run = parameter.key.startswith("cross_run.")
        for value in edges(parameter):
            made = config({parameter.key: value}, cross_run=cross_run)
            assert attrgetter(parameter.key)(made) == value


def test_a_key_that_does_not_exist_is_found() -> None:
    with pytest.raises(AttributeError, match="widht"):
        attrgetter("model.widht")(config({}, cross_run=False))


def test_keys_of_the_other_network_are_left_out() -> None:
    space = load_space("joint")
    with_runs, alone = usable(space, {"cross_run": {}}), usable(space, {})
    assert len(with_runs) + len(alone) == len(space)
    assert all(p.key.startswith("cross_run.") for p in with_runs)
    only = tuple(p for p in space if p.key.startswith("cross_run."))
    with pytest.raises(UserError, match="no key of the network"):
        usable(only, {})


def test_parameters_are_laid_over_a_copy() -> None:
    base = {"cross_run": {"network": {"width": 8}}, "seed": 1}
    made = lay_over(base, {"cross_run.network.heads": 2, "cross_run.optim.learning_rate": 0.1})
    assert made["cross_run"] == {
        "network": {"width": 8, "heads": 2},
        "optim": {"learning_rate": 0.1},
    }
    assert base == {"cross_run": {"network": {"width": 8}}, "seed": 1}


def test_a_default_outside_of_its_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"a\.b: the default 3 lies outside"):
        choice("a.b", (1, 2), default=3, reason="")
    with pytest.raises(UserError, match="lies outside"):
        real("a.b", 0.0, 1.0, default=1.5, reason="")


def test_what_is_no_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a module of tune_spaces"):
        load_space("nothing")
    (tmp_path / "odd.py").write_text("SPACE = 3\n")
    with pytest.raises(UserError, match="tuple of Parameters"):
        load_space(str(tmp_path / "odd.py"))


def test_a_population_changes_what_weights_survive_and_stays_in_range() -> None:
    space = usable(load_space("joint"), {"cross_run": {}})
    changing = mutable(space)
    keys = {p.key for p in changing}
    assert "cross_run.optim.learning_rate" in keys
    assert not any(key.startswith("cross_run.network.") for key in keys)
    pbt = scheduler("pbt", space, "validation_pinball", epochs=6, grace=2, reduction=3.0, seed=0)
    start = {p.key: p.default for p in space}
    for _ in range(50):
        start, _ = explore(
            start, pbt._hyperparam_mutations, 0.25, (1.2, 0.8), pbt._custom_explore_fn
        )
        for p in changing:
            if p.kind == "choice":
                assert start[p.key] in p.values
            else:
                assert p.low is not None
                assert p.high is not None
                assert p.low <= start[p.key] <= p.high
    assert all(start[p.key] == p.default for p in space if p not in changing)
    with pytest.raises(UserError, match="only the network's shape"):
        mutable([p for p in space if p not in changing])
    own = usable(load_space("quantile_loss"), {})
    assert "max_ahead" in {p.key for p in own}
    assert "max_ahead" not in {p.key for p in mutable(own)}  # an epoch would get another length
