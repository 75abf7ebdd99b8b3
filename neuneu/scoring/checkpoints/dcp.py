"""Conversion of torch distributed checkpoints (DCP) to safetensors that transformers names.

Trainers such as torchtitan and OLMo-core save a folder with a `.metadata` and files such as
`__0_0.distcp`, to which every rank has written its pieces of the model and of the optimizer. Each
tensor is put together from its pieces, as `torch.distributed.checkpoint` does, one at a time; what
is not the model's is not read. Nothing is unpickled but plain tensors
(`neuneu.scoring.checkpoints.dcp_metadata`).
"""

import io
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import check_regular, one_line, read_regular
from neuneu.scoring.checkpoints.configs import check_config, parse_config
from neuneu.scoring.checkpoints.dcp_layouts import Names, find_names, is_rotary, to_half_split
from neuneu.scoring.checkpoints.dcp_metadata import (
    METADATA_FILE,
    Chunk,
    Metadata,
    StoredTensor,
    is_data,
)
from neuneu.scoring.checkpoints.weights import save_shards

if TYPE_CHECKING:
    import torch

SHARD_BYTES: Final = 2**30
"""The most bytes of a safetensors file, unless one tensor has more: what is held in memory."""

_TIED: Final = ("model.embed_tokens.weight", "lm_head.weight")


def files(names: Collection[str]) -> list[str]:
    """Return the files of a distributed checkpoint among those of a folder, none if it is not one.

    Raises:
        CheckpointError: files with tensors, but no `.metadata`, which is written last.
    """
    data = sorted(name for name in names if is_data(name))
    if data and METADATA_FILE not in names:
        raise CheckpointError(
            f"expected {METADATA_FILE} beside {data[0]}, found none: its saving has not ended, or "
            "the file was left out of a copy, as hidden ones are; copy or save it again."
        )
    return [METADATA_FILE, *data] if data else []


def convert(folder_in: Path, folder_out: Path) -> None:
    """Write safetensors from a distributed checkpoint, and copy its other files.

    Weights keep their type. `folder_out` must not exist; it holds a whole checkpoint on return.

    Raises:
        CheckpointError: a damaged file, tensors of no known layout, or weights that do not match
            `config.json`.
    """
    config = check_config(parse_config(read_regular(folder_in / "config.json")))
    metadata = Metadata(read_regular(folder_in / METADATA_FILE))
    names = find_names(metadata.names, config["model_type"])
    tensors = {ours: metadata.tensor(name) for ours, name in names.originals.items()}
    _check_files(folder_in, tensors.values())
    if config.get("tie_word_embeddings"):
        _check_tied(folder_in, tensors, names, config)
    groups = _groups(tensors)

    def shards() -> "Iterator[tuple[str, dict[str, torch.Tensor]]]":
        for i, group in enumerate(groups, 1):
            name = f"model-{i:05}-of-{len(groups):05}.safetensors"
            yield (
                name if len(groups) > 1 else "model.safetensors",
                {ours: _read(folder_in, ours, tensors[ours], names, config) for ours in group},
            )

    folder_out.mkdir(parents=True)
    save_shards(folder_out, shards())
    for path in folder_in.iterdir():
        if not is_data(path.name) and path.name != METADATA_FILE:
            shutil.copyfile(path, folder_out / path.name)


def _check_files(folder: Path, tensors: Iterable[StoredTensor]) -> None:
    ends: dict[str, int] = {}
    for chunk in (chunk for stored in tensors for chunk in stored.chunks):
        ends[chunk.file] = max(ends.get(chunk.file, 0), chunk.start + chunk.length)
    for file, end in sorted(ends.items()):
        check_regular(folder / file)
        size = (folder / file).stat().st_size
        if size < end:
            raise CheckpointError(
                f"{file}: truncated: expected at least {end} bytes by {METADATA_FILE}, found "
                f"{size}; copy it again."
            )


def _check_tied(
    folder: Path, tensors: dict[str, StoredTensor], names: Names, config: dict[str, Any]
) -> None:
    """Refuse an output head of its own, which a model with tied weights would not use."""
    import torch

    found = [name for name in _TIED if name in tensors]
    if len(found) == 2:
        embedding, head = (_read(folder, name, tensors[name], names, config) for name in found)
        if not torch.equal(embedding, head):
            raise CheckpointError(
                f"tensor {names.originals[found[1]]!r} differs from the embedding; expected the "
                "same, because tie_word_embeddings is true in config.json; set it to false if the "
                "head was trained by itself."
            )


def _groups(tensors: dict[str, StoredTensor]) -> list[list[str]]:
    groups: list[list[str]] = []
    room = 0
    for name in sorted(tensors):
        n_bytes = sum(chunk.length for chunk in tensors[name].chunks)
        if n_bytes > room:
            groups.append([])
            room = SHARD_BYTES
        groups[-1].append(name)
        room -= n_bytes
    return groups


def _read(
    folder: Path, ours: str, stored: StoredTensor, names: Names, config: dict[str, Any]
) -> "torch.Tensor":
    import torch

    original = names.originals[ours]
    dtype: torch.dtype = getattr(torch, stored.dtype)
    # NaN where pieces overlap and leave a gap: such a tensor is refused before it is scored.
    whole = torch.full(stored.shape, torch.nan, dtype=dtype)
    for chunk in stored.chunks:
        part = _piece(folder, original, chunk)
        if part.shape != chunk.sizes or part.dtype != dtype:
            raise CheckpointError(
                f"{chunk.file}: a piece of tensor {original!r} is {part.dtype} of shape "
                f"{list(part.shape)}; expected {dtype} of {list(chunk.sizes)} by {METADATA_FILE}; "
                "save the checkpoint again."
            )
        at = tuple(
            slice(start, start + size)
            for start, size in zip(chunk.offsets, chunk.sizes, strict=True)
        )
        whole[at] = part
    if config["model_type"] in names.layout.interleaved and is_rotary(ours):
        whole = to_half_split(ours, whole, config)
    return whole.contiguous()


def _piece(folder: Path, name: str, chunk: Chunk) -> "torch.Tensor":
    import torch

    with (folder / chunk.file).open("rb") as file:
        file.seek(chunk.start)
        content = io.BytesIO(file.read(chunk.length))
    try:
        part: Any = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise almost anything
        raise CheckpointError(
            f"{chunk.file}: tensor {name!r} cannot be read ({one_line(error)}); copy or save it "
            "again."
        ) from error
    if not isinstance(part, torch.Tensor) or part.layout != torch.strided or part.is_quantized:
        raise CheckpointError(
            f"{chunk.file}: expected a plain tensor {name!r}, found {type(part).__name__}; save "
            "the checkpoint again."
        )
    return part.detach()
