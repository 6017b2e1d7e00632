"""Canonical Huffman codes of small symbols, in blocks that are read side by side.

A stream of variable-length codes can only be followed from its start; so the position of every block of
`BLOCK` symbols is kept, and all blocks are decoded in step.

Source: Huffman 1952; lengths limited by package-merge (Larmore and Hirschberg, JACM 1990); as the last stage
of a compressed network, Deep Compression (ICLR 2016), section 4.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pcsparse.errors import FormatError, RangeError

BLOCK = 2048
LONGEST = 16
"""Bits of the longest code: as many as one look-up table may index."""

# of symbols a step, each taken apart into single bits
_STEP = 1 << 18


@dataclass(frozen=True, eq=False)
class HuffmanStream:
    """Symbols as Huffman codes.

    Attributes:
        lengths: (n_symbols,) uint8, bits of each symbol's code, 0 where it does not occur. They are the code:
            codes are canonical, given out by length and then by symbol.
        positions: (n_blocks,) uint64, the bit at which each block of `BLOCK` symbols begins.
        data: (ceil(n_bits / 8),) uint8, the highest bit of a byte first.
        n: symbols.
        n_bits: of all codes together.
    """

    lengths: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.uint64]
    data: npt.NDArray[np.uint8]
    n: int
    n_bits: int

    @property
    def n_bytes(self) -> int:
        """Bytes of codes, lengths and positions together."""
        return self.lengths.nbytes + self.positions.nbytes + self.data.nbytes


def code_lengths(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Bits of each symbol's code: least in all for these counts, none longer than `LONGEST`.

    Args:
        counts: (n_symbols,) int64, how often each occurs; at most 2^LONGEST may occur.

    Raises:
        RangeError: more symbols occur than codes of `LONGEST` bits can tell apart.
    """
    present = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.uint8)
    if len(present) > 1 << LONGEST:
        raise RangeError(f"{len(present)} symbols occur; codes of {LONGEST} bits tell {1 << LONGEST} apart")
    if len(present) < 2:
        # one symbol still needs a bit, or a stream of it could not be told from none
        lengths[present] = 1
        return lengths
    # package-merge: an item is a weight and the symbols in it; each list is merged with pairs of the last
    singles: list[tuple[int, tuple[int, ...]]] = sorted((int(counts[s]), (int(s),)) for s in present)
    items = singles
    for _ in range(LONGEST - 1):
        pairs = [(a[0] + b[0], a[1] + b[1]) for a, b in pairwise(items)][::2]
        items = sorted(singles + pairs)
    for _, symbols in items[: 2 * len(present) - 2]:
        np.add.at(lengths, list(symbols), 1)
    return lengths


def encode(symbols: npt.NDArray[np.uint8], n_symbols: int) -> HuffmanStream:
    """Encode with the code that is best for these symbols.

    Args:
        symbols: (n,) uint8, each below `n_symbols`.
        n_symbols: of the alphabet, at most 256.

    Raises:
        RangeError: a symbol outside the alphabet.
    """
    if len(symbols) and int(symbols.max()) >= n_symbols:
        raise RangeError(f"symbol {int(symbols.max())} is outside the alphabet of {n_symbols}")
    lengths = code_lengths(np.bincount(symbols, minlength=n_symbols))
    codes = _canonical(lengths)
    ends = np.cumsum(lengths[symbols], dtype=np.uint64)
    starts = np.concatenate([np.zeros(1, np.uint64), ends])
    n_bits = int(starts[-1])
    bits = np.zeros(n_bits, np.uint8)
    for i in range(0, len(symbols), _STEP):
        some = symbols[i : i + _STEP]
        widths = lengths[some].astype(np.int64)
        first = int(starts[i])
        total = int(widths.sum())
        # which bit of its own code each bit is
        within = np.arange(total) - np.repeat(np.cumsum(widths) - widths, widths)
        shifts = np.repeat(widths, widths) - 1 - within
        bits[first : first + total] = (np.repeat(codes[some], widths) >> shifts) & 1
    return HuffmanStream(lengths, starts[:-1:BLOCK].copy(), np.packbits(bits), len(symbols), n_bits)


def decode(stream: HuffmanStream) -> npt.NDArray[np.uint8]:
    """Symbols (n,) uint8 of a stream.

    Raises:
        FormatError: lengths that are no code, positions that do not follow from it, bits missing or over.
    """
    table_symbol, table_length = _tables(stream.lengths)
    n_blocks = -(-stream.n // BLOCK)
    if len(stream.positions) != n_blocks or len(stream.data) != -(-stream.n_bits // 8):
        raise FormatError(
            f"{stream.n} symbols in {stream.n_bits} bits need {n_blocks} positions and "
            f"{-(-stream.n_bits // 8)} bytes, got {len(stream.positions)} and {len(stream.data)}"
        )
    if n_blocks == 0:
        return np.zeros(0, np.uint8)
    # every look-up takes LONGEST bits, so three bytes from where a code begins
    data = np.concatenate([stream.data, np.zeros(4, np.uint8)]).astype(np.uint32)
    ends = np.append(stream.positions[1:], stream.n_bits).astype(np.int64)
    at = stream.positions.astype(np.int64)
    if int(at[0]) != 0 or (at > ends).any() or int(ends.max()) > stream.n_bits:
        raise FormatError("the positions of the blocks do not ascend within the stream; it is damaged")
    found = np.zeros((n_blocks, BLOCK), np.uint8)
    last = stream.n - (n_blocks - 1) * BLOCK
    for i in range(BLOCK):
        # the last block may be shorter
        live = slice(0, n_blocks if i < last else n_blocks - 1)
        here = at[live]
        byte = here >> 3
        window = (data[byte] << 16) | (data[byte + 1] << 8) | data[byte + 2]
        code = (window >> (8 - (here & 7)).astype(np.uint32)) & 0xFFFF
        found[live, i] = table_symbol[code]
        step = table_length[code]
        at[live] += step
        if not step.all() or (at[live] > ends[live]).any():
            raise FormatError("a code of no symbol, or one that leaves its block; the stream is damaged")
    if (at != ends).any():
        raise FormatError("a block does not end where the next one begins; the stream is damaged")
    return found.ravel()[: stream.n]


def _canonical(lengths: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Codes by symbol: ascending by length, then by symbol."""
    codes = np.zeros(len(lengths), np.int64)
    code, before = 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[symbol])
        if length == 0:
            continue
        code <<= length - before
        before = length
        codes[symbol] = code
        code += 1
    return codes


def _tables(lengths: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Symbol and length by the next LONGEST bits; length 0 where no code begins so."""
    present = np.flatnonzero(lengths)
    if len(present) and int(lengths.max()) > LONGEST:
        raise FormatError(f"a code of {int(lengths.max())} bits; no code is longer than {LONGEST}")
    room = sum(1 << (LONGEST - int(lengths[symbol])) for symbol in present)
    # a code of one symbol leaves half of the room free
    if room != 1 << LONGEST and len(present) > 1:
        raise FormatError(f"the lengths of the codes fill {room} of {1 << LONGEST} places: they are no code")
    table_symbol = np.zeros(1 << LONGEST, np.uint8)
    table_length = np.zeros(1 << LONGEST, np.int64)
    codes = _canonical(lengths)
    for symbol in present:
        length = int(lengths[symbol])
        first = int(codes[symbol]) << (LONGEST - length)
        table_symbol[first : first + (1 << (LONGEST - length))] = symbol
        table_length[first : first + (1 << (LONGEST - length))] = length
    return table_symbol, table_length
