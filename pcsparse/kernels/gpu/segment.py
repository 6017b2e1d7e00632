"""Sums and maxima over ragged rows: one tile a few segments, members added in their order, no atomics.

Where segments are long on average, and so few that most of a device would idle, each is cut into parts, a
number that comes from the sizes; what the parts give is combined in order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.row_tiles import channel_block, wide

# segments times channels of a tile; members whose loads are under way together
_TILE, _UNROLLED = 1024, 4
# members of a part, and most parts of a segment
_PART, _PARTS = 64, 1024


@triton.jit
def _span(starts, n, parts, BLOCK_S: tl.constexpr):
    """First and behind the last member of the parts of segments that this program owns, and their rows."""
    part = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    inside = part < n
    segment = part // parts
    first = tl.load(starts + segment, mask=inside, other=0)
    length = tl.load(starts + segment + 1, mask=inside, other=0) - first
    number = part - segment * parts
    return first + length * number // parts, first + length * (number + 1) // parts, part, inside


@triton.jit(do_not_specialize=["n"])
def _segment_sum(
    values, order, weights, starts, out, n, c, parts,
    WIDE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    begin, end, part, inside = _span(starts, n, parts, BLOCK_S)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_S, BLOCK_C), WIDE)
    for i in range(0, tl.max(end - begin, 0).to(tl.int32), UNROLLED):
        for u in tl.static_range(UNROLLED):
            place = begin + (i + u)
            live = place < end
            row = tl.load(order + place, mask=live, other=0).to(tl.int64)
            value = tl.load(
                values + row[:, None] * c + cols[None, :], mask=live[:, None] & (cols < c)[None, :], other=0
            ).to(WIDE)
            if weights is not None:
                value *= tl.load(weights + place, mask=live, other=0).to(WIDE)[:, None]
            total += value
    tl.store(
        out + part[:, None] * c + cols[None, :],
        total.to(out.dtype.element_ty),
        mask=inside[:, None] & (cols < c)[None, :],
    )


@triton.jit(do_not_specialize=["n"])
def _segment_max_grad(
    grad_out, arg, order, starts, grad, n, c, parts,
    WIDE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    begin, end, part, inside = _span(starts, n, parts, BLOCK_S)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    own = (part // parts)[:, None]
    total = tl.zeros((BLOCK_S, BLOCK_C), WIDE)
    for i in range(0, tl.max(end - begin, 0).to(tl.int32), UNROLLED):
        for u in tl.static_range(UNROLLED):
            place = begin + (i + u)
            live = place < end
            segment = tl.load(order + place, mask=live, other=0).to(tl.int64)
            at = segment[:, None] * c + cols[None, :]
            mask = live[:, None] & (cols < c)[None, :]
            chosen = tl.load(arg + at, mask=mask, other=-1) == own
            # read in any case: loads of whole vectors are cheaper than single ones
            value = tl.load(grad_out + at, mask=mask, other=0).to(WIDE)
            total += tl.where(chosen, value, 0)
    tl.store(
        grad + part[:, None] * c + cols[None, :],
        total.to(grad.dtype.element_ty),
        mask=inside[:, None] & (cols < c)[None, :],
    )


@triton.jit
def _take_larger(best, best_row, value, row):
    """The first of equals wins, and the first that is no number; a row below 0 is none."""
    better = (best_row < 0) | (value > best) | ((value != value) & (best == best))
    better &= row >= 0
    return tl.where(better, value, best), tl.where(better, row, best_row)


@triton.jit(do_not_specialize=["n"])
def _segment_max(
    values, order, starts, out, arg, n, c, parts,
    WIDE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    begin, end, part, inside = _span(starts, n, parts, BLOCK_S)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    best = tl.zeros((BLOCK_S, BLOCK_C), WIDE)
    best_row = tl.full((BLOCK_S, BLOCK_C), -1, tl.int32)
    for i in range(0, tl.max(end - begin, 0).to(tl.int32), UNROLLED):
        for u in tl.static_range(UNROLLED):
            place = begin + (i + u)
            live = place < end
            row = tl.load(order + place, mask=live, other=-1)
            value = tl.load(
                values + row[:, None].to(tl.int64) * c + cols[None, :],
                mask=live[:, None] & (cols < c)[None, :],
                other=0,
            ).to(WIDE)
            best, best_row = _take_larger(best, best_row, value, row[:, None])
    at = part[:, None] * c + cols[None, :]
    mask = inside[:, None] & (cols < c)[None, :]
    tl.store(out + at, best.to(out.dtype.element_ty), mask=mask)
    tl.store(arg + at, best_row, mask=mask)


@triton.jit(do_not_specialize=["size", "parts"])
def _combine_max(values, rows, out, arg, size, c, parts, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """The largest of the parts of a segment, parts in order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    first = at // c * parts * c + at % c
    best = tl.zeros((BLOCK,), WIDE)
    best_row = tl.full((BLOCK,), -1, tl.int32)
    for part in range(0, parts):
        value = tl.load(values + first + part * c, mask=inside, other=0).to(WIDE)
        row = tl.load(rows + first + part * c, mask=inside, other=-1)
        best, best_row = _take_larger(best, best_row, value, row)
    tl.store(out + at, best.to(out.dtype.element_ty), mask=inside)
    tl.store(arg + at, best_row, mask=inside)


