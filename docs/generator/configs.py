"""The configs: every key of every YAML file with type, default and meaning."""

import ast
import dataclasses
import inspect
import json
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pydantic
from pydantic.json_schema import GenerateJsonSchema

from generator.markdown import attribute_docstrings
from neuneu.cli.demo import DemoConfig
from neuneu.evaluation.config import BacktestConfig
from neuneu.forecasters.window.config import PRESETS, ModelConfig
from neuneu.ladder.config import OptimConfig, SuiteConfig
from neuneu.scoring.checkpoints.suite_file import SuiteFile
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.plan import HardwareProfile
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

_EXAMPLES: Final = Path(__file__).parents[2] / "jobs" / "configs"
_TYPES: Final = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS: Final = {
    "exclusiveMinimum": ">",
    "minimum": "≥",
    "exclusiveMaximum": "<",
    "maximum": "≤",
}


class _Schema(GenerateJsonSchema):
    """JSON schema in which `Address` differs from other text."""

    def function_before_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a type with a validator before it."""
        inner = super().function_before_schema(schema)
        return inner | ({"format": "location"} if schema["function"]["function"] is str else {})


def content() -> dict[str, Any]:
    """Return the content of the page of configs: those of the jobs, then what they hold."""
    users = {f"`neuneu {name}`": cls for name, cls in JOBS.items()} | OTHERS
    examples = {f"`neuneu {path.stem}`": path.name for path in _EXAMPLES.glob("*.yaml")}
    classes = list(users.values())
    for cls in classes:  # grows while it is walked
        classes += dict.fromkeys(inner for inner in _held(cls) if inner not in classes)
    titles = [_title(cls) for cls in classes]
    assert len(set(titles)) == len(titles), "two configs with one title"
    return {
        "users": [(user, _link(cls), examples.get(user)) for user, cls in users.items()],
        "configs": [_config(cls) for cls in classes],
    }


def _config(cls: Any) -> dict[str, Any]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    meanings = attribute_docstrings(tree)
    links = {inner.__name__: _link(inner) for inner in _held(cls)}
    schema = pydantic.TypeAdapter(cls).json_schema(schema_generator=_Schema)
    return {
        "title": _title(cls),
        "path": f"{cls.__module__}.{cls.__name__}",
        "about": cls.__doc__ or "",
        "presets": PRESETS if cls is ModelConfig else {},
        "fields": [
            {
                "name": name,
                "type": _type(schema["properties"][name], links),
                "default": _default(field),
                "meaning": meanings.get(name, ""),
            }
            for name, field in cls.__pydantic_fields__.items()
        ],
    }


def _title(cls: type) -> str:
    """Return a title that is unique on the page; two modules have an OptimConfig."""
    return "OptimConfig (suites)" if cls is OptimConfig else cls.__name__


def _link(cls: type) -> str:
    anchor = _title(cls).lower().replace(" ", "-").strip("()").replace("(", "")
    return f"[{_title(cls)}](#{anchor})"


def _held(cls: Any) -> Iterator[type]:
    """Yield the config classes in the annotations of a config's fields."""
    found = [field.annotation for field in cls.__pydantic_fields__.values()]
    for annotation in found:  # grows while it is walked
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            yield annotation
        found += get_args(annotation)


def _type(schema: dict[str, Any], links: dict[str, str]) -> str:
    """Return a JSON schema in words."""
    match schema:
        case {"$ref": name}:
            words = links[name.rpartition("/")[2]]
        case {"anyOf": choices}:
            words = " or ".join(dict.fromkeys(_type(choice, links) for choice in choices))
        case {"enum": values}:
            words = ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            words = f"`{value}`"
        case {"prefixItems": items}:
            words = f"[{', '.join(_type(item, links) for item in items)}]"
        case {"type": "array", "items": item}:
            words = f"list of {_type(item, links)}"
        case {"type": "object", "additionalProperties": values}:
            held = _type(values, links) if isinstance(values, dict) else "anything"
            words = f"mapping of text to {held}"
        case {"format": "path" | "location" as kind}:
            words = "local path" if kind == "path" else kind
        case {"type": kind}:
            words = _TYPES[kind]
    bounds = ", ".join(f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema)
    return f"{words} {bounds}".strip()


def _default(field: pydantic.fields.FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        assert value == type(value)(), "a default other than the class's own has to be written out"
        return "its defaults"
    plain = pydantic.TypeAdapter(Any).dump_python(value, mode="json")
    if plain is None:
        return "null"
    text = plain if isinstance(plain, str) else json.dumps(plain)
    return f"`{text.replace(tempfile.gettempdir(), '$TMPDIR')}`" if text else "empty"
