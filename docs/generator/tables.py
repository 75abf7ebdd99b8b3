"""The tables of the data contract: columns, types, whether they are required, meaning."""

import ast
import inspect
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import yaml

from generator.markdown import attribute_docstrings
from neuneu.core.errors import DataError
from neuneu.data import schemas
from neuneu.data.defaults import fill_defaults
from neuneu.data.quantiles import FORECAST_LEVELS, column

TABLES: Final[dict[str, pa.Schema]] = {
    name.lower(): schema for name, schema in vars(schemas).items() if isinstance(schema, pa.Schema)
}
_LEAST: Final = {"run": ["a"], "task": ["t"], "value": [0.5]}


def content() -> dict[str, Any]:
    """Return the content of the page of tables.

    Raises:
        KeyError: a column without a meaning in columns.yaml, or a meaning without a column.
    """
    meanings = yaml.safe_load(Path(__file__).with_name("columns.yaml").read_text())
    own = {name: meanings.pop(f"in {name}", {}) for name in TABLES}
    if unused := set(meanings) - {name for schema in TABLES.values() for name in schema.names}:
        raise KeyError(f"no table has the columns {sorted(unused)}")
    for level in FORECAST_LEVELS:
        meanings[column(level)] = f"quantile: the outcome is below with probability {level:g}"
    about = attribute_docstrings(ast.parse(inspect.getsource(schemas)))
    filled, notes = fill_defaults(pa.table(_LEAST | {"step": [1]}), name="accuracies")
    names = [name for name in filled.column_names if name not in {*_LEAST, "step"}]
    return {
        "version": schemas.SCHEMA_VERSION,
        "tables": [
            {
                "name": name,
                "about": about[name.upper()],
                "columns": [
                    {
                        "name": field.name,
                        "type": field.type,
                        "required": _required(schema, field.name),
                        "meaning": (meanings | own[name])[field.name],
                    }
                    for field in schema
                ],
            }
            for name, schema in TABLES.items()
        ],
        "least": ", ".join(f"`{name}`" for name in _LEAST),
        "filled": {n: filled.column(n)[0].as_py() for n in schemas.ACCURACIES.names if n in names},
        "notes": notes,
    }


def _required(schema: pa.Schema, name: str) -> bool:
    """Return whether a table without the column is refused."""
    try:
        schemas.conform(schema.empty_table().drop_columns([name]), schema, name="t")
    except DataError:
        return True
    return False
