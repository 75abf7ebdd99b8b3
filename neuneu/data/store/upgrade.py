"""Upgrade of a store of version 1 in place: its results become parts, without log-probabilities.

Each run with a file of version 1 is compacted, which writes the present version, reads it back and
only then deletes what it replaces. The store's own record is replaced last. So an upgrade may be
killed at any point: readers see the same tables, writers are still refused, and the next upgrade
does the rest.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from neuneu.core.progress import stage
from neuneu.core.storage import THREADS, Folder
from neuneu.data.store.checkpoint_files import FOLDER, STORE_VERSION, is_version_1
from neuneu.data.store.compaction import compact_run, list_files
from neuneu.data.store.meta import META, OLD_PARTS, encode_meta
from neuneu.data.store.parts import Part, PartRecord
from neuneu.data.store.store import Store


@dataclass(frozen=True, kw_only=True)
class UpgradeSummary:
    """What an upgrade did: the version found, and the numbers of runs and checkpoints rewritten."""

    store: str
    found_version: str
    version: str
    runs: int
    runs_upgraded: int
    checkpoints_upgraded: int


def upgrade(store: Store) -> UpgradeSummary:
    """Bring a store to the present version; nothing is lost, and a second call does nothing.

    Files of version 1 that an extraction of an older neuneu commits meanwhile are read all the same
    and upgraded by the next call.

    Raises:
        StoreError: not a store, or a damaged file, whose run is left as it was.
        StorageError: storage failed, or did not return what was written; nothing is lost.
    """
    meta = store.meta()
    folder = store.folder
    names = list_files(folder)
    runs = {run: list(group) for run, group in groupby(names, lambda name: name.rpartition("/")[0])}
    n_runs = n_checkpoints = 0
    with stage("upgrade runs", len(runs)) as bar, ThreadPoolExecutor(THREADS) as pool:

        def is_old(name: str) -> bool:
            return _is_old(folder, name)

        def due(names: Sequence[str]) -> bool:
            return any(pool.map(is_old, names))

        for run, group in runs.items():
            found = compact_run(folder, run, group, pool, due=due)
            n_runs += found > 0
            n_checkpoints += found
            bar.advance(1, run.removeprefix(f"{FOLDER}/"))
    if meta["schema_version"] != STORE_VERSION:
        old = {key: value for key, value in meta["fingerprint"].items() if key in OLD_PARTS}
        if {"corpus", "corpus_hash"} <= old.keys():
            text = Part("corpus", str(old["corpus"]), hash=str(old["corpus_hash"]))
            store.claim([PartRecord(part=text)])
        kept = {key: value for key, value in meta["fingerprint"].items() if key not in OLD_PARTS}
        new = {
            "schema_version": STORE_VERSION,
            "fingerprint": kept,
            "corpus": old.get("corpus"),
            "version_1": old,
        }
        folder.write(META, encode_meta(new))
    return UpgradeSummary(
        store=str(folder),
        found_version=meta["schema_version"],
        version=STORE_VERSION,
        runs=len(runs),
        runs_upgraded=n_runs,
        checkpoints_upgraded=n_checkpoints,
    )


def _is_old(folder: Folder, name: str) -> bool:
    """Whether a file is of version 1; a file that is gone is not."""
    try:
        with folder.open(name) as file:
            return is_version_1(file, name=f"{folder}/{name}")
    except FileNotFoundError:
        return False
