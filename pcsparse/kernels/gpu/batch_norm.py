"""Batch normalisation: each function reads its rows once.

Sums run over runs of rows, a number that comes from the problem; a second kernel adds those of the runs in
float64, in a fixed order. No atomics: the same bits every time.

Source of the combination: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.launch import Launcher
from pcsparse.kernels.gpu.row_tiles import alignment, channel_block, wide

# elements of a tile, and warps that share it: 16 elements a thread, so that enough loads are under way
_TILE = 4096
_WARPS = 8
# runs of rows that are summed apart, all columns of tiles together: about four a multiprocessor
_RUNS = 512
# partial sums that are added at once, and channels
_PARTIALS, _FEW_CHANNELS = 128, 8


@triton.jit(do_not_specialize=["n", "c", "run"])
def _moments(feats, sums, n, c, run, ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of one run: the mean of its first rows, and the sums of x - mean and of (x - mean)^2."""
    c *= ALIGN
    wide_type: tl.constexpr = sums.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * run
    rows = tl.minimum(n - first, run).to(tl.int32)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    feats += first * c
    # a tile, rows by channels
    place = tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    inside = (tl.arange(0, ROWS) < rows)[:, None] & (cols < c)[None, :]
    value = tl.load(feats + place, mask=inside, other=0).to(wide_type)
    # a value near the mean keeps the squares small; it need not be the mean
    near = tl.sum(value, 0) / tl.minimum(rows, ROWS).to(wide_type)
    about = tl.where(inside, value - near[None, :], 0)
    total, square = about, about * about
    for begin in range(ROWS, rows, ROWS):
        feats += ROWS * c
        inside = (begin + tl.arange(0, ROWS) < rows)[:, None] & (cols < c)[None, :]
        value = tl.load(feats + place, mask=inside, other=0).to(wide_type)
        about = tl.where(inside, value - near[None, :], 0)
        total += about
        square += about * about
    # planes of one row a run
    at = tl.program_id(0) * c + cols
    plane = tl.num_programs(0) * c
    tl.store(sums + at, near, mask=cols < c)
    tl.store(sums + plane + at, tl.sum(total, 0), mask=cols < c)
    tl.store(sums + 2 * plane + at, tl.sum(square, 0), mask=cols < c)


@triton.jit
def _store(place, value, mask):
    tl.store(place, value.to(place.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "c", "run", "runs"])
