"""The code of one GPU in a library that carries that of many: what is left out becomes zeros.

A library keeps, in its section `.nv_fatbin`, one fat binary for each source file: a header and entries, each
the machine code or the PTX of one architecture. The others may go where the GPU is known. They are filled
with zeros in place, so that no address moves: the file stays as long, and packs to a fraction.

Source: the layout is `fatBinaryHeader` of CUDA's fatbinary_section.h; that of
the entries is what nvcc 12 and 13 write.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pcsparse.errors import FormatError

_SECTION = b".nv_fatbin"
_MAGIC = 0xBA55ED50
# magic, version, bytes of the header, bytes of the entries
_HEADER = struct.Struct("<IHHQ")
# kind, version, bytes of the header, bytes of the payload; the architecture stands further on
_ENTRY = struct.Struct("<HHIQ")
_ARCH = struct.Struct("<28xI")
_MAGIC_BYTES = struct.pack("<I", _MAGIC)
_CODE = 2


@dataclass(frozen=True)
class Cut:
    """What was done to a library.

    Attributes:
        architectures: whose machine code was there, ascending.
        kept: fat binaries that were cut to one architecture.
        as_they_were: fat binaries without code for it, such as the empty ones of a linker.
        zeros: bytes that were filled.
    """

    architectures: tuple[int, ...]
    kept: int
    as_they_were: int
    zeros: int


def cut_library(data: bytes, arch: int) -> tuple[bytes, Cut | None]:
    """A shared library with the machine code of one architecture.

    Code of an older minor architecture serves where there is none of the very one: sm_86 runs that of sm_80.

    Args:
        data: an ELF file of 64 bits.
        arch: such as 90.

    Returns:
        As many bytes, and what was done; the same bytes and None where there is no code of a GPU.

    Raises:
        FormatError: it is no such file, a fat binary does not end where it says, or nothing runs on `arch`.
    """
    found = _section(data)
    if found is None:
        return data, None
    begin, end = found
    out = bytearray(data)
    there: set[int] = set()
    kept = as_they_were = zeros = 0
    for header, entries, stop in _binaries(data, begin, end):
        codes = [_ARCH.unpack_from(data, a)[0] for a, _, kind in entries if kind == _CODE]
        there.update(codes)
        # one major number, and none that is newer
        runs = [code for code in codes if code // 10 == arch // 10 and code <= arch]
        if not runs:
            as_they_were += 1
            continue
        best = max(runs)
        parts = [
            data[a:b] for a, b, kind in entries if kind == _CODE and _ARCH.unpack_from(data, a)[0] == best
        ]
        body = b"".join(parts)
        magic, version, size, _ = _HEADER.unpack_from(data, header)
        _HEADER.pack_into(out, header, magic, version, size, len(body))
        place = header + size
        out[place:stop] = body + bytes(stop - place - len(body))
        zeros += stop - place - len(body)
        kept += 1
    if there and not kept:
        names = ", ".join(f"sm_{code}" for code in sorted(there))
        raise FormatError(f"no code for sm_{arch} among {names}; keep the library whole, or name another GPU")
    return bytes(out), Cut(tuple(sorted(there)), kept, as_they_were, zeros)


def _section(data: bytes) -> tuple[int, int] | None:
    """Where the section of fat binaries begins and ends."""
    # 64 bits, little-endian
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        raise FormatError(f"no ELF file of 64 bits, little-endian: it begins with {data[:6]!r}")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    if table + size * count > len(data) or (count and not (size >= 64 and names < count)):
        raise FormatError(f"{count} section headers at byte {table} of a file of {len(data)} bytes")
    # name, then at 24 the place and at 32 the bytes
    headers = [struct.unpack_from("<I20xQQ", data, table + i * size) for i in range(count)]
    for name, place, length in headers:
        text = headers[names][1] + name
        if data[text : text + len(_SECTION) + 1] == _SECTION + b"\0":
            if place + length > len(data):
                raise FormatError(f"{_SECTION.decode()} ends at {place + length} of {len(data)} bytes")
            return place, place + length
    return None


def _binaries(data: bytes, begin: int, end: int) -> Iterator[tuple[int, list[tuple[int, int, int]], int]]:
    """Of each fat binary its place, its entries' (begin, end, kind), and its end."""
    place = begin
    while place < end:
        # between two of them are zeros, to the next multiple of eight bytes or for what was cut before
        following = data.find(_MAGIC_BYTES, place, end)
        following = end if following < 0 else following
        if following > place and data.count(0, place, following) == following - place:
            place = following
            continue
        if place + _HEADER.size > end:
            raise FormatError(f"{end - place} bytes at byte {place} are no fat binary")
        magic, _, size, length = _HEADER.unpack_from(data, place)
        stop = place + size + length
        if magic != _MAGIC or size < _HEADER.size or stop > end:
            raise FormatError(f"no fat binary at byte {place}: {magic:#x}, to byte {stop} of {end}")
        entries, at = [], place + size
        while at < stop:
            if at + _ARCH.size > stop:
                raise FormatError(f"{stop - at} bytes at byte {at} are no entry of a fat binary")
            kind, _, head, payload = _ENTRY.unpack_from(data, at)
            after = at + head + payload
            if head < _ARCH.size or after > stop:
                raise FormatError(f"the entry at byte {at} ends at {after}, its fat binary at {stop}")
            entries.append((at, after, kind))
            at = after
        yield place, entries, stop
        place = stop
