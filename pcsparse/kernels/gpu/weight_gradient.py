"""Gradient of the weights on a GPU: one GEMM an offset, of rows that are gathered as they are multiplied.

The pairs of a map lie packed, offset after offset, so that no row is multiplied in vain. They are cut into
shares of equal size whatever the offsets hold, and a program adds one tile of channels of one share. Where an
offset ends within a share, the program writes what it has and begins anew: as share and offset only grow,
share p and offset o meet in partial sum p + o and in no other, so that shares + k - 1 of them are enough. How
many there are comes from the sizes of the problem; where they begin is read on the device. A second kernel
adds them in order, so the bits are the same from run to run.

Few input channels would starve a tile. Then several offsets lie side by side in one tile, and the table is
read as it is: the rows of `grad_out` are read once for all of them, which repays the products with zero. (A
row of `grad_out` that is not finite makes NaN of these products too.)

Source: the split over pairs with partial sums of a fixed number is TorchSparse++'s (MICRO 2023); shares that
cross from one offset to the next are those of stream-K (Osama et al., PPoPP 2023).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# programs wanted: four on each of the 132 processors of an H100 or H200
_PROGRAMS = 528
# channels of a tile; exact products of float32 have no tensor core, and fewer sums fit the registers
_WIDEST, _WIDEST_EXACT = 128, 64
# lines of a tile of several offsets, one an offset and channel
_LINES = 128
# rows that are multiplied together, by the bytes of a channel
_ROWS_TOGETHER, _ROWS_EXACT = {2: 64, 4: 32}, 16
# blocks of pairs that repay a partial sum; a third of the places of a table are filled, about
_BLOCKS_A_SHARE, _PLACES_A_PAIR = 4, 3
# a load of indices and a load of rows are ahead of the product: three blocks of rows are then on their way
_STAGES = 6
# places of the table, and partial sums, of one program; partial sums that are loaded before they are added
_PLACES, _SUMS, _AHEAD = 1024, 256, 16
# bytes that one load takes at most
_WIDEST_LOAD = 16


def grad_weight_layout(table: Tensor) -> list[Tensor]:
    # the lists have room for every place of the table: their length would have to travel to the host
    k, n_out = table.shape
    flat = table.contiguous().view(-1)
    ends = flat.ge(0).cumsum(0, dtype=torch.int32)
    rows_in, rows_out = torch.empty_like(flat), torch.empty_like(flat)
    starts = torch.zeros(k + 1, dtype=torch.int32, device=table.device)
    if flat.numel():
        starts[1:] = ends.view(k, n_out)[:, -1]
        grid = (triton.cdiv(flat.numel(), _PLACES),)
        _pack_pairs[grid](flat, ends, rows_in, rows_out, flat.numel(), n_out, _PLACES)
    return [rows_in, rows_out, starts]


@triton.jit(do_not_specialize=["n_places", "n_out"])
def _pack_pairs(table, ends, rows_in, rows_out, n_places, n_out, PLACES: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * PLACES + tl.arange(0, PLACES)
    row = tl.load(table + place, mask=place < n_places, other=-1)
    slot = tl.load(ends + place, mask=row >= 0, other=1) - 1
    tl.store(rows_in + slot, row, mask=row >= 0)
    tl.store(rows_out + slot, (place % n_out).to(tl.int32), mask=row >= 0)


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
) -> Tensor:
    out = feats.new_empty(table.shape[0], feats.shape[1], grad_out.shape[1])
    if table.numel() == 0:
        return out.zero_()
    feats = feats if feats.stride(1) == 1 else feats.contiguous()
    grad_out = grad_out if grad_out.stride(1) == 1 else grad_out.contiguous()
    exact = feats.dtype == torch.float32 and precision == "ieee"
    tile_out = tile_out or min(_WIDEST_EXACT if exact else _WIDEST, _tile(grad_out.shape[1]))
    tile_rows = tile_rows or (_ROWS_EXACT if exact else _ROWS_TOGETHER[feats.element_size()])
    if layout is None:
        tile_in = tile_in or (_WIDEST_EXACT if exact else _LINES)
        _by_table(feats, grad_out, table.contiguous(), out, tile_in, tile_out, tile_rows, partials, precision)
    else:
        tile_in = tile_in or min(_WIDEST_EXACT if exact else _WIDEST, _tile(feats.shape[1]))
        _by_pairs(
            feats,
            grad_out,
            layout,
            out,
            table.shape[1],
            tile_in,
            tile_out,
            tile_rows,
            partials,
            precision,
        )
    return out


def _by_pairs(
    feats: Tensor,
    grad_out: Tensor,
    layout: list[Tensor],
    out: Tensor,
    n_out: int,
    tile_in: int,
    tile_out: int,
    tile_rows: int,
    partials: int,
    precision: str,
) -> None:
    (k, c_in, c_out), (rows_in, rows_out, starts) = out.shape, layout
    tiles = triton.cdiv(c_in, tile_in) * triton.cdiv(c_out, tile_out)
    pairs = k * n_out // _PLACES_A_PAIR
    shares = partials or max(1, min(pairs // (_BLOCKS_A_SHARE * tile_rows), triton.cdiv(_PROGRAMS, tiles)))
    sums = torch.empty(shares + k - 1, c_in, c_out, dtype=torch.float32, device=feats.device)
    in_align, out_align = _alignment(feats), _alignment(grad_out)
    _sums_of_pairs[(shares * tiles,)](
        feats,
        grad_out,
        rows_in,
        rows_out,
        starts,
        sums,
        k,
        c_in // in_align,
        c_out // out_align,
        feats.stride(0) // in_align,
        grad_out.stride(0) // out_align,
        shares,
        OFFSETS=triton.next_power_of_2(k),
        TILE_IN=tile_in,
        TILE_OUT=tile_out,
        PAIRS=tile_rows,
        ALIGN_IN=in_align,
        ALIGN_OUT=out_align,
        PRECISION=precision,
        num_warps=_warps(tile_in, tile_out),
        num_stages=_STAGES,
    )
    _add(sums, starts, out, shares, tile_rows, by_pairs=True)


def _by_table(
    feats: Tensor,
    grad_out: Tensor,
    table: Tensor,
    out: Tensor,
    tile_in: int,
    tile_out: int,
    tile_rows: int,
    partials: int,
    precision: str,
) -> None:
    (k, c_in, c_out), n_out = out.shape, table.shape[1]
    channels = triton.next_power_of_2(c_in)
    # lines of the tile, a pair of offset and channel each
    lines = max(channels, min(tile_in, _tile(k * channels)))
    tiles = triton.cdiv(k, lines // channels) * triton.cdiv(c_out, tile_out)
    shares = partials or max(1, min(n_out // (_BLOCKS_A_SHARE * tile_rows), triton.cdiv(_PROGRAMS, tiles)))
    sums = torch.empty(shares * k, c_in, c_out, dtype=torch.float32, device=feats.device)
    in_align, out_align = _alignment(feats), _alignment(grad_out)
    _sums_of_rows[(shares * tiles,)](
        feats,
        grad_out,
        table,
        sums,
        k,
        n_out,
        c_in // in_align,
        c_out // out_align,
        feats.stride(0) // in_align,
        grad_out.stride(0) // out_align,
        shares,
        OFFSETS=lines // channels,
        CHANNELS=channels,
        TILE_OUT=tile_out,
        ROWS=tile_rows,
        ALIGN_IN=in_align,
        ALIGN_OUT=out_align,
        PRECISION=precision,
        num_warps=_warps(lines, tile_out),
        num_stages=_STAGES,
    )
    _add(sums, table, out, shares, tile_rows, by_pairs=False)


def _add(sums: Tensor, starts: Tensor, out: Tensor, shares: int, tile_rows: int, *, by_pairs: bool) -> None:
    k, c_in, c_out = out.shape
    grid = (k, triton.cdiv(c_in * c_out, _SUMS))
    _add_partials[grid](
        sums, starts, out, k, c_in * c_out, shares, tile_rows, BY_PAIRS=by_pairs, SUMS=_SUMS, AHEAD=_AHEAD
    )


def _tile(channels: int) -> int:
    """The least tile of a product that holds them."""
    return max(16, triton.next_power_of_2(channels))


def _warps(tile_in: int, tile_out: int) -> int:
    return 8 if tile_in * tile_out > 64 * 128 else 4


def _alignment(rows: Tensor) -> int:
    """Channels that every row and every edge of a row is a multiple of: what one load may take at once."""
    whole = _WIDEST_LOAD // rows.element_size() | rows.shape[1] | rows.stride(0)
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
    # a share beyond the last pair has no offset
    for offset in range(first, tl.where(begin < stop, beyond, first)):
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
    k,
    n_out,
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
    SUMS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    offset = tl.program_id(0)
    if BY_PAIRS:
        length = tl.cdiv(tl.cdiv(tl.load(starts + k), shares), block) * block
        low, high = tl.load(starts + offset), tl.load(starts + offset + 1)
        # an offset without pairs has no partial sum
        first = low // tl.maximum(length, 1) + offset
        stop = tl.where(low < high, (high - 1) // tl.maximum(length, 1) + offset + 1, first)
        step = 1
    else:
        first, stop, step = offset, offset + shares * k, k
    at = tl.program_id(1) * SUMS + tl.arange(0, SUMS)
    total = tl.zeros((SUMS,), dtype=tl.float32)
    for slot in range(first, stop, step * AHEAD):
        for ahead in tl.static_range(AHEAD):
            here = slot + ahead * step
            inside = at < tl.where(here < stop, n_sums, 0)
            total += tl.load(sums + here.to(tl.int64) * n_sums + at, mask=inside, other=0.0)
    place = offset.to(tl.int64) * n_sums + at
    tl.store(out + place, total.to(out.dtype.element_ty), mask=at < n_sums)
