"""Scale and shift of every channel: each function reads its rows once, or sums down them.

Sums run over runs of rows, a number that comes from the problem; a second kernel adds those of the runs in
float64, in a fixed order. No atomics: the same bits every time.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.launch import Launcher
from pcsparse.kernels.gpu.row_tiles import alignment, channel_block, whole, wide

# elements of a tile, and warps that share it: 16 elements a thread, so that enough loads are under way
_TILE = 4096
WARPS = 8
# runs of rows that are summed apart, all columns of tiles together: about four a multiprocessor
_RUNS = 512
# partial sums that are added at once, and channels
PARTIALS, FEW_CHANNELS = 128, 8


@cache
def tile_of(c: int) -> tuple[int, int, int]:
    """What rows of `c` channels are multiples of, and rows and channels of a tile."""
    block_c = channel_block(c)
    return alignment(c), _TILE // block_c, block_c


def runs_of(n: int, c: int) -> tuple[int, int, tuple[int, int, int]]:
    """Rows of a run, how many runs there are, and the tile."""
    tile = tile_of(c)
    most = max(1, _RUNS // -(-c // tile[2]))
    run = max(1, -(-n // (most * tile[1]))) * tile[1]
    return run, -(-n // run), tile


@triton.jit
def real_of(room, first, real, ROWS: tl.constexpr):
    """Of a tile (rows, channels) that begins with row `first`: what is in a row that counts."""
    inside = room
    if real is not None:
        inside = room & (tl.arange(0, ROWS) < tl.load(real) - first)[:, None]
    return inside


@triton.jit(do_not_specialize=["n", "c", "row", "step"])
def _scale_shift(
    feats, scale, shift, residual, out, real, n, c, row, step,
    RELU: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The factors stand in a row of `scale`, and in one `step` further on of `shift`."""
    c *= ALIGN
    wide_type: tl.constexpr = scale.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * ROWS
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    room = (tl.arange(0, ROWS) < n - first)[:, None] & (cols < c)[None, :]
    inside = real_of(room, first, real, ROWS)
    # only the start of a tile is beyond 2^31 elements
    start = first * c
    place = tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    factor = tl.load(scale + row * c + cols, mask=cols < c, other=0)[None, :]
    value = tl.load(feats + start + place, mask=inside, other=0).to(wide_type) * factor
    value += tl.load(shift + (row + step) * c + cols, mask=cols < c, other=0)[None, :]
    if residual is not None:
        value += tl.load(residual + start + place, mask=inside, other=0).to(wide_type)
    if RELU:
        # not a maximum: a NaN stays
        value = tl.where(value < 0, 0, value)
    if real is not None:
        value = tl.where(inside, value, 0)
    tl.store(out + start + place, value.to(out.dtype.element_ty), mask=room)


_SCALE_SHIFT = Launcher(_scale_shift)


