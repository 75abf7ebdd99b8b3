"""Pickled weights (`pytorch_model.bin`) as safetensors, read without running their code."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import one_line, write_text_atomic
from neuneu.scoring.checkpoints.weights import INDEX_FILE, is_constant

if TYPE_CHECKING:
    import torch

PICKLED_INDEX: Final = "pytorch_model.bin.index.json"
_NAME: Final = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")


def is_pickled(name: str) -> bool:
    """Whether a file of this name holds pickled weights."""
    return _NAME.fullmatch(name) is not None


def replace_pickled(folder: Path) -> None:
    """Writes safetensors in place of the pickled weights of a folder, file by file.

    A pickle may run any code when it is loaded; torch is told to take nothing but tensors.

    Raises:
        CheckpointError: a file that is damaged, or holds anything else.
    """
    from safetensors.torch import save_file

    weight_map: dict[str, str] = {}
    total_bytes = 0
    for path in sorted(path for path in folder.iterdir() if is_pickled(path.name)):
        name = path.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        tensors = _load(path)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total_bytes += sum(tensor.nbytes for tensor in tensors.values())
        path.unlink()
    if len(set(weight_map.values())) > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        write_text_atomic(folder / INDEX_FILE, json.dumps(index, indent=1) + "\n")
    (folder / PICKLED_INDEX).unlink(missing_ok=True)


def _load(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle ends in errors of almost any type
        raise CheckpointError(
            f"{path.name}: not a plain file of tensors ({one_line(error)})."
        ) from error
    if not isinstance(loaded, dict) or not all(map(_is_plain, loaded.items())):
        raise CheckpointError(f"{path.name}: expected tensors by name, found something else.")
    # Tied tensors share their memory, which safetensors does not store: each gets its own.
    return {
        name: tensor.clone().contiguous()
        for name, tensor in loaded.items()
        if not is_constant(name)
    }


def _is_plain(item: tuple[object, object]) -> bool:
    """Whether this is a name with a tensor that safetensors can store."""
    import torch

    name, tensor = item
    return (
        isinstance(name, str)
        and isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and not tensor.is_quantized
        and tensor.device.type == "cpu"
    )