def _combine_moments(
    sums, weight, bias, mean, var, factors, n, c, run, runs,
    EPS: tl.constexpr, PARTIALS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Moments of all runs, and the factors they make; in float64 until stored."""
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    plane = runs * c
    centre = tl.load(sums + cols, mask=cols < c, other=0).to(tl.float64)
    total = tl.zeros((PARTIALS, BLOCK_C), tl.float64)
    between = tl.zeros((PARTIALS, BLOCK_C), tl.float64)
    within = tl.zeros((PARTIALS, BLOCK_C), tl.float64)
    for begin in range(0, runs, PARTIALS):
        part = begin + tl.arange(0, PARTIALS)
        inside = (part < runs)[:, None] & (cols < c)[None, :]
        at = part[:, None] * c + cols[None, :]
        near = tl.load(sums + at, mask=inside, other=0).to(tl.float64)
        first = tl.load(sums + plane + at, mask=inside, other=0).to(tl.float64)
        second = tl.load(sums + 2 * plane + at, mask=inside, other=0).to(tl.float64)
        # rows of the run; the last one may be short, and those behind it are masked
        rows = tl.maximum(tl.minimum(n - part.to(tl.int64) * run, run), 1).to(tl.float64)[:, None]
        apart = tl.where(inside, near - centre[None, :] + first / rows, 0)
        total += apart * rows
        between += apart * apart * rows
        within += tl.where(inside, second - first * first / rows, 0)
    count = n.to(tl.float64)
    shift = tl.sum(total, 0) / count
    variance = (tl.sum(within, 0) + tl.sum(between, 0)) / count - shift * shift
    # rounding may leave less than nothing of a constant column; a NaN stays
    variance = tl.where(variance < 0, 0, variance)
    average = centre + shift
    scale = 1 / tl.sqrt(variance + EPS)
    if weight is not None:
        scale *= tl.load(weight + cols, mask=cols < c, other=0).to(tl.float64)
    offset = -average * scale
    if bias is not None:
        offset += tl.load(bias + cols, mask=cols < c, other=0).to(tl.float64)
    _store(mean + cols, average, cols < c)
    _store(var + cols, variance, cols < c)
    _store(factors + cols, scale, cols < c)
    _store(factors + c + cols, offset, cols < c)


def _tile_of(c: int) -> tuple[int, int, int]:
    """What rows of `c` channels are multiples of, and rows and channels of a tile."""
    block_c = channel_block(c)
    return alignment(c), _TILE // block_c, block_c


def _runs(n: int, c: int) -> tuple[int, int, tuple[int, int, int]]:
    """Rows of a run, how many runs there are, and the tile."""
    tile = _tile_of(c)
    most = max(1, _RUNS // -(-c // tile[2]))
    run = max(1, -(-n // (most * tile[1]))) * tile[1]
    return run, -(-n // run), tile


_MOMENTS, _COMBINE_MOMENTS = Launcher(_moments), Launcher(_combine_moments)


def batch_factors(
    feats: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    feats = feats.contiguous()
    n, c = feats.shape
    mean, var, factors = (
        torch.empty(shape, dtype=wide(feats.dtype), device=feats.device) for shape in (c, c, (2, c))
    )
    if c:
        run, runs, tile = _runs(n, c)
        sums = mean.new_empty((3, runs, c))
        grid = (runs, -(-c // tile[2]), 1)
        _MOMENTS(grid, (feats, sums), (n, c // tile[0], run), tile, _WARPS, 1)
        _COMBINE_MOMENTS(
            (-(-c // _FEW_CHANNELS), 1, 1),
            (sums, weight, bias, mean, var, factors),
            (n, c, run, runs),
            (eps, _PARTIALS, _FEW_CHANNELS),
            4,
            1,
        )
    return mean, var, factors[0], factors[1]


@triton.jit(do_not_specialize=["n", "c"])
def _scale_shift(
    feats, scale, shift, residual, out, n, c,
    RELU: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c *= ALIGN
    wide_type: tl.constexpr = scale.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * ROWS
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (tl.arange(0, ROWS) < n - first)[:, None] & (cols < c)[None, :]
    # only the start of a tile is beyond 2^31 elements
    start = first * c
    place = tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    factor = tl.load(scale + cols, mask=cols < c, other=0)[None, :]
    value = tl.load(feats + start + place, mask=inside, other=0).to(wide_type) * factor
    value += tl.load(shift + cols, mask=cols < c, other=0)[None, :]
    if residual is not None:
        value += tl.load(residual + start + place, mask=inside, other=0).to(wide_type)
    if RELU:
        # not a maximum: a NaN stays
        value = tl.where(value < 0, 0, value)
    tl.store(out + start + place, value.to(out.dtype.element_ty), mask=inside)


_SCALE_SHIFT = Launcher(_scale_shift)


def scale_shift(feats: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    feats = feats.contiguous()
    n, c = feats.shape
    residual = None if residual is None else residual.contiguous()
    out = torch.empty_like(feats)
    if n and c:
        tile = _tile_of(c)
        _SCALE_SHIFT(
            (-(-n // tile[1]), -(-c // tile[2]), 1),
            (feats, scale, shift, residual, out),
            (n, c // tile[0]),
            (relu, *tile),
            _WARPS,
            1,
        )
    return out


@triton.jit(do_not_specialize=["n", "c", "run"])
def _products(
    grad_out, feats, out, mean, sums, n, c, run,
    ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of one run: the sums of the gradient that passes, and of it times x - mean."""
    c *= ALIGN
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
def _sum_of_runs(sums, cols, c, runs, PARTIALS: tl.constexpr, BLOCK_C: tl.constexpr):
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
    _store(total + cols, _sum_of_runs(sums, cols, c, runs, PARTIALS, BLOCK_C), cols < c)
    _store(product + cols, _sum_of_runs(sums + runs * c, cols, c, runs, PARTIALS, BLOCK_C), cols < c)


@triton.jit(do_not_specialize=["n", "c", "runs"])
def _combine_gradients(
    sums, mean, var, weight, grad_weight, grad_bias, factors, n, c, runs,
    EPS: tl.constexpr, PARTIALS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the parameters, and the factors of the rows; in float64 until stored."""
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = _sum_of_runs(sums, cols, c, runs, PARTIALS, BLOCK_C)
    product = _sum_of_runs(sums + runs * c, cols, c, runs, PARTIALS, BLOCK_C)
    centre = tl.load(mean + cols, mask=cols < c, other=0).to(tl.float64)
    inverse = 1 / tl.sqrt(tl.load(var + cols, mask=cols < c, other=1).to(tl.float64) + EPS)
    scale = inverse
    if weight is not None:
        scale *= tl.load(weight + cols, mask=cols < c, other=0).to(tl.float64)
    count = n.to(tl.float64)
    scale_feats = -scale * inverse * inverse * product / count
    _store(grad_weight + cols, product * inverse, cols < c)
    _store(grad_bias + cols, total, cols < c)
    _store(factors + cols, scale, cols < c)
    _store(factors + c + cols, scale_feats, cols < c)
    _store(factors + 2 * c + cols, -scale * total / count - scale_feats * centre, cols < c)


_PRODUCTS, _COMBINE_PRODUCTS, _COMBINE_GRADIENTS = (
    Launcher(kernel) for kernel in (_products, _combine_products, _combine_gradients)
)


def _sums_of_runs(grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor) -> Tensor:
    """Both sums of each run, (2, runs, c)."""
    grad_out, feats = grad_out.contiguous(), feats.contiguous()
    out = None if out is None else out.contiguous()
    n, c = feats.shape
    run, runs, tile = _runs(n, c)
    sums = torch.empty((2, runs, c), dtype=wide(feats.dtype), device=feats.device)
    if runs:
        grid = (runs, -(-c // tile[2]), 1)
        _PRODUCTS(grid, (grad_out, feats, out, mean, sums), (n, c // tile[0], run), tile, _WARPS, 1)
    return sums


def scale_shift_sums(
    grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor
) -> tuple[Tensor, Tensor]:
    c = feats.shape[1]
    total, product = (torch.empty(c, dtype=wide(feats.dtype), device=feats.device) for _ in range(2))
    if c:
        sums = _sums_of_runs(grad_out, feats, out, mean)
        grid, numbers = (-(-c // _FEW_CHANNELS), 1, 1), (c, sums.shape[1])
        _COMBINE_PRODUCTS(grid, (sums, total, product), numbers, (_PARTIALS, _FEW_CHANNELS), 4, 1)
    return total, product


def batch_grad_factors(
    grad_out: Tensor,
    feats: Tensor,
    out: Tensor | None,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, c = feats.shape
    grad_weight, grad_bias, factors = (
        torch.empty(shape, dtype=wide(feats.dtype), device=feats.device) for shape in (c, c, (3, c))
    )
    if c:
        sums = _sums_of_runs(grad_out, feats, out, mean)
        _COMBINE_GRADIENTS(
            (-(-c // _FEW_CHANNELS), 1, 1),
            (sums, mean, var, weight, grad_weight, grad_bias, factors),
            (n, c, sums.shape[1]),
            (eps, _PARTIALS, _FEW_CHANNELS),
            4,
            1,
        )
    return grad_weight, grad_bias, factors[0], factors[1], factors[2]


@triton.jit(do_not_specialize=["n", "c"])
def _scale_shift_grad(
    grad_out, feats, out, scale_grad, scale_feats, shift, grad, gated, n, c,
    ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c *= ALIGN
    wide_type: tl.constexpr = scale_grad.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * ROWS
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (tl.arange(0, ROWS) < n - first)[:, None] & (cols < c)[None, :]
    start = first * c
    place = tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    passed = tl.load(grad_out + start + place, mask=inside, other=0).to(wide_type)
    if out is not None:
        gate = tl.load(out + start + place, mask=inside, other=0).to(wide_type)
        passed = tl.where(gate > 0, passed, 0)
    if gated is not None:
        tl.store(gated + start + place, passed.to(gated.dtype.element_ty), mask=inside)
    value = tl.load(feats + start + place, mask=inside, other=0).to(wide_type)
    value *= tl.load(scale_feats + cols, mask=cols < c, other=0)[None, :]
    value += passed * tl.load(scale_grad + cols, mask=cols < c, other=0)[None, :]
    value += tl.load(shift + cols, mask=cols < c, other=0)[None, :]
    tl.store(grad + start + place, value.to(grad.dtype.element_ty), mask=inside)


_SCALE_SHIFT_GRAD = Launcher(_scale_shift_grad)


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
    out = None if out is None else out.contiguous()
    n, c = feats.shape
    grad = torch.empty_like(feats)
    gated = torch.empty_like(feats) if with_gated else None
    if n and c:
        tile = _tile_of(c)
        _SCALE_SHIFT_GRAD(
            (-(-n // tile[1]), -(-c // tile[2]), 1),
            (grad_out, feats, out, scale_grad, scale_feats, shift, grad, gated),
            (n, c // tile[0]),
            tile,
            _WARPS,
            1,
        )
    return grad, gated
