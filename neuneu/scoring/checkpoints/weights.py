"""The weight files of a checkpoint folder, read without loading them: what tensors they hold."""

import hashlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeGuard

from neuneu.core.errors import CheckpointError
from neuneu.core.files import check_regular, one_line, parse_mapping, read_mapping

if TYPE_CHECKING:
    import torch

INDEX_FILE: Final = "model.safetensors.index.json"
WHOLE_FILE_BYTES: Final = 16 * 2**20
SAMPLE_BLOCKS: Final = 64
SAMPLE_BYTES: Final = 64 * 2**10
_FLOATS: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER_BYTES: Final = 100 * 2**20
_MOST_DIMENSIONS: Final = 8
# Constants that old checkpoints store and models compute themselves.
_CONSTANTS: Final = re.compile(r"\.(rotary_emb\.inv_freq|(attention|attn)\.(bias|masked_bias))$")


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor as its file describes it; `kind` is the safetensors name of its type."""

    file: str
    kind: str
    shape: tuple[int, ...]


_Entry = tuple[str, tuple[int, ...], tuple[int, int]]


def is_constant(name: str) -> bool:
    """Whether a stored tensor is a constant that models compute themselves."""
    return _CONSTANTS.search(name) is not None


def read_headers(folder: Path) -> dict[str, TensorHeader]:
    """The tensors of a checkpoint by name, without the constants that models compute.

    Raises:
        CheckpointError: no safetensors file, one that is truncated or malformed, a shard that
            the index does not describe, or a tensor that is not of a float type.
    """
    headers: dict[str, TensorHeader] = {}
    for file in weight_files(folder):
        for name, header in _read_header(file).items():
            if name in headers:
                raise CheckpointError(
                    f"tensor {name!r} stands in {headers[name].file} and in {file.name}; expected "
                    "it once; save the checkpoint again."
                )
            headers[name] = header
    index = folder / INDEX_FILE
    if os.path.lexists(index):
        missing = sorted(_weight_map(index).keys() - headers.keys())
        if missing:
            raise CheckpointError(
                f"tensor {missing[0]!r} is in {INDEX_FILE} but in none of its files "
                f"({len(missing)} such tensors); save the checkpoint again."
            )
    kept = {name: header for name, header in headers.items() if not is_constant(name)}
    for name, header in kept.items():
        if header.kind not in _FLOATS:
            raise CheckpointError(
                f"tensor {name!r} is of type {header.kind}; expected one of {sorted(_FLOATS)}: "
                "quantised weights cannot be swapped; save the checkpoint unquantised."
            )
    return kept


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: `model.safetensors`, or the shards of its index.

    Raises:
        CheckpointError: none there, pickled weights only, files beside the named ones, or a pipe,
            a folder or a broken link in place of one.
    """
    present = sorted(folder.glob("*.safetensors"))
    if not present:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        pickled += sorted(path.name for path in folder.glob("*.pt"))
        found = f"pickled weights ({pickled[0]})" if pickled else "no weights"
        raise CheckpointError(
            f"expected model.safetensors in {folder}, found {found}; "
            "save it again with safe_serialization=True."
        )
    for path in present:
        check_regular(path)
    index = folder / INDEX_FILE
    expected = ["model.safetensors"]
    if os.path.lexists(index):
        expected = sorted(set(_weight_map(index).values()))
    if [path.name for path in present] != expected:
        raise CheckpointError(
            f"expected the weight files {expected}, found {[path.name for path in present]}; "
            "an engine reads all it finds, so remove what does not belong, or save it again."
        )
    return present


def weights_hash(folder: Path) -> str:
    """Sixteen hex digits that name the weights, cheaply.

    Of each file: its name, its size, and its bytes, all of them up to 16 MiB; of a larger file
    the header and 64 blocks of 64 KiB at even distances. Two checkpoints of a run differ in
    every block; a file that was changed in one place only may keep its hash.

    Raises:
        CheckpointError: as `weight_files`.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE_FILE_BYTES:
                digest.update(file.read())
                continue
            start = 8 + int.from_bytes(file.read(8), "little")
            file.seek(0)
            digest.update(file.read(start))
            for i in range(SAMPLE_BLOCKS):
                file.seek(start + (size - start - SAMPLE_BYTES) * i // (SAMPLE_BLOCKS - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def iter_tensors(folder: Path) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yields (name, tensor) of a checkpoint that `read_headers` accepts, one at a time.

    Raises:
        CheckpointError: a file that changed since and cannot be read any more.
    """
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if not is_constant(name):
                        yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path.name}: cannot be read any more ({error}); copy it again."
            ) from error


def _read_header(path: Path) -> dict[str, TensorHeader]:
    try:
        return _parse_header(path)
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read ({one_line(error)}).") from error


def _parse_header(path: Path) -> dict[str, TensorHeader]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path.name}: truncated or not safetensors: {size} bytes cannot hold its "
                f"header of {length}; copy or save it again."
            )
        raw = parse_mapping(file.read(length), f"{path.name}: header")
    tensors = {
        name: _entry(path.name, name, entry)
        for name, entry in raw.items()
        if name != "__metadata__"
    }
    end = 0
    for name, (kind, shape, (start, stop)) in sorted(tensors.items(), key=lambda item: item[1][2]):
        n_bytes = math.prod(shape) * _FLOATS[kind] if kind in _FLOATS else stop - start
        if start != end or stop < start or stop - start != n_bytes:
            raise CheckpointError(
                f"{path.name}: tensor {name!r} lies at bytes {start} to {stop}; expected "
                f"{n_bytes} bytes from {end} on by its shape {list(shape)}; save it again."
            )
        end = stop
    expected = 8 + length + end
    if size != expected:
        raise CheckpointError(
            f"{path.name}: truncated or damaged: expected {expected} bytes by its header, "
            f"found {size}; copy or save it again."
        )
    return {
        name: TensorHeader(file=path.name, kind=kind, shape=shape)
        for name, (kind, shape, _) in tensors.items()
    }


def _entry(file: str, name: str, entry: object) -> _Entry:
    """Type, shape and bytes of a tensor in a header."""
    found = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (found.get(key) for key in ("dtype", "shape", "data_offsets"))
    if isinstance(kind, str) and _is_sizes(shape) and _is_sizes(offsets) and len(offsets) == 2:
        return kind, tuple(shape), (offsets[0], offsets[1])
    raise CheckpointError(
        f"{file}: header: tensor {name!r}: expected dtype, shape and data_offsets, found "
        f"{str(entry)[:80]}; save it again."
    )


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= _MOST_DIMENSIONS
        and all(type(item) is int and 0 <= item < 2**63 for item in value)
    )


def _weight_map(path: Path) -> dict[str, str]:
    """Which file of the checkpoint holds which tensor."""
    found = read_mapping(path).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(
            f"{path.name}: expected a weight_map from tensors to names of files, found "
            f"{type(found).__name__}."
        )
    return found
