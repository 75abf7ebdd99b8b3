"""The page of configs: every key of every YAML file, with type, default and meaning."""

import ast
import dataclasses
import inspect
import json
import tempfile
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
import pydantic

from generator.markdown import NOTICE, attribute_docstrings, docstring, table
from neuneu.cli.demo import DemoConfig
from neuneu.evaluation.backtest import BacktestConfig
from neuneu.forecasters.window.config import PRESETS
from neuneu.ladder.ladder import SuiteConfig
from neuneu.ladder.runs import OptimConfig
from neuneu.scoring.checkpoints.suite_file import SuiteFile
from neuneu.scoring.cost import HardwareProfile
from neuneu.scoring.pipeline import ExtractConfig
from neuneu.training.config import TrainConfig
from neuneu.training.cross_run.pretraining import PretrainConfig
from neuneu.training.tuning.run import TuneConfig

JOBS: Final = {
    "demo": DemoConfig,
    "suite": SuiteConfig,
    "extract": ExtractConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
    "pretrain": PretrainConfig,
    "backtest": BacktestConfig,
}
OTHERS: Final = {"suite files": SuiteFile, "hardware profiles": HardwareProfile}

_PLAIN: Final = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "local path",
    Any: "anything",
    type(None): "null",
}
_RENAMED: Final[dict[type, str]] = {OptimConfig: "OptimConfig (suites)"}
"""Titles are unique on the page, and two modules have an OptimConfig."""

_NO_DEFAULT: Final = "**none: give it**"


def configs_page() -> str:
    """Every config of a job, then what they hold."""
    parts = list(_parts([*JOBS.values(), *OTHERS.values()]))
    lines = [
        NOTICE, "",
        "# Configs", "",
        "A job reads `--config file.yaml`, then `--set a.b=c` over it. Unknown keys are refused, "
        "with the nearest known one named; the resolved config is saved with the output. An "
        "*address* is a local path or `s3://bucket/folder`; what the text calls None is null in "
        "YAML.", "",
        "| job | config | example |",
        "|---|---|---|",
        *(
            f"| `neuneu {name}` | {_link(cls)} | {_example(name)} |"
            for name, cls in JOBS.items()
        ),
        *(f"| {name} | {_link(cls)} | |" for name, cls in OTHERS.items()),
        "",
    ]  # fmt: skip
    shown = [*JOBS.values(), *OTHERS.values(), *parts]
    assert len({_title(cls) for cls in shown}) == len(shown), "two configs of one title"
    for cls in shown:
        lines += _section(cls)
    return "\n".join(lines).rstrip() + "\n"


def _example(name: str) -> str:
    path = Path(__file__).parents[2] / "jobs" / "configs" / f"{name}.yaml"
    return f"[{path.name}](../../jobs/configs/{path.name})" if path.exists() else ""


def _section(cls: type) -> list[str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    said = attribute_docstrings(tree)
    fields = cls.__pydantic_fields__  # type: ignore[attr-defined]
    heading = ["key", "type", "default", *(["meaning"] if said else [])]
    rows = [
        [
            f"`{name}`", _limited(field.annotation, field.metadata), _default(field),
            *([said.get(name, "")] if said else []),
        ]
        for name, field in fields.items()
    ]  # fmt: skip
    lines = [f"## {_title(cls)}", "", f"`{cls.__module__}.{cls.__name__}`", ""]
    lines += [*docstring(cls.__doc__ or ""), *table(heading, rows), ""]
    if cls.__name__ == "ModelConfig":
        lines += ["Presets, as far as they differ from the defaults:", ""]
        lines += [f"* `{name}`: `{json.dumps(keys)}`" for name, keys in PRESETS.items()]
        lines += [""]
    return lines


def _title(cls: type) -> str:
    return _RENAMED.get(cls, cls.__name__)


def _link(cls: type) -> str:
    anchor = "".join(c for c in _title(cls).lower() if c.isalnum() or c in " -_")
    return f"[{_title(cls)}](#{anchor.replace(' ', '-')})"


def _parts(roots: list[type]) -> Iterator[type]:
    """Config classes within configs, each once, in the order in which they are met."""
    seen = list(roots)
    for cls in seen:  # grows while it is walked
        for field in cls.__pydantic_fields__.values():  # type: ignore[attr-defined]
            for inner in _classes(field.annotation):
                if inner not in seen:
                    seen.append(inner)
                    yield inner


def _classes(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
    for argument in get_args(annotation):
        yield from _classes(argument)


def _limited(annotation: Any, metadata: list[Any]) -> str:
    """A type in words, with its limits."""
    if any(isinstance(m, pydantic.BeforeValidator) and m.func is str for m in metadata):
        return "address"
    limits = [text for m in metadata for text in _limits(m)]
    return _words(annotation) + (f" {', '.join(limits)}" if limits else "")


def _limits(constraint: Any) -> Iterator[str]:
    signs = {
        annotated_types.Gt: ("gt", ">"), annotated_types.Ge: ("ge", "≥"),
        annotated_types.Lt: ("lt", "<"), annotated_types.Le: ("le", "≤"),
    }  # fmt: skip
    if isinstance(constraint, pydantic.fields.FieldInfo):
        for inner in constraint.metadata:
            yield from _limits(inner)
    elif type(constraint) in signs:
        name, sign = signs[type(constraint)]
        yield f"{sign} {getattr(constraint, name):g}"


def _words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _limited(arguments[0], list(arguments[1:]))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _link(annotation)
    if origin is None:
        return _PLAIN[annotation]
    return _compound(origin, [_words(argument) for argument in arguments if argument is not ...])


def _compound(origin: Any, inner: list[str]) -> str:
    if origin is dict:
        return f"mapping of {inner[0]} to {inner[1]}"
    if origin is tuple:
        return f"list of {inner[0]}" if len(inner) == 1 else f"[{', '.join(inner)}]"
    assert origin in {Union, types.UnionType}, origin
    return " or ".join(dict.fromkeys(inner))


def _default(field: pydantic.fields.FieldInfo) -> str:
    if field.is_required():
        return _NO_DEFAULT
    value = field.get_default(call_default_factory=True, validated_data={})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        assert value == type(value)(), "a default that is not the class's own has to be written out"
        return "its defaults"
    plain = pydantic.TypeAdapter(Any).dump_python(value, mode="json")
    if plain is None:
        return "null"
    text = plain if isinstance(plain, str) else json.dumps(plain)
    return f"`{text.replace(tempfile.gettempdir(), '$TMPDIR')}`" if text else "empty"
