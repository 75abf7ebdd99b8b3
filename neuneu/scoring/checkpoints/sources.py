"""Sources of checkpoints: local folders, S3, a hub, and suite files that describe them."""

import io
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from neuneu.core.config import load_config
from neuneu.core.errors import CheckpointError, DataError, StorageError, TransientError, UserError
from neuneu.core.files import check_regular
from neuneu.core.storage import Folder
from neuneu.data.checkpoints import CheckpointRef, StoredFile, in_order, list_folder
from neuneu.scoring.checkpoints import hub
from neuneu.scoring.checkpoints.dcp_metadata import METADATA_FILE, is_data
from neuneu.scoring.checkpoints.suite_file import (
    Entry,
    Location,
    SuiteFile,
    locations,
    read_entries,
)

_LOCATIONS_AT_ONCE: Final = 8


def list_checkpoints(source: str | Path) -> list[CheckpointRef]:
    """Return the checkpoints of a source, by suite, run and step.

    Args:
        source: a local folder or `s3://bucket/prefix` whose checkpoints have a `neuneu.json`,
            or a suite file (`*.yaml`).

    Raises:
        UserError: a source that cannot be read or has no checkpoints, and why.
    """
    if str(source).endswith((".yaml", ".yml")):
        return list_suite(load_config(SuiteFile, source))
    return list_folder(Folder(source).absolute())


def list_suite(suite: SuiteFile) -> list[CheckpointRef]:
    """Return the checkpoints of a suite, by run and step.

    Raises:
        UserError: a repository or folder that cannot be listed, or as
            `neuneu.scoring.checkpoints.suite_file.read_entries`.
    """
    found = locations(suite)
    if not found:
        raise UserError(f"suite {suite.suite}: include and exclude leave no location.")
    with ThreadPoolExecutor(_LOCATIONS_AT_ONCE) as pool:
        lists = pool.map(partial(_list_location, suite), found)
        refs = in_order(ref for refs in lists for ref in refs)
    if not refs:
        raise UserError(f"suite {suite.suite}: include, exclude and steps leave no checkpoints.")
    for ref, following in itertools.pairwise(refs):
        if ref.run == following.run and ref.tokens >= following.tokens:
            raise DataError(
                f"{following.uri}: step {following.step} would have seen no more tokens than step "
                f"{ref.step} ({ref.tokens:.4g}); give tokens_per_step, or choose steps."
            )
    return refs


def list_files(ref: CheckpointRef) -> dict[str, StoredFile]:
    """Return the files in a checkpoint's folder by name, without subfolders.

    Raises:
        CheckpointError: there is no such checkpoint, or this user has no access.
        TransientError: its store failed.
    """
    if ref.uri.startswith(hub.SCHEME):
        return hub.list_files(*_on_hub(ref))
    with _errors(ref.uri):
        folder = Folder(ref.uri)
        sizes = folder.files()
        if any(map(is_data, sizes)) and folder.exists(METADATA_FILE):  # hidden, so not listed
            with folder.open(METADATA_FILE) as file:
                sizes[METADATA_FILE] = file.seek(0, io.SEEK_END)
    if not sizes:
        raise CheckpointError(f"{ref.uri}: expected a checkpoint, found no files.")
    return {name: StoredFile(size) for name, size in sizes.items() if "/" not in name}


def read_small(ref: CheckpointRef, name: str) -> bytes:
    """Return the content of a small file of a checkpoint, such as `config.json`.

    Raises:
        CheckpointError, TransientError: as `list_files`, for the file.
    """
    if ref.uri.startswith(hub.SCHEME):
        return hub.read(*_on_hub(ref), name)
    with _errors(f"{ref.uri}/{name}"):
        return _regular(Folder(ref.uri), name).read(name)


def fetch(ref: CheckpointRef, name: str, folder: Path) -> None:
    """Copy a file of a checkpoint into a local folder, whole or not at all.

    Raises:
        CheckpointError, TransientError: as `list_files`, for the file.
        OSError: the disk is full.
    """
    if ref.uri.startswith(hub.SCHEME):
        return hub.download(*_on_hub(ref), name, folder)
    with _errors(f"{ref.uri}/{name}"):
        return _regular(Folder(ref.uri), name).download(name, folder / name)


def _regular(folder: Folder, name: str) -> Folder:
    """Return the folder, or refuse a local file whose reading would not end."""
    if folder.is_local:
        check_regular(Path(folder.address, name))
    return folder


def _on_hub(ref: CheckpointRef) -> tuple[str, str]:
    repo, branch = hub.parse_uri(ref.uri)
    return repo, ref.revision or branch


def _list_location(suite: SuiteFile, location: Location) -> list[CheckpointRef]:
    find = _hub_entries if suite.source == "hub" else _folder_entries
    try:
        entries = find(location.address)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    return read_entries(suite, location, entries)


def _hub_entries(repo: str) -> list[Entry]:
    return [
        Entry(name=branch, uri=hub.make_uri(repo, branch), revision=commit)
        for branch, commit in hub.list_branches(repo).items()
    ]


def _folder_entries(address: str) -> list[Entry]:
    folder = Folder(address).absolute()
    with _errors(address):
        found = folder.files("/config.json")
    names = [name.removesuffix("/config.json") for name in found]
    return [Entry(name=name, uri=f"{folder}/{name}") for name in names]


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn errors of local disks and S3 into a checkpoint's."""
    try:
        yield
    except StorageError as error:
        raise TransientError(str(error)) from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{what}: expected this file, found none.") from error
    except UserError as error:
        raise CheckpointError(str(error)) from error
