"""Trained cross-run networks as files: safetensors weights and a JSON record. No pickles."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
from torch import Tensor

from neuneu.core.config import build_config, config_to_dict
from neuneu.core.errors import DataError
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.forecasters.cross_run.network import CrossRunConfig, CrossRunNetwork
from neuneu.forecasters.window.export import CONFIG, FORMAT_VERSION, WEIGHTS, read_record, versions

KIND: Final = "cross-run"


def save_networks(
    folder: Path,
    networks: Sequence[CrossRunNetwork],
    **record: Mapping[str, Any],
) -> None:
    """Writes networks of one shape; the record comes last and marks the folder as complete.

    Args:
        folder: made if it is not there.
        networks: at least one.
        record: further JSON to store beside the shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, network in enumerate(networks)
        for name, value in network.state_dict().items()
    }
    with atomic_path(folder / WEIGHTS) as temporary:
        # save_file would make a file that only its owner can read.
        temporary.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    content = {"kind": KIND, "format_version": FORMAT_VERSION, **_shape(networks)}
    content["versions"] = versions()
    write_text_atomic(folder / CONFIG, json.dumps(content | record, indent=1) + "\n")


def _shape(networks: Sequence[CrossRunNetwork]) -> dict[str, Any]:
    return {
        "network": config_to_dict(networks[0].config),
        "sizes": networks[0].sizes,
        "networks": len(networks),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """What a folder holds: networks in evaluation mode, and the rest of its record."""

    networks: list[CrossRunNetwork]
    record: Mapping[str, Any]


def load_networks(folder: Path) -> Saved:
    """The networks of a folder, and its record.

    Raises:
        UserError: no such files, of another kind or version, or files that do not fit.
    """
    record = read_record(folder)
    if record.get("kind") != KIND:
        raise DataError(
            f"{folder / CONFIG}: expected kind {KIND!r}, found {record.get('kind')!r}; give a "
            "folder that `neuneu pretrain` wrote."
        )
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        networks = _rebuild(tensors, record)
    except (OSError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise DataError(
            f"{folder / WEIGHTS}: does not hold the weights that {CONFIG} describes ({error}). "
            "Copy the folder again or train again."
        ) from error
    return Saved(networks=networks, record=record)


def _rebuild(tensors: Mapping[str, Tensor], shape: Mapping[str, Any]) -> list[CrossRunNetwork]:
    config = build_config(CrossRunConfig, shape["network"])
    networks = []
    for index in range(shape["networks"]):
        network = CrossRunNetwork(config, shape["sizes"])
        prefix = f"{index}."
        network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        networks.append(network.eval())
    return networks
