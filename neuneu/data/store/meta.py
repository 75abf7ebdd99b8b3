"""The record of a store: its version, the setting of its results, and the text read by default."""

import json
from collections.abc import Mapping
from typing import Any, Final

from neuneu.core.errors import StoreError
from neuneu.core.storage import Folder
from neuneu.data.store.checkpoint_files import STORE_VERSION

META: Final = "store.json"
OLD_PARTS: Final = ("corpus", "corpus_hash", "corpus_words", "tasks_hash")
"""What fingerprints of version 1 said of the store's one text and its tasks."""


def encode_meta(meta: Mapping[str, Any]) -> bytes:
    """Return the content of `store.json`."""
    return (json.dumps(meta, indent=1) + "\n").encode()


def read_meta(folder: Folder) -> dict[str, Any]:
    """Return the record of a store: `schema_version`, `fingerprint` and more.

    Raises:
        StoreError: not a store, or written by another schema version.
    """
    try:
        content = folder.read(META)
    except FileNotFoundError as error:
        raise StoreError(
            f"{folder}: expected a trajectory store ({META}), found none; "
            "make one with `neuneu extract` or `neuneu import`."
        ) from error
    try:
        meta: dict[str, Any] = dict(json.loads(content))
        version, _ = meta["schema_version"], dict(meta["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder}/{META}: not readable as a store's record. Delete it and rerun the "
            "extraction that made this store: it writes the record and resumes."
        ) from error
    if version not in {"1", STORE_VERSION}:
        raise StoreError(
            f"{folder}: schema version {version}, this neuneu reads 1 and {STORE_VERSION}."
        )
    return meta
