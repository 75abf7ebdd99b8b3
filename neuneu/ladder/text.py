"""The text of a suite, split into training recipes, validation text and text for tasks."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import pydantic

from neuneu.core.config import config_dataclass, config_hash, config_to_dict
from neuneu.core.errors import DataError, UserError
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.core.progress import stage
from neuneu.ladder import installation
from neuneu.ladder.documents import (
    Document,
    cut_long,
    distinct,
    read_documents,
    sample_by_source,
    seeded_hash,
    to_table,
)

SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}")
_RECORD: Final = "text.json"


@config_dataclass
class TextConfig:
    """Where text comes from and how it is split.

    `path` is a parquet file with columns source, doc_id, text, or a folder of text files, or one
    text file; None uses the text of this Python installation. `recipes` maps the name of a recipe
    to its sources; if empty, the installation gives `code` and `prose`, and other text gives two
    recipes of similar size (one if there is a single source). `max_bytes` limits each source; None
    uses all of a given text, and 2.5 MB per source of the installation. Documents longer than
    `document_bytes` are cut, and a piece counts as a document.
    """

    path: Path | None = None
    recipes: dict[str, tuple[str, ...]] = pydantic.Field(default_factory=dict)
    max_bytes: pydantic.PositiveInt | None = None
    document_bytes: pydantic.PositiveInt = 8_192
    validation_fraction: float = pydantic.Field(default=0.05, gt=0, lt=0.5)
    tasks_fraction: float = pydantic.Field(default=0.05, gt=0, lt=0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, sources in self.recipes.items():
            if not SAFE_NAME.fullmatch(name):
                raise ValueError(
                    f"recipe {name!r}: expected a name of letters, digits and . _ + - "
                    "that can stand in a path"
                )
            if not sources:
                raise ValueError(f"recipe {name!r}: expected at least one source, found none")


@dataclass(frozen=True, kw_only=True)
class TextFolder:
    """Prepared text: parquet files with columns source, doc_id, text.

    The files of `train`, `validation` and `tasks` have no document in common.
    """

    path: Path
    recipes: tuple[str, ...]

    @property
    def validation(self) -> Path:
        """Text on which token losses are measured."""
        return self.path / "validation.parquet"

    @property
    def tasks(self) -> Path:
        """Text from which evaluation tasks are made."""
        return self.path / "tasks.parquet"

    def train(self, recipe: str) -> Path:
        """Training text of a recipe."""
        return self.path / f"train-{recipe}.parquet"


def prepare_text(config: TextConfig, out: Path) -> TextFolder:
    """Write the text of a suite to `out`, unless it is already there.

    A rerun is recognised by the config, not by the contents of `config.path`.

    Raises:
        UserError: The path does not exist, a recipe has an unknown source, or `out` has other text.
        DataError: The text cannot be read or is too short.
    """
    done = _already_prepared(config, out)
    if done is not None:
        return done
    with stage("text"):
        by_source = _read(config)
        recipes = _resolve_recipes(config, by_source)
        used = {source for sources in recipes.values() for source in sources}
        train, validation, tasks = {}, [], []
        for source in sorted(by_source.keys() & used):
            train[source], for_validation, for_tasks = _split(by_source[source], config)
            validation += for_validation
            tasks += for_tasks
        # Shuffled, because a scorer may use only the first words.
        validation.sort(key=lambda doc: seeded_hash(f"{doc.source}/{doc.doc_id}", config.seed))
        folder = TextFolder(path=out, recipes=tuple(recipes))
        files = {folder.validation: validation, folder.tasks: tasks}
        for recipe, sources in recipes.items():
            files[folder.train(recipe)] = [doc for name in sources for doc in train[name]]
        for path, documents in files.items():
            with atomic_path(path) as temporary:
                pq.write_table(to_table(documents), temporary, compression="zstd")
    record = {
        "config_hash": config_hash(config),
        "config": config_to_dict(config),
        "recipes": {name: list(sources) for name, sources in recipes.items()},
        "files": {
            path.name: {"docs": len(docs), "bytes": sum(doc.size_bytes for doc in docs)}
            for path, docs in files.items()
        },
    }
    write_text_atomic(out / _RECORD, json.dumps(record, indent=1) + "\n")
    return folder


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Describe the values of a recorded config that differ from those wanted."""
    return [
        f"{key} was {found.get(key)!r} and is {value!r}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]


def _already_prepared(config: TextConfig, out: Path) -> TextFolder | None:
    record_path = out / _RECORD
    if not record_path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(record_path.read_text(encoding="utf-8"))
        found, files = record["config"], record["files"]
        folder = TextFolder(path=out, recipes=tuple(record["recipes"]))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{record_path}: not readable as the record of prepared text; delete {out}."
        ) from error
    if record.get("config_hash") != config_hash(config):
        wanted = config_to_dict(config)
        keys = sorted(found.keys() | wanted.keys())
        changed = differences(found, {key: wanted.get(key) for key in keys})
        raise UserError(
            f"{out} has text prepared with another config ({', '.join(changed)}). "
            "Use another output folder, or the config of this one."
        )
    return folder if all((out / name).exists() for name in files) else None