def start_scale_shift(
    feats: Tensor,
    factors: tuple[Tensor, Tensor],
    rows: tuple[int, int],
    residual: Tensor | None,
    relu: bool,
    out: Tensor,
    tile: tuple[int, int, int],
    real: Tensor | None = None,
) -> None:
    n, c = feats.shape
    _SCALE_SHIFT(
        (-(-n // tile[1]), -(-c // tile[2]), 1),
        (feats, *factors, residual, out, real),
        (n, c // tile[0], *rows),
        (relu, *tile),
        WARPS,
        1,
    )


def scale_shift(feats: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    feats = feats.contiguous()
    n, c = feats.shape
    out = torch.empty_like(feats)
    if n and c:
        # read without strides
        factors = (scale.contiguous(), shift.contiguous())
        start_scale_shift(feats, factors, (0, 0), whole(residual), relu, out, tile_of(c))
    return out


@triton.jit
def store_wide(place, value, mask):
    tl.store(place, value.to(place.dtype.element_ty), mask=mask)


@triton.jit
def rows_that_count(n, real):
    count = n.to(tl.int64)
    if real is not None:
        count = tl.minimum(count, tl.load(real))
    return count


@triton.jit(do_not_specialize=["n", "c", "run"])
def _products(
    grad_out, feats, out, mean, sums, real, n, c, run,
    ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of one run: the sums of the gradient that passes, and of it times x - mean."""
    c *= ALIGN
    n = rows_that_count(n, real)
    wide_type: tl.constexpr = sums.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * run
    rows = tl.minimum(n - first, run).to(tl.int32)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    centre = tl.load(mean + cols, mask=cols < c, other=0).to(wide_type)
    start = first * c
    place = tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    total = tl.zeros((ROWS, BLOCK_C), wide_type)
    product = tl.zeros((ROWS, BLOCK_C), wide_type)
    for begin in range(0, rows, ROWS):
        inside = (begin + tl.arange(0, ROWS) < rows)[:, None] & (cols < c)[None, :]
        grad = tl.load(grad_out + start + place, mask=inside, other=0).to(wide_type)
        if out is not None:
            gate = tl.load(out + start + place, mask=inside, other=0).to(wide_type)
            grad = tl.where(gate > 0, grad, 0)
        value = tl.load(feats + start + place, mask=inside, other=0).to(wide_type)
        total += grad
        # beyond the last row the gradient is zero, and the mean may be no number
        product += tl.where(inside, grad * (value - centre[None, :]), 0)
        start += ROWS * c
    # two planes of one row a run
    at = tl.program_id(0) * c + cols
    tl.store(sums + at, tl.sum(total, 0), mask=cols < c)
    tl.store(sums + tl.num_programs(0) * c + at, tl.sum(product, 0), mask=cols < c)


@triton.jit
def sum_of_runs(sums, cols, c, runs, PARTIALS: tl.constexpr, BLOCK_C: tl.constexpr):
    """(runs, c) -> (BLOCK_C,) float64."""
    total = tl.zeros((PARTIALS, BLOCK_C), tl.float64)
    for begin in range(0, runs, PARTIALS):
        part = begin + tl.arange(0, PARTIALS)
        inside = (part < runs)[:, None] & (cols < c)[None, :]
        total += tl.load(sums + part[:, None] * c + cols[None, :], mask=inside, other=0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["c", "runs"])
def _combine_products(sums, total, product, c, runs, PARTIALS: tl.constexpr, BLOCK_C: tl.constexpr):
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    store_wide(total + cols, sum_of_runs(sums, cols, c, runs, PARTIALS, BLOCK_C), cols < c)
    store_wide(product + cols, sum_of_runs(sums + runs * c, cols, c, runs, PARTIALS, BLOCK_C), cols < c)


_PRODUCTS, _COMBINE_PRODUCTS = Launcher(_products), Launcher(_combine_products)


def sums_of_runs(
    grad_out: Tensor,
    feats: Tensor,
    out: Tensor | None,
    mean: Tensor,
    room: int,
    real: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Both sums of each run, (2 * runs + room, c) with rows that are not written, and how many runs."""
    n, c = feats.shape
    run, runs, tile = runs_of(n, c)
    sums = torch.empty((2 * runs + room, c), dtype=wide(feats.dtype), device=feats.device)
    if runs:
        grid = (runs, -(-c // tile[2]), 1)
        _PRODUCTS(grid, (grad_out, feats, out, mean, sums, real), (n, c // tile[0], run), tile, WARPS, 1)
    return sums, runs


def scale_shift_sums(
    grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor
) -> tuple[Tensor, Tensor]:
    c = feats.shape[1]
    total, product = (torch.empty(c, dtype=wide(feats.dtype), device=feats.device) for _ in range(2))
    if c:
        rows = (grad_out.contiguous(), feats.contiguous(), whole(out))
        sums, runs = sums_of_runs(*rows, mean.contiguous(), 0)
        grid = (-(-c // FEW_CHANNELS), 1, 1)
        _COMBINE_PRODUCTS(grid, (sums, total, product), (c, runs), (PARTIALS, FEW_CHANNELS), 4, 1)
    return total, product


@triton.jit(do_not_specialize=["n", "c", "row", "step"])
def _scale_shift_grad(
    grad_out, feats, out, scale_grad, scale_feats, shift, grad, gated, real, n, c, row, step,
    ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The factors stand in a row of `scale_grad`, and in ones one and two `step` further on of the others."""
    c *= ALIGN
    wide_type: tl.constexpr = scale_grad.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * ROWS
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    room = (tl.arange(0, ROWS) < n - first)[:, None] & (cols < c)[None, :]
    inside = real_of(room, first, real, ROWS)
    start = first * c
    place = tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    passed = tl.load(grad_out + start + place, mask=inside, other=0).to(wide_type)
    if out is not None:
        gate = tl.load(out + start + place, mask=inside, other=0).to(wide_type)
        passed = tl.where(gate > 0, passed, 0)
    if gated is not None:
        tl.store(gated + start + place, passed.to(gated.dtype.element_ty), mask=room)
    value = tl.load(feats + start + place, mask=inside, other=0).to(wide_type)
    value *= tl.load(scale_feats + (row + step) * c + cols, mask=cols < c, other=0)[None, :]
    value += passed * tl.load(scale_grad + row * c + cols, mask=cols < c, other=0)[None, :]
    value += tl.load(shift + (row + 2 * step) * c + cols, mask=cols < c, other=0)[None, :]
    if real is not None:
        value = tl.where(inside, value, 0)
    tl.store(grad + start + place, value.to(grad.dtype.element_ty), mask=room)


_SCALE_SHIFT_GRAD = Launcher(_scale_shift_grad)


def start_scale_shift_grad(
    given: tuple[Tensor, Tensor, Tensor | None],
    factors: tuple[Tensor, Tensor, Tensor],
    rows: tuple[int, int],
    grad: Tensor,
    gated: Tensor | None,
    real: Tensor | None = None,
) -> None:
    n, c = grad.shape
    tile = tile_of(c)
    _SCALE_SHIFT_GRAD(
        (-(-n // tile[1]), -(-c // tile[2]), 1),
        (*given, *factors, grad, gated, real),
        (n, c // tile[0], *rows),
        tile,
        WARPS,
        1,
    )


def scale_shift_grad(
    grad_out: Tensor,
    feats: Tensor,
    out: Tensor | None,
    scale_grad: Tensor,
    scale_feats: Tensor,
    shift: Tensor,
    with_gated: bool,
) -> tuple[Tensor, Tensor | None]:
    grad_out, feats = grad_out.contiguous(), feats.contiguous()
    grad = torch.empty_like(feats)
    gated = torch.empty_like(feats) if with_gated else None
    if feats.numel():
        rows = (grad_out, feats, whole(out))
        factors = (scale_grad.contiguous(), scale_feats.contiguous(), shift.contiguous())
        start_scale_shift_grad(rows, factors, (0, 0), grad, gated)
    return grad, gated
