"""Streams of bits, and Huffman's codes: round trips, optimality, damage."""

import heapq
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.errors import FormatError, RangeError
from pcsparse.packed import huffman
from pcsparse.packed.bits import pack_bits, unpack_bits


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000, (1 << 18) + 3])
def test_bits_round_trip(width, n):
    values = np.random.default_rng(width).integers(0, 1 << width, n).astype(np.uint8)
    packed = pack_bits(values, width)
    assert len(packed) == -(-n * width // 8)
    assert np.array_equal(unpack_bits(packed, width, n), values)


def test_the_lowest_bit_comes_first():
    assert pack_bits(np.array([1, 2, 15], np.uint8), 4).tolist() == [0x21, 0x0F]
    assert pack_bits(np.array([5, 3], np.uint8), 3).tolist() == [5 | 3 << 3]


def test_bits_that_do_not_fit_or_are_left_over_are_refused():
    with pytest.raises(RangeError, match="16 does not fit into 4 bits"):
        pack_bits(np.array([16], np.uint8), 4)
    with pytest.raises(FormatError, match="3 values of 4 bits take 2 bytes, got 1"):
        unpack_bits(np.zeros(1, np.uint8), 4, 3)
    with pytest.raises(FormatError, match="bits after the last"):
        unpack_bits(np.array([0, 0xF0], np.uint8), 4, 3)


def oracle_cost(counts: list[int]) -> int:
    """Bits of the best code without a limit, by Huffman's own merging."""
    heap = [c for c in counts if c]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any))
def test_codes_are_as_short_as_huffmans(counts):
    lengths = huffman.code_lengths(np.array(counts))
    assert sum(c * int(n) for c, n in zip(counts, lengths, strict=True)) == oracle_cost(counts)


def test_no_code_is_longer_than_the_limit():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = huffman.code_lengths(np.array(fibonacci))
    assert int(lengths.max()) == huffman.LONGEST
    assert sum(2.0 ** -int(n) for n in lengths) == 1.0


@pytest.mark.parametrize("n", [0, 1, 2047, 2048, 2049, 10_000, (1 << 18) + 5])
@pytest.mark.parametrize("skew", [1.0, 0.5, 0.01])
def test_streams_round_trip(n, skew):
    rng = np.random.default_rng(n)
    symbols = (16 * rng.random(n) ** (1 / skew)).astype(np.uint8)
    stream = huffman.encode(symbols, 16)
    assert np.array_equal(huffman.decode(stream), symbols)
    assert stream.n_bits == int(stream.lengths[symbols].sum())


def test_one_symbol_alone_round_trips():
    symbols = np.full(5000, 3, np.uint8)
    stream = huffman.encode(symbols, 16)
    assert stream.n_bits == 5000
    assert np.array_equal(huffman.decode(stream), symbols)


def test_uneven_symbols_take_fewer_bits():
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(0.4, 50_000), 15).astype(np.uint8)
    p = np.bincount(symbols, minlength=16) / len(symbols)
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
    bits = huffman.encode(symbols, 16).n_bits / len(symbols)
    assert entropy <= bits < entropy + 0.1 < 4


def test_symbols_outside_the_alphabet_are_refused():
    with pytest.raises(RangeError, match="symbol 16 is outside"):
        huffman.encode(np.array([16], np.uint8), 16)


def damaged() -> huffman.HuffmanStream:
    return huffman.encode(np.arange(5000).astype(np.uint8) % 11, 16)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"lengths": np.where(s.lengths == 3, 4, s.lengths).astype(np.uint8)},
        lambda s: {"lengths": np.full(16, 17, np.uint8)},
        lambda s: {"data": s.data[:-1]},
        lambda s: {"n": s.n + 1},
        lambda s: {"n": s.n - 1},
        lambda s: {"n_bits": s.n_bits - 1},
        lambda s: {"positions": s.positions + np.uint64(1)},
        lambda s: {"positions": s.positions[::-1].copy()},
        lambda s: {"positions": np.array([0, 1 << 40, 1 << 41], np.uint64)},
        lambda s: {"positions": np.array([0, 1, 2], np.uint64)},
    ],
)
def test_damage_is_seen(change):
    stream = damaged()
    assert len(huffman.decode(stream)) == 5000
    with pytest.raises(FormatError):
        huffman.decode(replace(stream, **change(stream)))