def _read(config: TextConfig) -> dict[str, list[Document]]:
    if config.path is None:
        documents = installation.installation_documents(
            config.max_bytes or installation.MAX_BYTES, config.seed
        )
    else:
        documents = read_documents(config.path)
    pieces = distinct(cut_long(documents, config.document_bytes))
    by_source = sample_by_source(pieces, config.max_bytes, config.seed)
    if not by_source:
        raise DataError(f"{config.path or 'this installation'}: expected text, found none.")
    return by_source


def _resolve_recipes(
    config: TextConfig, by_source: Mapping[str, list[Document]]
) -> dict[str, tuple[str, ...]]:
    if not config.recipes:
        if config.path is None:
            return installation.RECIPES
        return _balanced_recipes(
            {name: sum(doc.size_bytes for doc in docs) for name, docs in by_source.items()}
        )
    for recipe, sources in config.recipes.items():
        unknown = [source for source in sources if source not in by_source]
        if unknown:
            raise UserError(
                f"recipe {recipe!r}: unknown source {', '.join(map(repr, unknown))}; "
                f"the text has {', '.join(map(repr, by_source))}."
            )
    return dict(config.recipes)


def _balanced_recipes(source_bytes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Two recipes of similar size: largest source first, each to the smaller recipe."""
    bins: list[list[str]] = [[] for _ in range(min(2, len(source_bytes)))]
    sizes = [0] * len(bins)
    for source in sorted(source_bytes, key=lambda name: (-source_bytes[name], name)):
        smaller = sizes.index(min(sizes))
        bins[smaller].append(source)
        sizes[smaller] += source_bytes[source]
    recipes = {}
    for number, sources in enumerate(bins, 1):
        name = re.sub("[^A-Za-z0-9]+", "-", "-".join(sorted(sources))).strip("-")
        fits = SAFE_NAME.fullmatch(name) and name not in recipes
        recipes[name if fits else f"mix-{number}"] = tuple(sorted(sources))
    return recipes


def _split(documents: list[Document], config: TextConfig) -> tuple[list[Document], ...]:
    """Split the documents of a source by a seeded hash into train, validation and tasks.

    The pieces of one document stay together, in order: only the two documents at a boundary can be
    on both sides of it, and a single long document is split in the middle of its text.
    """
    ranked = sorted(
        documents, key=lambda doc: (seeded_hash(doc.whole, config.seed), doc.piece or 0)
    )
    validation = max(1, round(config.validation_fraction * len(ranked)))
    tasks = max(1, round(config.tasks_fraction * len(ranked)))
    held_out = validation + tasks
    if len(ranked) <= held_out:
        raise DataError(
            f"source {documents[0].source!r}: expected at least {held_out + 1} distinct documents "
            f"to split into train, validation and tasks, found {len(ranked)}; provide more text, "
            "or a smaller text.document_bytes so that it is cut into more documents."
        )
    return ranked[held_out:], ranked[:validation], ranked[validation:held_out]
