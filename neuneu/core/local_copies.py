"""Files and folders as local paths, wherever they lie, for what knows local files only."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuneu.core.storage import Folder


@contextmanager
def written_to(folder: Folder, *, last: str | None = None) -> Iterator[Path]:
    """A local folder to write in: that one, or one whose files go to S3 when the block succeeds.

    Args:
        folder: where the files are to be.
        last: a file that marks the others as complete; it goes up after them.
    """
    if folder.is_local:
        path = Path(folder.address)
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="neuneu-") as temporary:
        yield Path(temporary)
        names = Folder(temporary).files()
        for name in sorted(names, key=lambda name: name == last):
            folder.write(name, Path(temporary, name).read_bytes())


@contextmanager
def read_from(folder: Folder, names: Sequence[str]) -> Iterator[Path]:
    """A local folder with these files of another, those that are there; it lasts for the block."""
    if folder.is_local:
        yield Path(folder.address)
        return
    with tempfile.TemporaryDirectory(prefix="neuneu-") as temporary:
        for name in names:
            if folder.exists(name):
                folder.download(name, Path(temporary, name))
        yield Path(temporary)


@contextmanager
def copy_of(address: str | Path) -> Iterator[Path]:
    """A file as a local path of the same name; it lasts for the block.

    One that is not there is no error yet: whoever opens the path finds none.
    """
    parent, _, name = str(address).rpartition("/")
    if "://" not in parent:
        yield Path(address)
        return
    with read_from(Folder(parent), (name,)) as folder:
        yield folder / name
