"""Change manifests by object and path."""

import re
from typing import Any, Final

from manifests import Doc

_KEY: Final = re.compile(r"\[\d+\]|'[^']+'|[^.\[\]']+")


def put(docs: list[Doc], subject: str, path: str, value: Any) -> None:
    """Set `a.b[0].c` of the object `Kind/name`; the value `...` removes it."""
    kind, name = subject.split("/")
    at: Any = next(d for d in docs if d["kind"] == kind and d["metadata"]["name"] == name)
    keys = [int(k[1:-1]) if k[0] == "[" else k.strip("'") for k in _KEY.findall(path)]
    for key in keys[:-1]:
        at = at[key]
    if value is ...:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