def _parts(members: int, segments: int) -> int:
    return min(_PARTS, max(1, members // (_PART * max(1, segments))))


def _shape(n: int, c: int) -> tuple[tuple[int, int], int, int]:
    """The grid for n parts of segments, and how many of them and of channels a tile holds."""
    block_c = channel_block(c)
    block_s = _TILE // block_c
    return (triton.cdiv(n, block_s), triton.cdiv(c, block_c)), block_s, block_c


def _triton_type(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _sum(values: Tensor, order: Tensor, weights: Tensor | None, starts: Tensor) -> Tensor:
    values, c = values.contiguous(), values.shape[1]
    segments = starts.numel() - 1
    parts = _parts(order.numel(), segments)
    out = values.new_empty((segments * parts, c), dtype=values.dtype if parts == 1 else wide(values.dtype))
    grid, block_s, block_c = _shape(segments * parts, c)
    _segment_sum[grid](
        values, order, weights, starts, out, segments * parts, c, parts,
        _triton_type(values.dtype), block_s, block_c, _UNROLLED,
    )  # fmt: skip
    return out if parts == 1 else out.view(segments, parts, c).sum(dim=1).to(values.dtype)


def segment_sum(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    return _sum(values, order, None, starts)


def segment_weighted_sum(values: Tensor, order: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    return _sum(values, order, weights.contiguous(), starts)


def segment_max(values: Tensor, order: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    values, c = values.contiguous(), values.shape[1]
    segments = starts.numel() - 1
    parts = _parts(order.numel(), segments)
    out = values.new_empty((segments * parts, c))
    arg = values.new_empty((segments * parts, c), dtype=torch.int32)
    grid, block_s, block_c = _shape(segments * parts, c)
    _segment_max[grid](
        values, order, starts, out, arg, segments * parts, c, parts,
        _triton_type(values.dtype), block_s, block_c, _UNROLLED,
    )  # fmt: skip
    if parts == 1:
        return out, arg
    largest, first = values.new_empty((segments, c)), arg.new_empty((segments, c))
    _combine_max[(triton.cdiv(segments * c, _TILE),)](
        out, arg, largest, first, segments * c, c, parts, _triton_type(values.dtype), _TILE
    )
    return largest, first


def segment_max_grad(grad_out: Tensor, arg: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    grad_out, c = grad_out.contiguous(), grad_out.shape[1]
    n = starts.numel() - 1
    parts = _parts(order.numel(), n)
    grad = grad_out.new_empty((n * parts, c), dtype=grad_out.dtype if parts == 1 else wide(grad_out.dtype))
    grid, block_s, block_c = _shape(n * parts, c)
    _segment_max_grad[grid](
        grad_out, arg, order, starts, grad, n * parts, c, parts,
        _triton_type(grad_out.dtype), block_s, block_c, _UNROLLED,
    )  # fmt: skip
    return grad if parts == 1 else grad.view(n, parts, c).sum(dim=1).to(grad_out.dtype)
