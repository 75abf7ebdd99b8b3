"""Search spaces: keys of a training config, their ranges, and the reasons for them.

A space is a Python module with a tuple `SPACE` of `Parameter`s (see `tune_spaces/`). Keys that
begin with `cross_run.` belong to the cross-run network, the others to the published one; a search
uses those of the network that its base config trains.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from neuneu.core.errors import UserError

CROSS_RUN: Final = "cross_run."
FOLDER: Final = "tune_spaces"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One key of `TrainConfig`: a range (`low` to `high`) or a choice of `values`."""

    key: str
    kind: Literal["float", "int", "choice"]
    default: Any
    reason: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    values: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a default that the search could not draw."""
        inside = (
            self.default in self.values
            if self.kind == "choice"
            else self.low is not None
            and self.high is not None
            and self.low <= self.default <= self.high
        )
        if not inside:
            raise UserError(f"{self.key}: the default {self.default!r} lies outside of its range.")


def choice(key: str, values: Sequence[Any], *, default: Any, reason: str) -> Parameter:
    """Return a parameter with one of several values."""
    return Parameter(key=key, kind="choice", values=tuple(values), default=default, reason=reason)


def real(
    key: str,
    low: float,
    high: float,
    *,
    default: float,
    reason: str,
    log: bool = False,
) -> Parameter:
    """Return a number from `low` to `high`, uniform in itself or in its logarithm."""
    return Parameter(
        key=key, kind="float", low=low, high=high, log=log, default=default, reason=reason,
    )  # fmt: skip


def whole(
    key: str, low: int, high: int, *, default: int, reason: str, log: bool = False
) -> Parameter:
    """Return an integer from `low` to `high`, both included."""
    return Parameter(
        key=key, kind="int", low=low, high=high, log=log, default=default, reason=reason
    )


def load_space(name: str) -> tuple[Parameter, ...]:
    """Return the space of a module in `tune_spaces/`, or of a Python file, which is executed.

    Raises:
        UserError: no such file, or one without a `SPACE`.
    """
    path = Path(name) if name.endswith(".py") else _named(name)
    if not path.is_file():
        raise UserError(
            f"space {name!r}: expected a module of {FOLDER}/ or a .py file, no file {path}."
        )
    spec = importlib.util.spec_from_file_location(f"{FOLDER}.{path.stem}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    space = getattr(module, "SPACE", None)
    if not isinstance(space, tuple) or not all(isinstance(p, Parameter) for p in space):
        raise UserError(f"{path}: expected SPACE, a tuple of Parameters, found {type(space)}.")
    return space


def usable(space: Sequence[Parameter], base: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """Return the parameters of the network that a base config trains.

    Raises:
        UserError: there are none.
    """
    wanted = base.get("cross_run") is not None
    chosen = tuple(p for p in space if p.key.startswith(CROSS_RUN) == wanted)
    if not chosen:
        raise UserError(
            "the space has no key of the network that the base config trains; "
            + ("it trains cross_run." if wanted else "add `cross_run: {}` to `train`, or choose.")
        )
    return chosen


def lay_over(base: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested config with the dotted keys of `parameters` set.

    A preset's name at `model` becomes a section with that preset.

    Raises:
        UserError: a key leads through a value that is no section.
    """
    config = deepcopy(dict(base))
    for key, value in parameters.items():
        *sections, name = key.split(".")
        if sections[:1] == ["model"] and isinstance(config.get("model"), str):
            config["model"] = {"preset": config["model"]}
        node = config
        for depth, section in enumerate(sections, 1):
            if node.get(section) is None:
                node[section] = {}
            node = node[section]
            if not isinstance(node, dict):
                raise UserError(
                    f"base config: expected {'.'.join(sections[:depth])} to be a section "
                    f"that {key} can be set in, found {node!r}."
                )
        node[name] = value
    return config


def _named(name: str) -> Path:
    package = Path(__file__).parents[2]
    # The working directory, a clone, an installed wheel.
    roots = (Path(), package.parent, package)
    paths = [root / FOLDER / f"{name}.py" for root in roots]
    return next((path for path in paths if path.is_file()), paths[1])
