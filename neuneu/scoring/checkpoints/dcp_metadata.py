"""The `.metadata` of torch distributed checkpoints (DCP), read without running its code.

It is a pickle of dataclasses that say which tensors there are and where their pieces are. Their
classes are replaced by plain records, so that nothing of torch, or of the trainer, is called; a
pickle that asks for anything else is refused.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import one_line

METADATA_FILE: Final = ".metadata"
_MAX_BYTES: Final = 2**29
_MAX_SIZE: Final = 2**40
_FILE: Final = re.compile(r"__\d+_\d+\.distcp")
_TORCH: Final = "torch.distributed.checkpoint."
_SHARDS: Final = "torch.distributed._shard.sharded_tensor.metadata"
# Classes whose fields are kept; the trainers of OLMo write their own class of storage.
_RECORDS: Final = {
    *((f"{_TORCH}metadata", name) for name in (
        "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "BytesStorageMetadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    (_SHARDS, "TensorProperties"), (_SHARDS, "MEM_FORMAT_ENCODING"),
    (f"{_TORCH}filesystem", "_StorageInfo"),
    ("olmo_core.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("olmo.train.remote_filesystem", "_StorageInfo"),
    # Where it was saved, which nobody reads.
    ("torch.serialization", "_get_layout"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in (
        "Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath",
    )),
}  # fmt: skip
_PLAIN: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
    ("builtins", "set"): set,
}
_FLOATS: Final = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
_ADVICE: Final = "save the checkpoint again with torch.distributed.checkpoint.save"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a tensor: its first index and size in each dimension, and its bytes in a file."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a checkpoint; `dtype` is torch's name of it, and chunks cover it once."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class Metadata:
    """What a `.metadata` says: the names of all tensors, and where each is."""

    def __init__(self, content: bytes) -> None:
        """Read the content of a `.metadata`.

        Raises:
            CheckpointError: damaged, or a pickle of anything else than metadata.
        """
        found = _unpickle(content)
        tensors, storage = _field(found, "state_dict_metadata"), _field(found, "storage_data")
        if not isinstance(tensors, dict) or not isinstance(storage, dict):
            raise _unexpected("no tables of tensors and files")
        self._tensors = {
            name: entry
            for name, entry in tensors.items()
            if isinstance(name, str) and hasattr(entry, "chunks")
        }
        self._storage = {_key(index): place for index, place in storage.items()}

    @property
    def names(self) -> list[str]:
        """Names of all tensors, among them those of optimizers, sorted."""
        return sorted(self._tensors)

    def tensor(self, name: str) -> StoredTensor:
        """Return where a tensor is.

        Raises:
            CheckpointError: its pieces do not cover it once, are in no file of the checkpoint, are
                compressed, or are not of a float type.
        """
        entry = self._tensors[name]
        dtype = getattr(_field(_field(entry, "properties"), "dtype"), "name", "another type")
        if dtype not in _FLOATS:
            raise CheckpointError(
                f"tensor {name!r} is of type {dtype}; expected one of {list(_FLOATS)}: quantised "
                "weights cannot be swapped; save the checkpoint unquantised."
            )
        shape = _sizes(_field(entry, "size"))
        pieces = _field(entry, "chunks")
        if not isinstance(pieces, list):
            raise _unexpected(f"pieces of {name!r} that are not a list")
        chunks = {chunk.offsets: chunk for chunk in (self._chunk(name, piece) for piece in pieces)}
        inside = all(
            len(chunk.offsets) == len(chunk.sizes) == len(shape)
            and all(
                offset + size <= whole
                for offset, size, whole in zip(chunk.offsets, chunk.sizes, shape, strict=True)
            )
            for chunk in chunks.values()
        )
        # Before anything of that size is allocated.
        for chunk in chunks.values():
            if chunk.length < math.prod(chunk.sizes) * _FLOATS[dtype]:
                raise CheckpointError(
                    f"{METADATA_FILE}: a piece of tensor {name!r} has {chunk.length} bytes; "
                    f"expected those of shape {list(chunk.sizes)} in {dtype}; {_ADVICE}."
                )
        held = sum(math.prod(chunk.sizes) for chunk in chunks.values())
        if not inside or held != math.prod(shape):
            raise CheckpointError(
                f"{METADATA_FILE}: the pieces of tensor {name!r} hold {held} values; expected "
                f"those of shape {list(shape)}, each once; {_ADVICE}."
            )
        return StoredTensor(dtype, shape, tuple(chunks.values()))

    def _chunk(self, name: str, piece: object) -> Chunk:
        offsets, sizes = _sizes(_field(piece, "offsets")), _sizes(_field(piece, "sizes"))
        place = self._storage.get((name, offsets))
        if place is None:
            raise CheckpointError(
                f"{METADATA_FILE}: a piece of tensor {name!r} is in no file; {_ADVICE}."
            )
        if getattr(place, "transform_descriptors", None):
            raise CheckpointError(
                f"{METADATA_FILE}: tensor {name!r} is compressed; expected plain tensors; save the "
                "checkpoint without extensions."
            )
        file = _field(place, "relative_path")
        # No path, which could lead out of the folder.
        if not isinstance(file, str) or not _FILE.fullmatch(file):
            raise CheckpointError(
                f"{METADATA_FILE}: tensor {name!r} is in {str(file)[:80]!r}; expected a file such "
                f"as __0_0.distcp; {_ADVICE}."
            )
        start, length = _sizes((_field(place, "offset"), _field(place, "length")))
        return Chunk(offsets, sizes, file, start, length)


def is_data(name: str) -> bool:
    """Return whether a file of this name holds tensors of a distributed checkpoint."""
    return _FILE.fullmatch(name) is not None


@dataclass(frozen=True)
class _DType:
    name: str


class _Record:
    """Stands for an object of any admitted class: its fields, without its code."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        elif isinstance(state, tuple) and state:  # of TensorProperties, whose first is the type
            self.__dict__["dtype"] = state[0]


class _Unpickler(pickle.Unpickler):
    """Knows the classes of metadata only; every pickle gets its own, which it may not change."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._known: dict[tuple[str, str], type] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a plain class in place of one of metadata."""
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if (module, name) in _RECORDS:
            return self._known.setdefault((module, name), type(name, (_Record,), {}))
        if module == "torch" and re.fullmatch(r"(bfloat|float|complex|u?int)\d+\w*|bool", name):
            return _DType(name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not metadata")


def _unpickle(content: bytes) -> Any:
    if len(content) > _MAX_BYTES:
        raise _unexpected(f"{len(content)} bytes")
    try:
        return _Unpickler(content).load()
    except Exception as error:  # a damaged pickle may raise almost anything
        raise _unexpected(one_line(error)) from error


def _field(record: object, name: str) -> Any:
    found = getattr(record, name, None)
    if found is None:
        raise _unexpected(f"an entry without {name}")
    return found


def _key(index: object) -> tuple[str, tuple[int, ...]]:
    name, offset = _field(index, "fqn"), getattr(index, "offset", None)
    if not isinstance(name, str):
        raise _unexpected("an entry without a name")
    return name, () if offset is None else _sizes(offset)


def _sizes(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(
        type(value) is int and 0 <= value <= _MAX_SIZE for value in values
    ):
        raise _unexpected(f"{str(values)[:80]} in place of sizes")
    return values


def _unexpected(found: str) -> CheckpointError:
    return CheckpointError(
        f"{METADATA_FILE}: expected the metadata of a torch distributed checkpoint, found {found}; "
        f"{_ADVICE}."
    )
