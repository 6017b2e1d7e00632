"""A kernel map as sorted implicit GEMM wants it: tiles of alike rows, and for each the offsets that it has.

Rows are sorted by the offsets at which they have a neighbour. The rarest offset leads: a rare bit costs
little order and saves most, as a tile that has no row with it skips it whole. (On a LiDAR sweep, in one
split, tiles of 128 rows run 6.8 offsets a row where 3.8 are useful; with bits in the order of the offsets,
7.9.) Ranks are those of the Gray code, so that rows of neighbouring ranks differ in few bits.

Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862), section 4.2: splits and the sort by mask; Gray order and
lists of offsets a tile: JeffreyXiang/FlexGEMM@6dd94a8. The order of bits by frequency is ours.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.launch import Launcher

MOST_TOGETHER = 16
"""Lists are filled up to a multiple of as many offsets as one step of the GEMM may take."""
# rows that are ranked together, and offsets that are looked at together
_ROWS, _OFFSETS = 256, 32
# shares of the rows that are counted apart, at most, and rows that are counted together
_MOST_SHARES, _COUNTED = 32, 1024


def gemm_layout(table: Tensor, splits: int, tile: int) -> list[Tensor]:
    k, n_out = table.shape
    ordered, splits = splits > 0, max(splits, 1)
    chunk = -(-k // splits)
    together = min(MOST_TOGETHER, _power_of_two(chunk))
    length, tiles = -(-chunk // together) * together, -(-n_out // tile)
    rows = table.new_empty((splits, tiles * tile))
    lists = table.new_empty((splits, tiles, length + 1))
    index = table.new_empty((splits, tiles, length, tile))
    if n_out:
        order = None
        if ordered:
            order = torch.sort(_ranks(table, splits, chunk), dim=1, descending=True, stable=True).indices
        _FILL(
            (tiles, splits, 1),
            (table, order, rows, index, lists),
            (k, n_out, chunk, length),
            (together, tile, _OFFSETS, MOST_TOGETHER),
        )
    return [rows, index, lists]


def _power_of_two(n: int) -> int:
    """The least that is not below `n`."""
    return 1 << max(n - 1, 0).bit_length()


def _ranks(table: Tensor, splits: int, chunk: int) -> Tensor:
    """Sort keys (splits, n_out): the higher, the more rare offsets a row has."""
    k, n_out = table.shape
    bits = min(chunk, 63)
    # a narrow key is sorted in fewer passes
    kind = torch.int16 if bits < 16 else torch.int32 if bits < 32 else torch.int64
    keys = table.new_empty((splits, n_out), dtype=kind)
    shares = min(_MOST_SHARES, _power_of_two(-(-n_out // _COUNTED)))
    counts = table.new_empty((shares, k))
    if k:
        _COUNT((k, shares, 1), (table, counts), (k, n_out), (shares, _COUNTED))
    _RANK(
        (-(-n_out // _ROWS), splits, 1),
        (table, counts, keys),
        (k, n_out, chunk, bits),
        (_power_of_two(chunk), shares, _ROWS),
    )
    return keys


@triton.jit(do_not_specialize=["k", "n_out"])
def _count_pairs(table, counts, k, n_out, SHARES: tl.constexpr, COUNTED: tl.constexpr):
    offset, share = tl.program_id(0), tl.program_id(1)
    size = tl.cdiv(n_out, SHARES)
    stop = tl.minimum(n_out, (share + 1) * size)
    found = tl.zeros((COUNTED,), dtype=tl.int32)
    table += offset.to(tl.int64) * n_out
    for begin in range(share * size, stop, COUNTED):
        r = begin + tl.arange(0, COUNTED)
        found += (tl.load(table + r, mask=r < stop, other=-1) >= 0).to(tl.int32)
    tl.store(counts + share * k + offset, tl.sum(found, axis=0))


@triton.jit(do_not_specialize=["k", "n_out", "chunk", "bits"])
def _rank_rows(
    table,
    counts,
    keys,
    k,
    n_out,
    chunk,
    bits,
    OFFSETS: tl.constexpr,
    SHARES: tl.constexpr,
    ROWS: tl.constexpr,
):
    split = tl.program_id(1)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    each = tl.arange(0, OFFSETS)
    last = tl.minimum(chunk, k - split * chunk)
    counts += split * chunk
    of_share = tl.load(
        counts + (tl.arange(0, SHARES)[:, None] * k + each[None, :]), mask=(each < last)[None, :], other=0
    )
    count = tl.sum(of_share, axis=0)
    key = tl.zeros((ROWS,), dtype=tl.int64)
    for j in range(0, last):
        here = tl.sum(tl.where(each == j, count, 0), axis=0)
        # offsets that no row has say nothing: they come last
        rarer = (count > 0) & ((count < here) | ((count == here) & (each < j)))
        place = bits - 1 - tl.sum(rarer.to(tl.int32), axis=0)
        i = tl.load(table + (split * chunk + j).to(tl.int64) * n_out + r, mask=r < n_out, other=-1)
        # where there are more offsets than bits, the common ones do not count
        hit = (i >= 0) & (place >= 0)
        key |= hit.to(tl.int64) << tl.maximum(place, 0).to(tl.int64)
    # the rank of a Gray code
    for halvings in tl.static_range(6):
        key ^= key >> (1 << halvings)
    tl.store(keys + split.to(tl.int64) * n_out + r, key.to(keys.dtype.element_ty), mask=r < n_out)


@triton.jit(do_not_specialize=["k", "n_out", "chunk", "length"])
def _fill_tiles(
    table,
    order,
    rows,
    index,
    lists,
    k,
    n_out,
    chunk,
    length,
    TOGETHER: tl.constexpr,
    TILE: tl.constexpr,
    OFFSETS: tl.constexpr,
    MOST: tl.constexpr,
):
    split = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0) + split * tl.num_programs(0)
    position = tl.program_id(0) * TILE + tl.arange(0, TILE)
    r = tl.arange(0, TILE)
    real = position < n_out
    row = tl.where(real, position, -1).to(tl.int64)
    if order is not None:
        row = tl.load(order + split * n_out + position, mask=real, other=-1)
    tl.store(rows + tile * TILE + r, row.to(tl.int32))
    index += tile * length * TILE
    lists += tile * (length + 1)
    last = tl.minimum(chunk, k - tl.program_id(1) * chunk)
    count = 0
    for begin in range(0, last, OFFSETS):
        each = begin + tl.arange(0, OFFSETS)
        offset = split * chunk + each
        found = (each < last)[:, None] & real[None, :]
        i = tl.load(table + (offset[:, None] * n_out + row[None, :]), mask=found, other=-1)
        active = tl.max(i, axis=1) >= 0
        place = count + tl.cumsum(active.to(tl.int32), axis=0) - 1
        tl.store(index + (place[:, None] * TILE + r[None, :]), i, mask=active[:, None])
        tl.store(lists + 1 + place, offset.to(tl.int32), mask=active)
        count += tl.sum(active.to(tl.int32), axis=0)
    # a step of the GEMM may take some more: no rows of the first offset
    spare = count + tl.arange(0, MOST)
    wanted = spare < tl.cdiv(count, TOGETHER) * TOGETHER
    tl.store(index + (spare[:, None] * TILE + r[None, :]), -1, mask=wanted[:, None])
    tl.store(lists + 1 + spare, 0, mask=wanted)
    tl.store(lists, count)


_COUNT, _RANK, _FILL = Launcher(_count_pairs), Launcher(_rank_rows), Launcher(_fill_tiles)
