"""The page of tables: columns, types, meaning, and whether a column may be left out or null."""

import ast
import inspect
from typing import Final

import pyarrow as pa

from generator.markdown import NOTICE, attribute_docstrings, table
from neuneu.core.errors import DataError
from neuneu.data import schemas
from neuneu.data.defaults import fill_defaults
from neuneu.data.quantiles import FORECAST_LEVELS, column

TABLES: Final = {
    "accuracies": schemas.ACCURACIES,
    "losses": schemas.LOSSES,
    "tasks": schemas.TASKS,
    "checkpoints": schemas.CHECKPOINTS,
    "token_losses": schemas.TOKEN_LOSSES,
    "forecasts": schemas.FORECASTS,
}

TYPES: Final = {
    "string": "text",
    "double": "number",
    "int32": "whole number",
    "int64": "whole number",
    "bool": "true or false",
    "list<item: halffloat>": "list of numbers (float16)",
}

MEANING: Final = {
    "family": "models of one design, such as `pythia`",
    "suite": "one collection of runs",
    "run": "one training",
    "params": "distinct weights of the model; null if unknown",
    "num_fewshot": "examples in the prompt",
    "step": "optimiser steps so far",
    "tokens": "training tokens so far",
    "flops": "training FLOPs so far, by convention 6 x params x tokens; null if unknown",
    "planned_tokens": "the run's intended end",
    "task": "what is evaluated",
    "metric": "how it is scored, such as `acc` or `acc_norm`",
    "value": "the score, a fraction in [0, 1]",
    "stderr": "standard error of the score",
    "name": "the validation set",
    "base_task": "the task behind differently named versions of it",
    "format": "`rc`, `mc`, `minimal_pair` or `cloze`",
    "split": "the split of the data set that is asked",
    "group": "tasks that are reported together",
    "chance": "the score of guessing, a fraction",
    "n_items": "questions in the task",
    "higher_is_better": "whether more is better",
    "uri": "where the checkpoint lies",
    "revision": "its commit on a hub",
    "config_hash": "of its `config.json`",
    "tokenizer_hash": "of the model's tokenizer",
    "weights_hash": "of its weights",
    "status": "`done` or `quarantined`",
    "error": "why it is quarantined",
    "attempts": "how often it was tried",
    "proof": "what shows that the engine held its weights: compared, loaded anew, a fixed prompt",
    "ties": "items whose best choice several share to the last bit: their order decides",
    "corpus_hash": "of the text that was scored",
    "unit": "`word` or `token`",
    "start": "the first unit of this row",
    "count": "units in this row",
    "losses": "nats of each unit",
    "forecaster": "who forecast",
    "protocol": "how much was seen, such as `anchored-0.2`",
    "sees": "`own`, `reference` or `oracle-loss`: what the forecaster may look at",
    "context_step": "the last step that was seen",
    "context_tokens": "tokens at that step",
    "y": "what came, where it is known",
    "calibration_group": "the group whose held-out forecasts the bands were adjusted on",
    **{
        column(level): f"accuracy below which the outcome stays with probability {level:g}"
        for level in FORECAST_LEVELS
    },
}

IN_TABLE: Final = {
    ("losses", "value"): "the loss, in the unit of its metric",
    (
        "losses",
        "metric",
    ): "`cross_entropy_loss` (nats a token), `nll_per_word` (nats), `bpb` (bits a byte)",
    ("forecasts", "step"): "of the place that is forecast",
    ("forecasts", "tokens"): "of the place that is forecast",
    ("forecasts", "flops"): "of the place that is forecast",
}
"""Where a column means something else than in the other tables."""


def tables_page() -> str:
    """Every table of the data contract.

    Raises:
        KeyError: a column without a meaning here, or a meaning without a column.
    """
    known = {name for schema in TABLES.values() for name in schema.names}
    if unused := {*MEANING, *(name for _, name in IN_TABLE)} - known:
        raise KeyError(f"no table has the columns {sorted(unused)}")
    lines = [
        NOTICE, "",
        "# Tables", "",
        f"One observation a row, parquet; schema version {schemas.SCHEMA_VERSION}. Input may also "
        "be CSV. [The data contract](../data-contract.md) says what rows belong together.", "",
        "*Needed* says whether `neuneu.data.schemas.conform` takes a table without the column.", "",
    ]  # fmt: skip
    said = attribute_docstrings(ast.parse(inspect.getsource(schemas)))
    for name, schema in TABLES.items():
        lines += [f"## {name}", "", said[name.upper()], ""]
        rows = [
            (
                f"`{field.name}`", TYPES[str(field.type)],
                "yes" if _needed(schema, field.name) else "no",
                IN_TABLE.get((name, field.name)) or MEANING[field.name],
            )
            for field in schema
        ]  # fmt: skip
        lines += [*table(("column", "type", "needed", "meaning"), rows), ""]
    return "\n".join([*lines, *_own_tables()]) + "\n"


def _own_tables() -> list[str]:
    """What `neuneu forecast` and the other questions take, found out by trying."""
    least = {"run": ["a"], "task": ["t"], "value": [0.5]}
    filled, notes = fill_defaults(pa.table({**least, "step": [1]}), name="accuracies")
    rows = [
        (f"`{name}`", _shown(filled.column(name)[0].as_py()))
        for name in schemas.ACCURACIES.names
        if name not in {*least, "step"} and name in filled.column_names
    ]
    needed = ", ".join(f"`{name}`" for name in least)
    return [
        "## What a table of your own may leave out", "",
        f"The five questions take a table with the columns {needed} and one of `step`, `tokens` "
        "and `flops`. The rest is filled in. In a table that has only `step`, for step 1:", "",
        *table(("column", "filled in"), rows), "",
        "What was assumed is said, like this:", "",
        *(f"* {note}" for note in notes),
    ]  # fmt: skip


def _shown(value: object) -> str:
    return "null" if value is None else f"`{value}`"


def _needed(schema: pa.Schema, name: str) -> bool:
    """Whether a table without the column is refused."""
    try:
        schemas.conform(schema.empty_table().drop_columns([name]), schema, name="t")
    except DataError:
        return True
    return False
