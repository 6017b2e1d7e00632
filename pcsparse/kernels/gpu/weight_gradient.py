"""Gradient of the weights on a GPU: one GEMM an offset, of rows that are gathered as they are multiplied.

The pairs of a map lie packed, offset after offset, so that no row is multiplied in vain. They are cut into
shares of equal size whatever the offsets hold, and a program adds one tile of channels of one share. Where an
offset ends within a share, the program writes what it has and begins anew: as share and offset only grow,
share p and offset o meet in partial sum p + o and in no other, so that shares + k - 1 of them are enough. How
many there are comes from the sizes of the problem; where they begin is read on the device. A second kernel
adds them in an order that the sizes and the map decide, so the bits are the same from run to run.

Without lists of pairs, several offsets lie side by side in one tile and the table is read as it is: the rows
of `grad_out` are read once for all of them, which pays in part for the products with zero. (A row of
`grad_out` that is not finite makes NaN of these products too.)

Source: the split over pairs with partial sums of a fixed number is TorchSparse++'s (MICRO 2023); shares that
cross from one offset to the next are those of stream-K (Osama et al., PPoPP 2023).
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.launch import Launcher

# programs wanted on the 132 processors of an H100 or H200: two on each, or one where a tile fills it. Every
# program writes partial sums: 256 channels took 6 % longer with two on each, and 13 % with four
_PROGRAMS, _LARGE_PROGRAMS = 264, 132
# numbers of a tile beyond which it takes eight warps
_LARGE = 64 * 128
# channels of a tile; exact products of float32 have no tensor core, and fewer sums fit the registers
_WIDEST, _WIDEST_EXACT = 128, 64
# rows that are multiplied together, by the bytes of a channel
_ROWS_TOGETHER = {2: 64, 4: 32}
# blocks of pairs that repay a partial sum; a third of the places of a table are filled, about
_BLOCKS_A_SHARE, _PLACES_A_PAIR = 4, 3
# a load of indices and a load of rows are ahead of the product: three blocks of rows are then on their way
_STAGES = 6
# places of the table, of one offset, that one program packs
_PLACES = 1024
# sums of one program that adds, and of one list of it; partial sums that are loaded before they are added
_SUMS, _LEAST_SUMS, _AHEAD = 1024, 64, 8
# bytes that one load takes at most
_WIDEST_LOAD = 16
# places of a table up to which the ends of shares, too, fit 32 bits
_SHORT = 1 << 30


def grad_weight_layout(table: Tensor) -> list[Tensor]:
    # the lists have room for every place of the table: their length would have to travel to the host
    k, n_out = table.shape
    rows_in = torch.empty(k * n_out, dtype=torch.int32, device=table.device)
    rows_out = torch.empty_like(rows_in)
    kind = torch.int32 if k * n_out <= _SHORT else torch.int64
    if k * n_out == 0:
        return [rows_in, rows_out, table.new_zeros(k + 1)]
    table, blocks = table.contiguous(), -(-n_out // _PLACES)
    counts = table.new_empty(k * blocks)
    # offset after offset: only the first axis of a grid is long enough for all kernels and all clouds
    _COUNT((k * blocks, 1, 1), (table, counts), (n_out,), (_PLACES,))
    ends, starts = counts.cumsum(0, dtype=kind), table.new_empty(k + 1, dtype=kind)
    _PACK((k * blocks, 1, 1), (table, counts, ends, rows_in, rows_out, starts), (n_out,), (_PLACES,))
    return [rows_in, rows_out, starts]


@triton.jit
def _places(table, n_out, PLACES: tl.constexpr):
    """The offset of a block of places, its number among those of it, output rows, and what stands there."""
    blocks = tl.cdiv(n_out, PLACES)
    offset, within = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    j = within * PLACES + tl.arange(0, PLACES)
    row = tl.load(table + offset.to(tl.int64) * n_out + j, mask=j < n_out, other=-1)
    return offset, within, j, row


@triton.jit(do_not_specialize=["n_out"])
def _count_by_block(table, counts, n_out, PLACES: tl.constexpr):
    _, _, _, row = _places(table, n_out, PLACES)
    tl.store(counts + tl.program_id(0), tl.sum((row >= 0).to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["n_out"])
def _pack_pairs(table, counts, ends, rows_in, rows_out, starts, n_out, PLACES: tl.constexpr):
    offset, within, j, row = _places(table, n_out, PLACES)
    block = tl.program_id(0)
    end = tl.load(ends + block)
    slot = end - tl.load(counts + block) + tl.cumsum((row >= 0).to(tl.int32), axis=0) - 1
    tl.store(rows_in + slot, row, mask=row >= 0)
    tl.store(rows_out + slot, j, mask=row >= 0)
    # the last block of an offset ends where the next offset starts
    tl.store(starts + 1 + offset, end, mask=within == tl.cdiv(n_out, PLACES) - 1)
    tl.store(starts, 0, mask=block == 0)


def implicit_gemm_grad_weight(
    feats: Tensor,
    grad_out: Tensor,
    table: Tensor,
    layout: list[Tensor] | None,
    *,
    tile_in: int = 0,
    tile_out: int = 0,
    tile_rows: int = 0,
    partials: int = 0,
    precision: str = "ieee",
    dtype: torch.dtype | None = None,
) -> Tensor:
    c_in, c_out = feats.shape[1], grad_out.shape[1]
    feats, grad_out = _loadable(feats), _loadable(grad_out)
    (k, n_out), wide_in, wide_out = table.shape, feats.shape[1], grad_out.shape[1]
    if k * n_out * c_in * c_out == 0:
        return feats.new_zeros(k, c_in, c_out, dtype=dtype)
    plan = _plan(
        (k, n_out, wide_in, wide_out),
        (feats.stride(0), grad_out.stride(0)),
        feats.element_size(),
        layout is not None,
        (tile_in, tile_out, tile_rows, partials),
        precision,
    )
    out = feats.new_empty(k, wide_in, wide_out, dtype=dtype)
    sums = torch.empty(plan.n_sums, dtype=torch.float32, device=feats.device)
    if layout is None:
        starts = table = table.contiguous()
        _SUM_ROWS(plan.grid, (feats, grad_out, table, sums), *plan.sum)
    else:
        rows_in, rows_out, starts = layout
        _SUM_PAIRS(plan.grid, (feats, grad_out, rows_in, rows_out, starts, sums), *plan.sum)
    _ADD(plan.adding_grid, (sums, starts, out), *plan.add)
    return out if (c_in, c_out) == (wide_in, wide_out) else out[:, :c_in, :c_out].contiguous()


# numbers, constants, warps and stages of a kernel, as `Launcher` takes them
Form = tuple[tuple[int, ...], tuple[int | bool | str, ...], int, int]


@dataclass(frozen=True)
class _Plan:
    """All that the sizes of a problem decide.

    Attributes:
        n_sums: float32 numbers of all partial sums.
        grid, sum: of the kernel that makes them.
        adding_grid, add: of the kernel that adds them.
    """

    n_sums: int
    grid: tuple[int, int, int]
    sum: Form
    adding_grid: tuple[int, int, int]
    add: Form


@lru_cache(maxsize=4096)
def _plan(
    sizes: tuple[int, int, int, int],
    steps: tuple[int, int],
    itemsize: int,
    by_pairs: bool,
    wanted: tuple[int, int, int, int],
    precision: str,
) -> _Plan:
    (k, n_out, c_in, c_out), exact = sizes, itemsize == 4 and precision == "ieee"
    widest = _WIDEST_EXACT if exact else _WIDEST
    tile_out = wanted[1] or min(widest, _tile(c_out))
    block = wanted[2] or _ROWS_TOGETHER[itemsize]
    in_align, out_align = _alignment(itemsize, c_in, steps[0]), _alignment(itemsize, c_out, steps[1])
    if by_pairs:
        tile_in, rows = wanted[0] or min(widest, _tile(c_in)), k * n_out // _PLACES_A_PAIR
        lines, tiles = (triton.next_power_of_2(k), tile_in), -(-c_in // tile_in) * -(-c_out // tile_out)
    else:
        # lines of the tile, an offset and a channel each
        channels, rows = triton.next_power_of_2(c_in), n_out
        tile_in = max(channels, min(wanted[0] or widest, _tile(k * channels)))
        lines = (tile_in // channels, channels)
        tiles = -(-k // lines[0]) * -(-c_out // tile_out)
    large = tile_in * tile_out > _LARGE
    programs = _LARGE_PROGRAMS if large else _PROGRAMS
    shares = wanted[3] or max(1, min(rows // (_BLOCKS_A_SHARE * block), -(-programs // tiles)))
    numbers = (k, c_in // in_align, c_out // out_align, steps[0] // in_align, steps[1] // out_align, shares)
    constants = (*lines, tile_out, block, in_align, out_align, precision)
    lists, width = _adding(k * c_in * c_out)
    return _Plan(
        (shares + k - 1 if by_pairs else shares * k) * c_in * c_out,
        (shares * tiles, 1, 1),
        (numbers if by_pairs else (n_out, *numbers), constants, 8 if large else 4, _STAGES),
        (k, -(-c_in * c_out // width), 1),
        ((k, c_in * c_out, shares, block), (by_pairs, lists, width, _AHEAD), 4, 1),
    )


def _adding(n_sums: int) -> tuple[int, int]:
    """Lists and sums of a program that adds partial sums: many lists where few sums make few programs."""
    width = min(_SUMS, max(_LEAST_SUMS, triton.next_power_of_2(n_sums // _PROGRAMS)))
    return _SUMS // width, width


def _loadable(rows: Tensor) -> Tensor:
    """Rows whose channels lie side by side, widened with zeros where a load could take too few of them."""
    channels = rows.shape[1]
    if rows.element_size() == 2 and channels % 4:
        return torch.nn.functional.pad(rows, (0, -channels % (8 if channels > 8 else 4)))
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _tile(channels: int) -> int:
    """The least tile of a product that holds them."""
    return max(16, triton.next_power_of_2(channels))


def _alignment(itemsize: int, channels: int, step: int) -> int:
    """Channels that every row and every edge of a row is a multiple of: what one load may take at once."""
    whole = _WIDEST_LOAD // itemsize | channels | step
    return whole & -whole


_SIZES = ["k", "n_out", "c_in", "c_out", "feats_step", "grad_step", "shares"]


@triton.jit(do_not_specialize=[name for name in _SIZES if name != "n_out"])
def _sums_of_pairs(
    feats,
    grad_out,
    rows_in,
    rows_out,
    starts,
    sums,
    k,
    c_in,
    c_out,
    feats_step,
    grad_step,
    shares,
    OFFSETS: tl.constexpr,
    TILE_IN: tl.constexpr,
    TILE_OUT: tl.constexpr,
    PAIRS: tl.constexpr,
    ALIGN_IN: tl.constexpr,
    ALIGN_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # numbers came divided, so that the compiler sees what they are multiples of
    c_in, feats_step = c_in * ALIGN_IN, feats_step * ALIGN_IN
    c_out, grad_step = c_out * ALIGN_OUT, grad_step * ALIGN_OUT
    # tiles of one share run side by side: they read the same rows
    tiles_out = tl.cdiv(c_out, TILE_OUT)
    tiles = tl.cdiv(c_in, TILE_IN) * tiles_out
    share, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    a_column = tile // tiles_out * TILE_IN + tl.arange(0, TILE_IN)
    b_column = tile % tiles_out * TILE_OUT + tl.arange(0, TILE_OUT)
    a_inside, b_inside = a_column < c_in, b_column < c_out

    each = tl.arange(0, OFFSETS)
    total = tl.load(starts + k)
    ends = tl.load(starts + 1 + each, mask=each < k, other=total)
    length = tl.cdiv(tl.cdiv(total, shares), PAIRS) * PAIRS
    begin = share * length
    stop = tl.minimum(begin + length, total)
    first = tl.sum((ends <= begin).to(tl.int32), axis=0)
    beyond = tl.sum((ends < stop).to(tl.int32), axis=0) + 1
    # a share beyond the last pair begins beyond the last offset
    for offset in range(first, beyond):
        low = tl.maximum(begin, tl.load(starts + offset))
        high = tl.minimum(stop, tl.load(starts + offset + 1))
        total_here = tl.zeros((TILE_IN, TILE_OUT), dtype=tl.float32)
        for pair in range(low, high, PAIRS):
            at = pair + tl.arange(0, PAIRS)
            real = at < high
            i = tl.load(rows_in + at, mask=real, other=0).to(tl.int64)
            j = tl.load(rows_out + at, mask=real, other=0).to(tl.int64)
            a = tl.load(
                feats + (i[:, None] * feats_step + a_column[None, :]),
                mask=real[:, None] & a_inside[None, :],
                other=0.0,
            )
            b = tl.load(
                grad_out + (j[:, None] * grad_step + b_column[None, :]),
                mask=real[:, None] & b_inside[None, :],
                other=0.0,
            )
            total_here = tl.dot(tl.trans(a), b, total_here, input_precision=PRECISION)
        if low < high:
            slot = (share + offset).to(tl.int64) * c_in * c_out
            place = a_column[:, None] * c_out + b_column[None, :]
            tl.store(sums + slot + place, total_here, mask=a_inside[:, None] & b_inside[None, :])


@triton.jit(do_not_specialize=_SIZES)
def _sums_of_rows(
    feats,
    grad_out,
    table,
    sums,
    n_out,
    k,
    c_in,
    c_out,
    feats_step,
    grad_step,
    shares,
    OFFSETS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE_OUT: tl.constexpr,
    ROWS: tl.constexpr,
    ALIGN_IN: tl.constexpr,
    ALIGN_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    c_in, feats_step = c_in * ALIGN_IN, feats_step * ALIGN_IN
    c_out, grad_step = c_out * ALIGN_OUT, grad_step * ALIGN_OUT
    tiles_out = tl.cdiv(c_out, TILE_OUT)
    tiles = tl.cdiv(k, OFFSETS) * tiles_out
    share, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    first = tile // tiles_out * OFFSETS
    offset, a_column = first + tl.arange(0, OFFSETS), tl.arange(0, CHANNELS)
    b_column = tile % tiles_out * TILE_OUT + tl.arange(0, TILE_OUT)

    length = tl.cdiv(tl.cdiv(n_out, shares), ROWS) * ROWS
    begin = share * length
    stop = tl.minimum(begin + length, n_out)
    total = tl.zeros((OFFSETS * CHANNELS, TILE_OUT), dtype=tl.float32)
    column_of = table + offset.to(tl.int64) * n_out
    for row in range(begin, stop, ROWS):
        j = row + tl.arange(0, ROWS)
        real = j < stop
        i = tl.load(column_of[None, :] + j[:, None], mask=real[:, None] & (offset < k)[None, :], other=-1)
        a = tl.load(
            feats + (i.to(tl.int64)[:, :, None] * feats_step + a_column[None, None, :]),
            mask=(i >= 0)[:, :, None] & (a_column < c_in)[None, None, :],
            other=0.0,
        )
        b = tl.load(
            grad_out + (j.to(tl.int64)[:, None] * grad_step + b_column[None, :]),
            mask=real[:, None] & (b_column < c_out)[None, :],
            other=0.0,
        )
        a = tl.reshape(a, (ROWS, OFFSETS * CHANNELS))
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
    line = tl.arange(0, OFFSETS * CHANNELS)
    offset, a_column = first + line // CHANNELS, line % CHANNELS
    place = (share * k + offset).to(tl.int64) * c_in + a_column
    inside = ((offset < k) & (a_column < c_in))[:, None] & (b_column < c_out)[None, :]
    tl.store(sums + place[:, None] * c_out + b_column[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["k", "n_sums", "shares", "block"])
def _add_partials(
    sums,
    starts,
    out,
    k,
    n_sums,
    shares,
    block,
    BY_PAIRS: tl.constexpr,
    LISTS: tl.constexpr,
    SUMS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    # the partial sums of an offset are cut into lists, each added in order, and then the lists
    offset, each = tl.program_id(0), tl.arange(0, LISTS)
    if BY_PAIRS:
        length = tl.maximum(tl.cdiv(tl.cdiv(tl.load(starts + k), shares), block) * block, 1)
        low, high = tl.load(starts + offset), tl.load(starts + offset + 1)
        # an offset without pairs has no partial sum
        first = low // length
        count = tl.where(low < high, (high - 1) // length + 1 - first, 0)
        first, step = first + offset, 1
    else:
        first, count, step = offset, shares, k
    span = tl.cdiv(count, LISTS)
    limit = tl.minimum(count, (each + 1) * span)
    at = tl.program_id(1) * SUMS + tl.arange(0, SUMS)
    inside = (at < n_sums)[None, :]
    total = tl.zeros((LISTS, SUMS), dtype=tl.float32)
    for done in range(0, span, AHEAD):
        for ahead in tl.static_range(AHEAD):
            turn = each * span + done + ahead
            real = turn < limit
            slot = (first + turn * step).to(tl.int64)[:, None] * n_sums
            total += tl.load(sums + slot + at[None, :], mask=real[:, None] & inside, other=0.0)
    place = offset.to(tl.int64) * n_sums + at
    tl.store(out + place, tl.sum(total, axis=0).to(out.dtype.element_ty), mask=at < n_sums)


_COUNT, _PACK, _ADD = Launcher(_count_by_block), Launcher(_pack_pairs), Launcher(_add_partials)
_SUM_PAIRS, _SUM_ROWS = Launcher(_sums_of_pairs), Launcher(_sums_of_rows)
