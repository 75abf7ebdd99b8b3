"""Overwrite device code of other GPU architectures in a shared library with zeros.

The section `.nv_fatbin` of an ELF file is a chain of regions, one per compilation unit: a header
(magic, version u16, header bytes u16, body bytes u64), then entries, each a header and a payload.
An entry header has kind u16 (1 PTX, 2 machine code), version u16, header bytes u32, payload bytes
u64, and the architecture, such as 90, as u32 at byte 28. Sizes and offsets do not change, so the
library remains valid; the zeroed payloads, which this GPU never reads, compress to almost nothing.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SECTION: Final = ".nv_fatbin"
MAGIC: Final = 0xBA55ED50
PTX: Final = 1
MACHINE_CODE: Final = 2

_REGION: Final = struct.Struct("<IHHQ")
_ENTRY: Final = struct.Struct("<HHIQ")
_ARCH_AT: Final = 28
_ELF_SECTION: Final = struct.Struct("<IIQQQQIIQQ")


class FatbinError(ValueError):
    """The bytes are not a chain of headers as described above."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Code of one architecture: `start` and `size` of its payload in the file, in bytes."""

    kind: int
    arch: int
    start: int
    size: int


def prune(data: bytes, arch: int) -> tuple[bytes, int]:
    """Zero what a GPU of `arch` (90 for Hopper) cannot run or would not choose.

    Machine code runs on GPUs of its major architecture with the same or a later minor one. A region
    without such code keeps its PTX, which the driver compiles.

    Returns:
        The new bytes, of the same length, and how many of them were zeroed.

    Raises:
        FatbinError: the headers do not chain exactly to the end of the section.
    """
    result = bytearray(data)
    zeroed = 0
    for entries in regions(data):
        runs = [e for e in entries if e.kind == MACHINE_CODE and _runs(e.arch, arch)]
        compiled = [e for e in entries if e.kind == PTX and e.arch <= arch]
        kept = runs or compiled
        for entry in entries:
            if entry not in kept:
                result[entry.start : entry.start + entry.size] = bytes(entry.size)
                zeroed += entry.size
    return bytes(result), zeroed


def regions(data: bytes) -> Iterator[list[Entry]]:
    """Return the entries of each region of an ELF file; none without device code.

    Raises:
        FatbinError: as `prune`.
    """
    for name, start, size in _sections(data):
        if name != SECTION:
            continue
        at, end = start, start + size
        while at < end:
            magic, _, header, body = _unpack(_REGION, data, at, end)
            if magic == 0 and not any(data[at : at + 8]):
                at += 8  # alignment
                continue
            if magic != MAGIC or header < _REGION.size or at + header + body > end:
                raise FatbinError(f"no region header at byte {at - start} of {SECTION}.")
            yield list(_entries(data, at + header, at + header + body))
            at += header + body


def _entries(data: bytes, at: int, end: int) -> Iterator[Entry]:
    while at < end:
        kind, _, header, payload = _unpack(_ENTRY, data, at, end)
        if kind not in (PTX, MACHINE_CODE) or header < _ARCH_AT + 4 or at + header + payload > end:
            raise FatbinError(f"no entry header at byte {at} of the file.")
        (arch,) = struct.unpack_from("<I", data, at + _ARCH_AT)
        yield Entry(kind, arch, at + header, payload)
        at += header + payload


def _runs(arch: int, device: int) -> bool:
    return arch // 10 == device // 10 and arch <= device


def _sections(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each section of a 64-bit little-endian ELF file."""
    if data[:6] != b"\x7fELF\x02\x01":
        return
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [_ELF_SECTION.unpack_from(data, table + i * size) for i in range(count)]
    for header in headers:
        at = headers[names][4] + header[0]
        yield data[at : data.index(b"\0", at)].decode(), header[4], header[5]


def _unpack(layout: struct.Struct, data: bytes, at: int, end: int) -> tuple[int, ...]:
    if at + layout.size > end:
        raise FatbinError(f"a header at byte {at} of the file is truncated.")
    return layout.unpack_from(data, at)
