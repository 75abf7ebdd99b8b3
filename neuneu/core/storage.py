"""Folders on local disk or in an object store, by the same few calls.

An address is a local path or `s3://bucket/prefix`. A file is written whole or not at all: by a
rename on local disk, by one put on S3.
"""

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from neuneu.core import s3
from neuneu.core.errors import NeuneuError, StorageError, UserError
from neuneu.core.files import atomic_path
from neuneu.core.redaction import without_secrets

THREADS: Final = 16
"""How many files to read or delete at a time: enough to hide an object store's latency."""

_SCHEME: Final = "s3://"
_RANGE_BYTES: Final = 16 * 2**20
_RANGES_AT_ONCE: Final = 8


class Folder:
    """A folder by its address; it need not exist yet. Safe to pickle and to share by threads.

    All calls raise `UserError` where the address is wrong or access is refused, and
    `StorageError`, an OSError, where S3 failed although retried.
    """

    def __init__(self, address: "str | Path | Folder") -> None:
        """Names a folder; nothing is read or made.

        Raises:
            UserError: an address of another scheme, or without a bucket.
        """
        text = str(address)
        self.is_local = "://" not in text
        if self.is_local:
            self.address = str(Path(text))
            return
        self.address = text.rstrip("/")
        bucket = text.removeprefix(_SCHEME).partition("/")[0]
        if not text.startswith(_SCHEME) or not re.fullmatch(r"[A-Za-z0-9][\w.:-]+", bucket):
            raise UserError(
                f"{without_secrets(text)}: expected a local path or s3://bucket/folder "
                "(credentials come from the AWS variables), found another address."
            )

    def __str__(self) -> str:
        """The address, as users write it."""
        return self.address

    def __repr__(self) -> str:
        """As in `Folder('s3://bucket/runs')`."""
        return f"Folder({self.address!r})"

    def __eq__(self, other: object) -> bool:
        """Folders of one address are equal."""
        return isinstance(other, Folder) and self.address == other.address

    def __hash__(self) -> int:
        """Of the address."""
        return hash(self.address)

    def absolute(self) -> "Folder":
        """The same folder wherever it is asked from: a local path from the root on."""
        return Folder(Path(self.address).resolve()) if self.is_local else self

    def __truediv__(self, name: str) -> "Folder":
        """A folder in this one."""
        return Folder(f"{self.address}/{name}")

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none of this name.
        """
        with self._errors():
            if self.is_local:
                return self._local(name).read_bytes()
            return bytes(s3.file_system().cat_file(self._key(name)))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file to read in places; nothing else of it is moved.

        Raises:
            FileNotFoundError: there is none of this name.
            StorageError: also when another file takes its place while it is read.
        """
        with self._errors():
            if self.is_local:
                file: BinaryIO = self._local(name).open("rb")
            else:
                file = cast(
                    BinaryIO, s3.file_system().open(self._key(name), "rb", cache_type="none")
                )
        with self._errors(of_content=True), file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, whole or not at all, in place of an earlier one."""
        with self._errors():
            if not self.is_local:
                s3.file_system().pipe_file(self._key(name), content)
                return
            with atomic_path(self._local(name)) as temporary:
                temporary.write_bytes(content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file, whole or not at all, unless there is one.

        Of several that create a file at once one wins. S3 is asked for a conditional put; a
        server that does not know them must at least refuse them (some old ones ignore them).

        Returns:
            Whether the file now holds `content`.
        """
        with self._errors():
            if self.is_local:
                _create_local(self._local(name), content)
            else:
                bucket, _, key = self._key(name).partition("/")
                try:
                    s3.file_system().call_s3(
                        "put_object", Bucket=bucket, Key=key, Body=content, IfNoneMatch="*"
                    )
                except OSError as error:
                    # Also when a put that was done is asked for again, its answer lost.
                    if (
                        not isinstance(error, FileExistsError)
                        and s3.http_status(error) not in s3.TAKEN
                    ):
                        raise
        return self.read(name) == content

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
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
        """Sizes in bytes of all regular files below, by their relative names, sorted.

        A folder that does not exist has none. Files and folders whose names start with a dot
        (unfinished ones) are left out. One listing, whatever is in the folder.
        """
        with self._errors():
            found = self._local_files() if self.is_local else self._s3_files()
        return {
            name: found[name]
            for name in sorted(found)
            if name.endswith(suffix) and not any(part.startswith(".") for part in name.split("/"))
        }

    def delete(self, name: str) -> None:
        """Removes a file; one that is not there is fine."""
        with self._errors(), suppress(FileNotFoundError):
            if self.is_local:
                self._local(name).unlink()
            else:
                s3.file_system().rm_file(self._key(name))

    def download(self, name: str, target: Path) -> None:
        """Copies a file to local disk, whole or not at all, and checks its size.

        Raises:
            FileNotFoundError: there is none of this name.
            StorageError: the connection broke off and retries did not help, or another file
                took the place of this one meanwhile.
            OSError: the disk is full.
        """
        with self._errors():
            if self.is_local:
                with atomic_path(target) as temporary:
                    shutil.copyfile(self._local(name), temporary)
                return
            key = self._key(name)
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
                    "another file took its place during the download; try again."
                )

    def _ranges(self, key: str, size: int) -> Iterator[list[bytes]]:
        """A file's content in order; each range is retried by itself."""
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
            for name in names:
                path = Path(parent, name)
                try:
                    status = path.stat()
                except OSError as error:
                    # Removed since it was listed, or a link to nothing or to itself.
                    if error.errno not in {errno.ENOENT, errno.ELOOP}:
                        raise
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[path.relative_to(self.address).as_posix()] = status.st_size
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
        """Errors of disks and of S3 as ours, in one line and without secrets.

        The originals are not chained: their texts may hold what must not be shown. What is wrong
        with a file's content (a ValueError) passes where the block reads one.
        """
        try:
            yield
        except NeuneuError:
            raise
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None
        except Exception as error:
            is_of_content = of_content and isinstance(error, ValueError)
            ours = None if is_of_content else self._translated(error)
            if ours is None:
                raise
            raise ours from None

    def _translated(self, error: Exception) -> NeuneuError | None:
        if not self.is_local:
            return s3.translated(error, self.address)
        if isinstance(error, PermissionError):
            return UserError(f"{self.address}: not allowed to read or write it ({error}).")
        return None


def _create_local(target: Path, content: bytes) -> None:
    """Writes beside and links, which unlike a rename replaces nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            target.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
