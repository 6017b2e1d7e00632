"""Sums and maxima over ragged rows: one tile a few segments, members added in their order, no atomics.

Where segments are long on average, and so few that most of a device would idle, each is cut into parts, a
number that comes from the sizes; what the parts give is combined in order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.launch import Launcher
from pcsparse.kernels.gpu.row_tiles import alignment, channel_block, wide

# segments times channels of a tile, and warps that share it
_TILE, _WARPS = 1024, 4
# members whose loads are under way together
_UNROLLED = tl.constexpr(4)
# members of a part, most parts of a segment, and parts of all segments that fill any device
_PART, _PARTS, _ENOUGH = 64, 1024, 1 << 16


@triton.jit
def _span(starts, n, parts, PARTED: tl.constexpr, BLOCK_S: tl.constexpr):
    """First and behind the last member of the parts of segments that this program owns; part, segment."""
    part = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    segment = part
    if PARTED:
        segment = part // parts
    begin = tl.load(starts + segment, mask=part < n, other=0)
    end = tl.load(starts + segment + 1, mask=part < n, other=0)
    if PARTED:
        length, number = end - begin, part - segment * parts
        end = begin + length * (number + 1) // parts
        begin += length * number // parts
    return begin, end, part, segment


@triton.jit(do_not_specialize=["n", "c", "parts"])
def _segment_sum(
    values, order, weights, starts, out, n, c, parts,
    WIDE: tl.constexpr, PARTED: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c *= ALIGN
    begin, end, part, _ = _span(starts, n, parts, PARTED, BLOCK_S)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_S, BLOCK_C), WIDE)
    for i in range(0, tl.max(end - begin, 0).to(tl.int32), _UNROLLED):
        for u in tl.static_range(_UNROLLED):
            place = begin + (i + u)
            live = place < end
            row = tl.load(order + place, mask=live, other=0).to(tl.int64)
            # as numbers: of a conjunction of conditions here, Triton 3.6 makes code that it refuses itself
            mask = live.to(tl.int32)[:, None] * (cols < c).to(tl.int32)[None, :] > 0
            value = tl.load(values + row[:, None] * c + cols[None, :], mask=mask, other=0).to(WIDE)
            if weights is not None:
                value *= tl.load(weights + place, mask=live, other=0).to(WIDE)[:, None]
            total += value
    at = part[:, None] * c + cols[None, :]
    mask = (part < n)[:, None] & (cols < c)[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "c", "parts"])
def _segment_max_grad(
    grad_out, arg, order, starts, grad, n, c, parts,
    WIDE: tl.constexpr, PARTED: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c *= ALIGN
    begin, end, part, own = _span(starts, n, parts, PARTED, BLOCK_S)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_S, BLOCK_C), WIDE)
    for i in range(0, tl.max(end - begin, 0).to(tl.int32), _UNROLLED):
        for u in tl.static_range(_UNROLLED):
            place = begin + (i + u)
            live = place < end
            segment = tl.load(order + place, mask=live, other=0).to(tl.int64)
            at = segment[:, None] * c + cols[None, :]
            mask = live[:, None] & (cols < c)[None, :]
            chosen = tl.load(arg + at, mask=mask, other=-1) == own[:, None]
            # read in any case: loads of whole vectors are cheaper than single ones
            value = tl.load(grad_out + at, mask=mask, other=0).to(WIDE)
            total += tl.where(chosen, value, 0)
    at = part[:, None] * c + cols[None, :]
    mask = (part < n)[:, None] & (cols < c)[None, :]
    tl.store(grad + at, total.to(grad.dtype.element_ty), mask=mask)


@triton.jit
def _take_larger(best, best_row, value, row):
    """The first of equals wins, and the first that is no number; a row below 0 is none."""
    better = (best_row < 0) | (value > best) | ((value != value) & (best == best))
    better &= row >= 0
    return tl.where(better, value, best), tl.where(better, row, best_row)


@triton.jit(do_not_specialize=["n", "c", "parts"])
def _segment_max(
    values, order, starts, out, arg, n, c, parts,
    WIDE: tl.constexpr, PARTED: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c *= ALIGN
    begin, end, part, _ = _span(starts, n, parts, PARTED, BLOCK_S)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    best = tl.zeros((BLOCK_S, BLOCK_C), WIDE)
    best_row = tl.full((BLOCK_S, BLOCK_C), -1, tl.int32)
    for i in range(0, tl.max(end - begin, 0).to(tl.int32), _UNROLLED):
        for u in tl.static_range(_UNROLLED):
            place = begin + (i + u)
            live = place < end
            row = tl.load(order + place, mask=live, other=-1)[:, None]
            value = tl.load(
                values + row.to(tl.int64) * c + cols[None, :],
                mask=live[:, None] & (cols < c)[None, :],
                other=0,
            ).to(WIDE)
            best, best_row = _take_larger(best, best_row, value, row)
    at = part[:, None] * c + cols[None, :]
    mask = (part < n)[:, None] & (cols < c)[None, :]
    tl.store(out + at, best.to(out.dtype.element_ty), mask=mask)
    tl.store(arg + at, best_row, mask=mask)


@triton.jit(do_not_specialize=["n", "c", "parts"])
def _combine_max(values, rows, out, arg, n, c, parts, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """The largest of the parts of a segment, parts in order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n.to(tl.int64) * c
    first = at // c * parts * c + at % c
    best = tl.zeros((BLOCK,), WIDE)
    best_row = tl.full((BLOCK,), -1, tl.int32)
    for part in range(0, parts):
        value = tl.load(values + first + part * c, mask=inside, other=0).to(WIDE)
        row = tl.load(rows + first + part * c, mask=inside, other=-1)
        best, best_row = _take_larger(best, best_row, value, row)
    tl.store(out + at, best.to(out.dtype.element_ty), mask=inside)
    tl.store(arg + at, best_row, mask=inside)


