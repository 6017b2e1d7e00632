"""Cutting the code of many GPUs down to one: made-up libraries with a section of fat binaries."""

import struct

import pytest

from pcsparse.bench.device.fat_binary import Cut, cut_library
from pcsparse.errors import FormatError

CODE, PTX = 2, 1


def entry(kind: int, arch: int, payload: bytes) -> bytes:
    head = 80 if kind == PTX else 64
    payload += bytes(-len(payload) % 8)
    fixed = struct.pack("<HHIQIIHHI", kind, 0x101, head, len(payload), 0, 0, 7, 1, arch)
    return fixed.ljust(head, b"\x11") + payload


def binary(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(section: bytes | None, name: bytes = b".nv_fatbin") -> bytes:
    """An ELF file: header, the section, names of sections, their headers."""
    parts = [] if section is None else [(name, section)]
    names = b"\0" + b"".join(name + b"\0" for name, _ in parts) + b".shstrtab\0"
    place, at, rows, bodies = 64, 1, [bytes(64)], b""
    for name, body in [*parts, (b".shstrtab", names)]:
        rows.append(struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, place, len(body), 0, 0, 8, 0))
        at, place, bodies = at + len(name) + 1, place + len(body), bodies + body
    head = b"\x7fELF\x02\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, place, 0, 64, 0, 0, 64, len(rows), len(rows) - 1)
    return head + bodies + b"".join(rows)


OLD, NEW, TEXT = entry(CODE, 80, b"eighty" * 9), entry(CODE, 90, b"ninety" * 7), entry(PTX, 90, b"text" * 5)
STUB = binary(entry(CODE, 52, b"stub"), entry(PTX, 52, b"s"))


def test_only_the_code_of_the_gpu_stays_and_nothing_moves():
    whole = binary(OLD, NEW, TEXT)
    data = library(STUB + whole + bytes(8) + binary(NEW, OLD))
    less, cut = cut_library(data, 90)

    gone = len(OLD) + len(TEXT)
    first = binary(NEW) + bytes(gone)
    assert less == library(STUB + first + bytes(8) + binary(NEW) + bytes(len(OLD)))
    assert len(less) == len(data)
    assert cut == Cut((52, 80, 90), kept=2, as_they_were=1, zeros=gone + len(OLD))


def test_a_cut_library_is_cut_to_itself():
    less, _ = cut_library(library(binary(OLD, TEXT, NEW) + binary(OLD)), 90)
    again, cut = cut_library(less, 90)
    assert again == less
    # what has no code for it keeps what it has
    assert cut == Cut((80, 90), kept=1, as_they_were=1, zeros=0)


def test_an_older_minor_architecture_serves_a_newer_major_one_does_not():
    data = library(binary(entry(CODE, 75, b"a"), OLD, entry(CODE, 86, b"b"), NEW))
    for arch, kept in ((80, OLD), (87, entry(CODE, 86, b"b")), (75, entry(CODE, 75, b"a"))):
        less, _ = cut_library(data, arch)
        assert less[64:].startswith(binary(kept))
    with pytest.raises(FormatError, match="no code for sm_100 among sm_75, sm_80, sm_86, sm_90; keep the"):
        cut_library(data, 100)


@pytest.mark.parametrize("data", [library(None), library(binary(OLD), b".nv_fatbin2")])
def test_a_library_without_code_of_a_gpu_is_left_alone(data):
    assert cut_library(data, 90) == (data, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"MZ not a library", "no ELF file of 64 bits"),
        (library(binary(NEW))[:200], "section headers at byte"),
        (library(b"\1" * 40), "no fat binary at byte 64"),
        (library(binary(NEW)[:-8]), "no fat binary at byte 64"),
        (library(b"\1" * 8), "8 bytes at byte 64 are no fat binary"),
        (library(binary(NEW[:40])), "the entry at byte 80 ends"),
        (library(binary(NEW, b"12345678")), "8 bytes at byte .* are no entry"),
        (library(binary(NEW[:4] + bytes(4) + NEW[8:])), "the entry at byte 80 ends"),
    ],
    ids=["other", "short", "noise", "short-binary", "short-header", "short-entry", "rest", "no-header"],
)
def test_what_is_not_as_it_says_is_refused(data, message):
    with pytest.raises(FormatError, match=message):
        cut_library(data, 90)
