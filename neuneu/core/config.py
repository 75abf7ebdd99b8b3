"""Configs: frozen keyword-only dataclasses, read from YAML plus `a.b=c` overrides.

A default is written once, in the dataclass beside its owner. An unknown key is an error that
names the nearest known one. Pydantic validates.
"""

import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

import pydantic
import pydantic.dataclasses
import yaml

from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic
from neuneu.core.redaction import without_secrets

T = TypeVar("T")

Address = Annotated[str, pydantic.BeforeValidator(str)]
"""A folder in a config: a local path, or s3://bucket/folder (`neuneu.core.storage.Folder`)."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config_dataclass(cls: type[T]) -> type[T]:
    """Declare a config: frozen, keyword-only, validated, without unknown keys."""
    make = pydantic.dataclasses.dataclass(
        frozen=True,
        kw_only=True,
        config=pydantic.ConfigDict(extra="forbid", validate_default=True),
    )
    return cast("type[T]", cast(Callable[[type[T]], Any], make)(cls))


def load_config(
    cls: type[T], path: str | os.PathLike[str] | None = None, overrides: Iterable[str] = ()
) -> T:
    """Build a config from an optional YAML file and `a.b=c` overrides (values are YAML).

    Args:
        cls: a `config_dataclass`.
        path: YAML file with a mapping; None starts from the defaults.
        overrides: strings such as `optim.lr=1e-3`, applied to the file in order.

    Raises:
        UserError: unreadable file, malformed override, unknown key or invalid value.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"config {path}: cannot be read ({error.strerror}).") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"config {path}: expected YAML, found {error}.") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise UserError(
                f"config {path}: expected a mapping of keys, found {type(loaded).__name__}."
            )
        raw = loaded or {}
    for override in overrides:
        _apply_override(raw, override)
    return build_config(cls, raw)


def build_config(cls: type[T], raw: Mapping[str, Any]) -> T:
    """Build a config from a nested mapping.

    Raises:
        UserError: all problems, with the nearest known key for each unknown one.
    """
    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(raw))
    except pydantic.ValidationError as error:
        problems = [_describe(cls, dict(problem)) for problem in error.errors()]
        raise UserError(without_secrets(f"{cls.__name__}: " + "; ".join(problems))) from error


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return the config in JSON types (paths become strings, tuples lists)."""
    return cast(
        "dict[str, Any]", pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")
    )


def config_hash(config: Any) -> str:
    """Return sixteen hex digits that identify the resolved config."""
    canonical = json.dumps(config_to_dict(config), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def config_text(config: Any) -> str:
    """Return the resolved config as YAML."""
    return str(yaml.safe_dump(config_to_dict(config), sort_keys=False))


def save_config(config: Any, path: str | os.PathLike[str]) -> None:
    """Write the resolved config as YAML, whole or not at all."""
    write_text_atomic(path, config_text(config))


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"--set {override!r}: expected key=value such as optim.lr=1e-3.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r}: the value is not YAML ({error}).") from error
    node = raw
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {override!r}: {part!r} holds a value, not a section.")
        node = child
    node[parts[-1]] = value


def _describe(cls: type, problem: dict[str, Any]) -> str:
    location = [part for part in problem["loc"] if isinstance(part, str)]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        near = difflib.get_close_matches(key, _known_keys(cls), n=1, cutoff=0.4) or (
            difflib.get_close_matches(location[-1], _known_keys(cls), n=1, cutoff=0.4)
        )
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {key!r}{hint}"
    found = problem.get("input")
    return f"{key}: {problem['msg']}, found {found!r}"


def _known_keys(cls: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for field in dataclasses.fields(cls):
        keys.append(prefix + field.name)
        if dataclasses.is_dataclass(field.type):
            keys += _known_keys(field.type, prefix + field.name + ".")
    return keys