_SUM, _MAX_GRAD, _MAX, _COMBINE_MAX = (
    Launcher(kernel) for kernel in (_segment_sum, _segment_max_grad, _segment_max, _combine_max)
)


def _parts(members: int, segments: int) -> int:
    segments = max(1, segments)
    return max(1, min(_PARTS, members // (_PART * segments), _ENOUGH // segments))


def _start(launcher: Launcher, tensors: tuple[Tensor | None, ...], result: Tensor, parts: int) -> None:
    """One of the kernels over the parts of segments, which make a row of the result each."""
    n, c = result.shape
    if n == 0 or c == 0:
        return
    values = tensors[0]
    assert values is not None
    block_c, align = channel_block(c), alignment(c)
    block_s = _TILE // block_c
    kind = tl.float64 if values.dtype == torch.float64 else tl.float32
    launcher(
        (-(-n // block_s), -(-c // block_c), 1),
        tensors,
        (n, c // align, parts),
        (kind, parts > 1, align, block_s, block_c),
        _WARPS,
        1,
    )


def _empty(parts: int, segments: int, values: Tensor) -> Tensor:
    """Room for the sums of all parts, one after another; not yet rounded where there are several."""
    dtype = values.dtype if parts == 1 else wide(values.dtype)
    return torch.empty(segments * parts, values.shape[1], dtype=dtype, device=values.device)


def _added(sums: Tensor, parts: int, segments: int, dtype: torch.dtype) -> Tensor:
    """The sums of the parts of each segment."""
    return sums if parts == 1 else sums.view(segments, parts, -1).sum(dim=1).to(dtype)


def _sum(values: Tensor, order: Tensor, weights: Tensor | None, starts: Tensor) -> Tensor:
    values, segments = values.contiguous(), starts.numel() - 1
    parts = _parts(order.numel(), segments)
    out = _empty(parts, segments, values)
    _start(_SUM, (values, order, weights, starts, out), out, parts)
    return _added(out, parts, segments, values.dtype)


def segment_sum(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    return _sum(values, order, None, starts)


def segment_weighted_sum(values: Tensor, order: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    return _sum(values, order, weights.contiguous(), starts)


def segment_max(values: Tensor, order: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    values, segments, c = values.contiguous(), starts.numel() - 1, values.shape[1]
    parts = _parts(order.numel(), segments)
    out = torch.empty(segments * parts, c, dtype=values.dtype, device=values.device)
    arg = torch.empty(out.shape, dtype=torch.int32, device=values.device)
    _start(_MAX, (values, order, starts, out, arg), out, parts)
    if parts == 1:
        return out, arg
    largest, first = out.new_empty(segments, c), arg.new_empty(segments, c)
    if c:
        kind = tl.float64 if values.dtype == torch.float64 else tl.float32
        grid = (-(-segments * c // _TILE), 1, 1)
        _COMBINE_MAX(grid, (out, arg, largest, first), (segments, c, parts), (kind, _TILE), _WARPS, 1)
    return largest, first


def segment_max_grad(grad_out: Tensor, arg: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    grad_out, n = grad_out.contiguous(), starts.numel() - 1
    parts = _parts(order.numel(), n)
    grad = _empty(parts, n, grad_out)
    _start(_MAX_GRAD, (grad_out, arg, order, starts, grad), grad, parts)
    return _added(grad, parts, n, grad_out.dtype)
