"""Folders on local disk or S3 behind the same few calls.

An address is a local path or `s3://bucket/prefix`. A file is written whole or not at all: by a
rename on local disk, by one put on S3.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from neuneu.core import s3
from neuneu.core.errors import NeuneuError, StorageError, UserError
from neuneu.core.files import atomic_path
from neuneu.core.redaction import without_secrets

THREADS: Final = 16
"""Number of files to read or delete at a time: enough to hide the latency of an object store."""

_SCHEME: Final = "s3://"
_RANGE_BYTES: Final = 16 * 2**20
_RANGES_AT_ONCE: Final = 8


class Folder:
    """A folder by its address; it need not exist yet. Safe to pickle and to share among threads.

    All calls raise `UserError` if the address is wrong or access is refused, and
    `StorageError`, an OSError, if S3 failed although retried.
    """

    def __init__(self, address: "str | Path | Folder") -> None:
        """Name a folder; nothing is read or created.

        Raises:
            UserError: an address of another scheme, or without a bucket.
        """
        text = str(address)
        if "://" not in text:
            self.address = str(Path(text))
            return
        bucket = text.removeprefix(_SCHEME).partition("/")[0]
        if not text.startswith(_SCHEME) or not re.fullmatch(r"[A-Za-z0-9][\w.:-]+", bucket):
            raise UserError(
                f"{without_secrets(text)}: expected a local path or s3://bucket/folder "
                "(credentials come from the AWS variables), found another address."
            )
        self.address = text.rstrip("/")

    def __eq__(self, other: object) -> bool:
        """Compare addresses."""
        return isinstance(other, Folder) and self.address == other.address

    def __hash__(self) -> int:
        """Hash the address."""
        return hash(self.address)

    def __str__(self) -> str:
        """Return the address as users write it."""
        return self.address

    def __truediv__(self, name: str) -> "Folder":
        """Return a folder inside this one."""
        return Folder(f"{self.address}/{name}")

    @property
    def is_local(self) -> bool:
        """Whether the folder is on local disk."""
        return "://" not in self.address

    def absolute(self) -> "Folder":
        """Return the same folder with an absolute path if it is local."""
        return Folder(Path(self.address).resolve()) if self.is_local else self

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._errors():
            if self.is_local:
                return self._local(name).read_bytes()
            return bytes(s3.file_system().cat_file(self._key(name)))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for reading parts of it; the rest is not transferred.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: also when the file is replaced while it is read.
        """
        with self._errors():
            if self.is_local:
                file: BinaryIO = self._local(name).open("rb")
            else:
                file = s3.file_system().open(self._key(name), "rb", cache_type="none")
        with self._errors(of_content=True), file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, replacing an earlier one."""
        with self._errors():
            if not self.is_local:
                s3.file_system().pipe_file(self._key(name), content)
                return
            with atomic_path(self._local(name)) as temporary:
                temporary.write_bytes(content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file, whole or not at all, unless it exists.

        Of several writers at once exactly one wins. On S3 this is a conditional put; a server
        without conditional puts must at least refuse them (some old ones ignore the condition).

        Returns:
            Whether the file now holds `content`.
        """
        with self._errors():
            if self.is_local:
                with atomic_path(self._local(name), replace=False) as temporary:
                    temporary.write_bytes(content)
            else:
                bucket, _, key = self._key(name).partition("/")
                try:
                    s3.file_system().call_s3(
                        "put_object", Bucket=bucket, Key=key, Body=content, IfNoneMatch="*"
                    )
                except FileExistsError:
                    pass
                except OSError as error:
                    # Also after a retry of a put that succeeded but whose response was lost.
                    if s3.http_status(error) not in s3.TAKEN:
                        raise
        return self.read(name) == content

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        with self._errors():
            if self.is_local:
                return self._local(name).is_file()
            try:
                # Not `isfile`, which takes an outage for absence.
                return bool(s3.file_system().info(self._key(name))["type"] == "file")
            except FileNotFoundError as error:
                if s3.error_code(error) == "NoSuchBucket":
                    raise
                return False

    def files(self, suffix: str = "") -> dict[str, int]:
        """Return the sizes in bytes of all regular files below, by relative name, sorted.

        A folder that does not exist has none. Files and folders whose names start with a dot
        (unfinished ones) are left out. On S3 this is one listing.
        """
        with self._errors():
            found = self._local_files() if self.is_local else self._s3_files()
        return {
            name: found[name]
            for name in sorted(found)
            if name.endswith(suffix) and not any(part.startswith(".") for part in name.split("/"))
        }

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        with self._errors(), suppress(FileNotFoundError):
            if self.is_local:
                self._local(name).unlink()
            else:
                s3.file_system().rm_file(self._key(name))

    def download(self, name: str, target: Path) -> None:
        """Copy a file to local disk, whole or not at all, and check its size.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the connection broke although retried, or the file was replaced
                during the download.
            OSError: the disk is full.
        """
        if self.is_local:
            with self._errors(), atomic_path(target) as temporary:
                shutil.copyfile(self._local(name), temporary)
            return
        key = self._key(name)
        with self._errors():
            before = s3.file_system().info(key)
        with atomic_path(target) as temporary:
            with temporary.open("wb") as file:
                for parts in self._ranges(key, before["size"]):
                    file.writelines(parts)
            with self._errors():
                after = s3.file_system().info(key)
            found = temporary.stat().st_size
            if found != before["size"] or after["ETag"] != before["ETag"]:
                raise StorageError(
                    f"{self.address}/{name}: expected {before['size']} bytes, found {found}, or "
                    "the file was replaced during the download; try again."
                )

    def _ranges(self, key: str, size: int) -> Iterator[list[bytes]]:
        """Yield the content in order; each range is retried by itself."""
        starts = range(0, size, _RANGE_BYTES)
        for first in range(0, len(starts), _RANGES_AT_ONCE):
            some = list(starts[first : first + _RANGES_AT_ONCE])
            ends = [min(start + _RANGE_BYTES, size) for start in some]
            with self._errors():
                parts = s3.file_system().cat_ranges([key] * len(some), some, ends)
                for part in parts:
                    if isinstance(part, BaseException):
                        raise part
            yield parts

    def _local_files(self) -> dict[str, int]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        found = {}
        for parent, folders, names in os.walk(self.address, onerror=refuse):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for path in (Path(parent, name) for name in names):
                # Not for files deleted since the listing, pipes, or links to nothing or themselves.
                with suppress(FileNotFoundError):
                    if path.is_file():
                        size = path.stat().st_size
                        found[path.relative_to(self.address).as_posix()] = size
        return found

    def _s3_files(self) -> dict[str, int]:
        start = self._key("") + "/"
        listed = s3.file_system().find(self._key(""), detail=True)
        return {
            key.removeprefix(start): int(entry["size"])
            for key, entry in listed.items()
            if key.startswith(start) and entry["type"] == "file" and not key.endswith("/")
        }

    def _local(self, name: str) -> Path:
        return Path(self.address) / name

    def _key(self, name: str) -> str:
        return f"{self.address.removeprefix(_SCHEME)}/{name}".rstrip("/")

    @contextmanager
    def _errors(self, *, of_content: bool = False) -> Iterator[None]:
        """Turn errors of disks and S3 into ours, in one line and without secrets.

        The originals are not chained: their texts may hold secrets. With `of_content`, a
        ValueError is about the content that the block reads and passes unchanged.
        """
        try:
            yield
        except NeuneuError:
            raise
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None
        except Exception as error:
            ours: NeuneuError | None = None
            if self.is_local and isinstance(error, PermissionError):
                ours = UserError(f"{self.address}: permission denied ({error}).")
            elif not self.is_local and not (of_content and isinstance(error, ValueError)):
                ours = s3.translate(error, self.address)
            if ours is None:
                raise
            raise ours from None


@contextmanager
def written_to(folder: Folder, *, last: str | None = None) -> Iterator[Path]:
    """Yield a local folder to write in; if `folder` is on S3, its files are uploaded on success.

    Args:
        folder: where the files are to be.
        last: the file that marks the others as complete; it is uploaded after them.
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
    """Yield a local folder with those of the named files that exist, for the block."""
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
    """Yield a file as a local path of the same name, for the block.

    A missing file is not an error here: the path then does not exist.
    """
    parent, _, name = str(address).rpartition("/")
    if "://" not in parent:
        yield Path(address)
        return
    with read_from(Folder(parent), (name,)) as folder:
        yield folder / name
