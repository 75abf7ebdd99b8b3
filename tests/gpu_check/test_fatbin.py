"""Device code of other GPUs is zeroed; everything else of a library stays as it is."""

import struct

import pytest
from gpu.fatbin import FatbinError, prune, regions

MACHINE_CODE, PTX = 2, 1


def entry(kind: int, arch: int, payload: bytes) -> bytes:
    header = struct.pack("<HHIQ", kind, 0x101, 64, len(payload)) + bytes(12)
    return header + struct.pack("<I", arch) + bytes(64 - 32) + payload


def region(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(fatbin: bytes, *, name: bytes = b".nv_fatbin") -> bytes:
    """An ELF file of three sections: none, the given one, and the sections' names."""
    names = b"\0" + name + b"\0.shstrtab\0"
    head = bytearray(b"\x7fELF\x02\x01\x01" + bytes(57))
    table = len(head) + len(fatbin) + len(names)
    struct.pack_into("<Q", head, 0x28, table)
    struct.pack_into("<HHH", head, 0x3A, 64, 3, 2)
    rows = [
        (0, 0, 0),
        (1, len(head), len(fatbin)),
        (len(name) + 2, len(head) + len(fatbin), len(names)),
    ]
    sections = b"".join(
        struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, start, size, 0, 0, 1, 0) for at, start, size in rows
    )
    return bytes(head) + fatbin + names + sections


def test_prune_several_architectures_keeps_the_card_s_own_code() -> None:
    old, own = entry(MACHINE_CODE, 80, b"old-code"), entry(MACHINE_CODE, 90, b"hopper!!")
    data = library(region(old, own, entry(PTX, 90, b"compiled")))
    pruned, zeroed = prune(data, 90)
    assert zeroed == 16
    assert pruned == data.replace(b"old-code", bytes(8)).replace(b"compiled", bytes(8))


def test_prune_region_without_own_code_keeps_older_ptx() -> None:
    data = library(region(entry(MACHINE_CODE, 80, b"ampere!!"), entry(PTX, 80, b"portable"),
                          entry(PTX, 100, b"tooyoung")))  # fmt: skip
    pruned, zeroed = prune(data, 90)
    assert zeroed == 16
    assert b"portable" in pruned
    assert b"ampere!!" not in pruned
    assert b"tooyoung" not in pruned


def test_prune_minor_version_runs_on_a_later_one_only() -> None:
    data = library(
        region(entry(MACHINE_CODE, 80, b"a100-gpu"), entry(MACHINE_CODE, 89, b"l4-card!"))
    )
    assert b"a100-gpu" in prune(data, 86)[0]
    assert b"l4-card!" not in prune(data, 86)[0]


def test_regions_with_padding_between_are_all_found() -> None:
    one, two = region(entry(MACHINE_CODE, 90, b"x" * 8)), region(entry(PTX, 75, b"y" * 16))
    found = list(regions(library(one + bytes(16) + two)))
    assert [[(e.kind, e.arch, e.size) for e in entries] for entries in found] == [
        [(MACHINE_CODE, 90, 8)],
        [(PTX, 75, 16)],
    ]


def test_prune_file_without_device_code_is_unchanged() -> None:
    for data in (b"no ELF file", library(b"anything", name=b".text")):
        assert prune(data, 90) == (data, 0)


@pytest.mark.parametrize(
    "broken",
    [
        region(entry(MACHINE_CODE, 80, b"x" * 8))[:-1],
        region(entry(7, 80, b"x" * 8)),
        region(entry(MACHINE_CODE, 80, b"x" * 8)) + b"trailing bytes..",
        region(entry(MACHINE_CODE, 80, b"x" * 8)[:-4]),
    ],
    ids=["cut", "unknown kind", "trailing", "payload beyond its region"],
)
def test_prune_headers_that_do_not_chain_raise(broken: bytes) -> None:
    with pytest.raises(FatbinError):
        prune(library(broken), 90)
