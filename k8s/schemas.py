"""Strict validation against a CRD's openAPIV3Schema: unknown fields are errors.

Kubernetes silently drops fields that a schema does not have. CEL rules (`x-kubernetes-validations`)
are not evaluated.
"""

import difflib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from manifests import Doc, name_of

Schemas = dict[tuple[str, str], Doc]

# The fields of ObjectMeta that users write; a CRD leaves them to the API server.
_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "object", "additionalProperties": _TEXT}
_METADATA: Final = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("name", "generateName", "namespace"), _TEXT),
        **dict.fromkeys(("labels", "annotations"), _TEXTS),
        "finalizers": {"type": "array", "items": _TEXT},
    },
    "required": ["name"],
}
_BITS: Final = {"int32": 31, "int64": 63}


def load_schemas(folder: Path) -> Schemas:
    """Load the served versions of all CRDs in a folder, by (apiVersion, kind)."""
    schemas: Schemas = {}
    for path in sorted(folder.glob("*.yaml")):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        spec = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["spec"]
        for version in spec["versions"]:
            if version["served"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                schemas[key] = with_metadata(version["schema"]["openAPIV3Schema"])
    return schemas


def with_metadata(schema: Doc) -> Doc:
    """Return the schema with the fields that every object has."""
    common = {"apiVersion": _TEXT, "kind": _TEXT, "metadata": _METADATA}
    required = {*common, *schema.get("required", [])}
    return schema | {"properties": schema["properties"] | common, "required": sorted(required)}


def validate(doc: Doc, schema: Doc) -> Iterator[str]:
    """Yield one line per violation: object, path, what is wrong."""
    errors = _Validator(schema).iter_errors(doc)
    for error in sorted(errors, key=lambda each: each.json_path):
        message = " and ".join(each.message for each in error.context or []) or error.message
        yield f"{name_of(doc)}: {error.json_path.removeprefix('$.')}: {message}"


def _type(validator: Any, expected: Any, value: Any, schema: Doc) -> Iterator[ValidationError]:
    if value is None and schema.get("nullable"):
        return
    yield from Draft202012Validator.VALIDATORS["type"](validator, expected, value, schema)
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if expected == "object" and isinstance(value, dict) and not is_open:
        known = schema.get("properties", {})
        for key in value.keys() - known.keys():
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield ValidationError(f"unknown field{hint}", path=[key])


def _format(_: Any, name: str, value: Any, __: Doc) -> Iterator[ValidationError]:
    bits = _BITS.get(name)
    if bits and isinstance(value, int) and not -(2**bits) <= value < 2**bits:
        yield ValidationError(f"{value} does not fit {name}")


def _unique(_: Any, keys: list[str], value: Any, __: Doc) -> Iterator[ValidationError]:
    entries = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    counts = Counter(tuple(str(each.get(key)) for key in keys) for each in entries)
    for entry in (entry for entry, count in counts.items() if count > 1):
        yield ValidationError(f"entries must differ in {' and '.join(keys)}: {', '.join(entry)}")


_Validator: Final = extend(
    Draft202012Validator,
    {"type": _type, "format": _format, "x-kubernetes-list-map-keys": _unique},
)
