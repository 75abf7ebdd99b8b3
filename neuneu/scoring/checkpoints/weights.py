"""Weight files of a checkpoint folder: which tensors they hold, read without loading them.

Pickled weights (`pytorch_model.bin`) are replaced by safetensors without running their code.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import (
    check_regular,
    one_line,
    read_mapping,
    write_text_atomic,
)

if TYPE_CHECKING:
    import torch

INDEX_FILE: Final = "model.safetensors.index.json"
PICKLED_INDEX: Final = "pytorch_model.bin.index.json"
WHOLE_FILE_BYTES: Final = 16 * 2**20
SAMPLE_BLOCKS: Final = 64
SAMPLE_BYTES: Final = 64 * 2**10
_SINGLE_FILE: Final = "model.safetensors"
_PICKLED: Final = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")
_FLOATS: Final = ("BF16", "F16", "F32", "F64")
# Constants that old checkpoints store and models compute themselves.
_CONSTANTS: Final = re.compile(r"\.(rotary_emb\.inv_freq|(attention|attn)\.(bias|masked_bias))$")


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor as its file describes it; `kind` is the safetensors name of its type."""

    file: str
    kind: str
    shape: tuple[int, ...]


def is_constant(name: str) -> bool:
    """Return whether a stored tensor is a constant that models compute themselves."""
    return _CONSTANTS.search(name) is not None


def is_pickled(name: str) -> bool:
    """Return whether a file of this name holds pickled weights."""
    return _PICKLED.fullmatch(name) is not None


def read_headers(folder: Path) -> dict[str, TensorHeader]:
    """Return the tensors of a checkpoint by name, without the constants that models compute.

    Raises:
        CheckpointError: no safetensors file, one that is truncated or malformed, a shard that
            the index does not describe, or a tensor that is not of a float type.
    """
    headers: dict[str, TensorHeader] = {}
    for file in weight_files(folder):
        for name, header in _read_header(file).items():
            if name in headers:
                raise CheckpointError(
                    f"tensor {name!r} is in both {headers[name].file} and {file.name}; expected "
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
                f"tensor {name!r} is of type {header.kind}; expected one of {list(_FLOATS)}: "
                "quantised weights cannot be swapped; save the checkpoint unquantised."
            )
    return kept


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files: `model.safetensors`, or the shards of the index.

    Raises:
        CheckpointError: none, pickled weights only, more files than expected, or a pipe, a folder
            or a broken link in place of one.
    """
    present = sorted(folder.glob("*.safetensors"))
    if not present:
        pickled = [*sorted(folder.glob("*.bin")), *sorted(folder.glob("*.pt"))]
        found = f"pickled weights ({pickled[0].name})" if pickled else "no weights"
        raise CheckpointError(
            f"expected {_SINGLE_FILE} in {folder}, found {found}; "
            "save it again with safe_serialization=True."
        )
    for path in present:
        check_regular(path)
    index = folder / INDEX_FILE
    indexed = os.path.lexists(index)
    expected = sorted(set(_weight_map(index).values())) if indexed else [_SINGLE_FILE]
    if [path.name for path in present] != expected:
        raise CheckpointError(
            f"expected the weight files {expected}, found {[path.name for path in present]}; "
            "an engine reads every file it finds: remove the others, or save the checkpoint again."
        )
    return present


def weights_hash(folder: Path) -> str:
    """Return sixteen hex digits that identify the weights, cheaply.

    For each file they cover its name, its size, and its bytes: all of them up to 16 MiB; of a
    larger file the header and 64 evenly spaced blocks of 64 KiB. Two checkpoints of a run differ
    in every block; a file that was changed in one place only may keep its hash.

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
    """Yield (name, tensor) of a checkpoint that `read_headers` accepts, one at a time.

    Raises:
        CheckpointError: a file that has changed since and can no longer be read.
    """
    for path in weight_files(folder):
        yield from file_tensors(path)


def file_tensors(path: Path) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield (name, tensor) of one file, as `iter_tensors` does.

    Raises:
        CheckpointError: the file has changed since and can no longer be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if not is_constant(name):
                    yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: can no longer be read ({error}); copy it again."
        ) from error


def save_shards(folder: Path, shards: "Iterable[tuple[str, dict[str, torch.Tensor]]]") -> None:
    """Write safetensors files from (name, tensors), with an index unless there is one file."""
    from safetensors.torch import save_file

    weight_map: dict[str, str] = {}
    total_bytes = 0
    for name, tensors in shards:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if set(weight_map.values()) != {_SINGLE_FILE}:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        write_text_atomic(folder / INDEX_FILE, json.dumps(index, indent=1) + "\n")


def replace_pickled(folder: Path) -> None:
    """Replace the pickled weights of a folder by safetensors, file by file.

    Loading a pickle may run any code; torch is set to accept nothing but tensors.

    Raises:
        CheckpointError: a file that is damaged, or holds anything else.
    """

    def shards() -> "Iterator[tuple[str, dict[str, torch.Tensor]]]":
        for path in sorted(path for path in folder.iterdir() if is_pickled(path.name)):
            name = path.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
            yield name, _unpickle(path)
            path.unlink()

    save_shards(folder, shards())
    (folder / PICKLED_INDEX).unlink(missing_ok=True)


def _unpickle(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    def is_plain(name: object, tensor: object) -> bool:
        return (
            isinstance(name, str)
            and isinstance(tensor, torch.Tensor)
            and tensor.layout == torch.strided
            and not tensor.is_quantized
            and tensor.device.type == "cpu"
        )

    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise almost anything
        raise CheckpointError(
            f"{path.name}: not a plain file of tensors ({one_line(error)})."
        ) from error
    if not isinstance(loaded, dict) or not all(is_plain(*item) for item in loaded.items()):
        raise CheckpointError(f"{path.name}: expected tensors by name, found something else.")
    # Tied tensors share memory, which safetensors cannot store: each gets its own.
    return {
        name: tensor.clone().contiguous()
        for name, tensor in loaded.items()
        if not is_constant(name)
    }


def _read_header(path: Path) -> dict[str, TensorHeader]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: TensorHeader(path.name, tensor.get_dtype(), tuple(tensor.get_shape()))
                for name, tensor in tensors.items()
            }
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name}: truncated, damaged or not safetensors ({path.stat().st_size} bytes: "
            f"{one_line(error)}); copy or save it again."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read ({one_line(error)}).") from error


def _weight_map(path: Path) -> dict[str, str]:
    """Return the file of each tensor by an index."""
    found = read_mapping(path).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(
            f"{path.name}: expected a weight_map from tensors to file names, found "
            f"{type(found).__name__}."
        )
    return found
