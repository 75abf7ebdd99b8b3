"""Tracker configs, and the records that wandb wrote."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuneu.core.config import build_config
from neuneu.training.trackers import TrackingConfig


def tracked(kind: str, **changes: Any) -> TrackingConfig:
    return build_config(TrackingConfig, {"kind": kind, "project": "tests"} | changes)


def wandb_records(folder: Path) -> Iterator[Any]:
    """Yield the records of offline runs, oldest first: protobufs in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, content = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, size, part = struct.unpack("<IHB", data[at : at + 7])
            content += data[at + 7 : at + 7 + size]
            at += 7 + size
            if part in {1, 4}:  # complete, or the last part
                yield wandb_internal_pb2.Record.FromString(content)
                content = b""
