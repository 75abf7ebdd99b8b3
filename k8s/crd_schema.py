"""Strict validation of objects against a CRD's openAPIV3Schema: unknown fields are errors.

Kubernetes drops fields that a schema does not know, silently unless asked. Rules in CEL
(`x-kubernetes-validations`) are not evaluated.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml
from rules import Finding
from rules.manifests import Doc, name_of

# What users write of ObjectMeta; a CRD leaves it to the API server.
_METADATA: Final[Doc] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "generateName": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        "finalizers": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
_BOUNDS: Final = {"int32": 2**31, "int64": 2**63}


def load_crd(path: Path) -> dict[tuple[str, str], Doc]:
    """The schemas of a CustomResourceDefinition's served versions, by (apiVersion, kind)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    spec = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["spec"]
    kind, group = spec["names"]["kind"], spec["group"]
    return {
        (f"{group}/{version['name']}", kind): strict_schema(version["schema"]["openAPIV3Schema"])
        for version in spec["versions"]
        if version["served"]
    }


def strict_schema(crd: Doc) -> Doc:
    """A CRD's schema as JSON Schema, closed to unknown fields."""
    schema = _closed(crd)
    text = {"type": "string"}
    schema["properties"] |= {"apiVersion": text, "kind": text, "metadata": _METADATA}
    schema["required"] = sorted({"apiVersion", "kind", "metadata", *schema.get("required", [])})
    return schema


def validate(doc: Doc, schema: Doc) -> Iterator[Finding]:
    """What in an object its schema forbids."""
    errors = jsonschema.Draft202012Validator(schema).iter_errors(doc)
    for error in sorted(errors, key=lambda each: [str(part) for part in each.absolute_path]):
        place = _place(error.absolute_path)
        for key, expected, found in _described(error):
            where = ".".join(part for part in (place, key) if part) or "(the object)"
            yield Finding(subject=name_of(doc), place=where, expected=expected, found=found)
    yield from _doubled(doc, schema, name_of(doc), "")


def _closed(schema: Doc) -> Doc:
    kept = ("type", "enum", "required", "minimum", "maximum", "pattern", "minItems", "maxItems",
            "minLength", "maxLength", "anyOf", "oneOf", "allOf", "not")  # fmt: skip
    closed: Doc = {key: schema[key] for key in kept if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("anyOf", None)
        closed["type"] = ["integer", "string"]
    if "properties" in schema:
        closed["properties"] = {key: _closed(each) for key, each in schema["properties"].items()}
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
        closed["x-keys"] = schema.get("x-kubernetes-list-map-keys", [])
    if isinstance(schema.get("additionalProperties"), dict):
        closed["additionalProperties"] = _closed(schema["additionalProperties"])
    elif schema.get("type") == "object":
        closed["additionalProperties"] = bool(
            schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties")
        )
    bound = _BOUNDS.get(schema.get("format", ""))
    if bound:
        closed = {"minimum": -bound, "maximum": bound - 1} | closed
    if schema.get("nullable") and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
    return closed


def _described(error: jsonschema.ValidationError) -> Iterator[tuple[str, str, Any]]:
    """(key below the place, what is expected, what is found)."""
    schema, found = error.schema, error.instance
    if error.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        for key in sorted(set(found) - set(known)):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" such as {near[0]!r}" if near else ""
            yield key, f"a field that the schema knows{hint}", found[key]
    elif error.validator == "required":
        for key in (key for key in error.validator_value if key not in found):
            yield key, "a value, which is required", None
    elif error.validator == "type":
        types = error.validator_value
        yield "", " or ".join([types] if isinstance(types, str) else types), found
    elif error.validator == "enum":
        yield "", f"one of {error.validator_value}", found
    else:
        yield "", f"{error.validator} {error.validator_value}", found


def _doubled(value: Any, schema: Doc, subject: str, place: str) -> Iterator[Finding]:
    """Entries of a list with the same key, such as two ports of one number."""
    if isinstance(value, dict):
        for key, each in value.items():
            inner = schema.get("properties", {}).get(key, {})
            yield from _doubled(each, inner, subject, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        seen = set()
        for i, each in enumerate(value):
            inner = schema.get("items", {})
            yield from _doubled(each, inner, subject, f"{place}[{i}]")
            keys = schema.get("x-keys", [])
            mine = tuple(str(each.get(key)) for key in keys) if isinstance(each, dict) else ()
            if mine and mine in seen:
                expected = f"another {' and '.join(keys)} than in the entries before"
                yield Finding(
                    subject=subject, place=f"{place}[{i}]", expected=expected, found=", ".join(mine)
                )
            seen.add(mine)


def _place(path: Any) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).lstrip(".")
