"""Batch normalisation: each function reads its rows once.

Sums run over runs of rows, a number that comes from the problem; a second kernel adds those of the runs in
float64, in a fixed order. No atomics: the same bits every time.

Source of the combination: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.
"""

import struct
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from pcsparse.kernels.gpu.launch import Launcher
from pcsparse.kernels.gpu.row_tiles import whole, wide
from pcsparse.kernels.gpu.scale_shift import (
    FEW_CHANNELS,
    PARTIALS,
    WARPS,
    rows_that_count,
    runs_of,
    start_scale_shift,
    start_scale_shift_grad,
    store_wide,
    sum_of_runs,
    sums_of_runs,
)
from pcsparse.kernels.running import Running


@triton.jit(do_not_specialize=["n", "c", "run"])
def _moments(feats, sums, real, n, c, run, ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of one run: the mean of its first rows, and the sums of x - mean and of (x - mean)^2."""
    c *= ALIGN
    n = rows_that_count(n, real)
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
    near = tl.sum(value, 0) / tl.maximum(tl.minimum(rows, ROWS), 1).to(wide_type)
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


@triton.jit(do_not_specialize=["n", "c", "run", "runs", "low", "high"])
def _combine_moments(
    sums, weight, bias, moments, running_mean, running_var, batches, real, n, c, run, runs, low, high,
    EPS: tl.constexpr, AVERAGES: tl.constexpr, PARTIALS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Moments of all runs, the factors they make, and the statistics that follow; in float64 until stored."""
    n = rows_that_count(n, real)
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    plane = runs * c
    centre = tl.load(sums + cols, mask=cols < c, other=0).to(tl.float64)
    total = tl.zeros((PARTIALS, BLOCK_C), tl.float64)
    between = tl.zeros((PARTIALS, BLOCK_C), tl.float64)
    within = tl.zeros((PARTIALS, BLOCK_C), tl.float64)
    for begin in range(0, runs, PARTIALS):
        part = begin + tl.arange(0, PARTIALS)
        # a run without a row that counts has no sums
        inside = (part < tl.minimum(runs, tl.cdiv(n, run)))[:, None] & (cols < c)[None, :]
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
    size = n.to(tl.float64)
    shift = tl.sum(total, 0) / size
    variance = (tl.sum(within, 0) + tl.sum(between, 0)) / size - shift * shift
    # rounding may leave less than nothing of a constant column; a NaN stays
    variance = tl.where(variance < 0, 0, variance)
    average = centre + shift
    scale = 1 / tl.sqrt(variance + EPS)
    if weight is not None:
        scale *= tl.load(weight + cols, mask=cols < c, other=0).to(tl.float64)
    offset = -average * scale
    if bias is not None:
        offset += tl.load(bias + cols, mask=cols < c, other=0).to(tl.float64)
    store_wide(moments + cols, average, cols < c)
    store_wide(moments + c + cols, variance, cols < c)
    # two rows behind the planes
    store_wide(sums + 3 * plane + cols, scale, cols < c)
    store_wide(sums + 3 * plane + c + cols, offset, cols < c)
    if running_mean is not None:
        if AVERAGES:
            share = 1 / tl.load(batches).to(tl.float64)
        else:
            share = _double(low, high)
            if tl.program_id(0) == 0:
                tl.store(batches, tl.load(batches) + 1)
        _follow(running_mean + cols, average, share, cols < c)
        _follow(running_var + cols, variance * size / (size - 1), share, cols < c)


@triton.jit
def _double(low, high):
    """The float64 of whose bits these are the two halves, int32 each."""
    bits = (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def _follow(place, value, share, mask):
    before = tl.load(place, mask=mask, other=0).to(tl.float64)
    store_wide(place, before + share * (value - before), mask)


_MOMENTS, _COMBINE_MOMENTS = Launcher(_moments), Launcher(_combine_moments)


@lru_cache
def _halves(value: float) -> tuple[int, int]:
    """The bits of a float64, as a kernel takes them."""
    low, high = struct.unpack("<ii", struct.pack("<d", value))
    return low, high


def batch_norm(
    feats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
    running: Running | None,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    feats = feats.contiguous()
    n, c = feats.shape
    out, dtype = torch.empty_like(feats), wide(feats.dtype)
    moments = torch.empty((2, c), dtype=dtype, device=feats.device)
    if c:
        run, runs, tile = runs_of(n, c)
        # planes of sums, and the two rows of factors
        sums = torch.empty((3 * runs + 2, c), dtype=dtype, device=feats.device)
        grid = (runs, -(-c // tile[2]), 1)
        _MOMENTS(grid, (feats, sums, real), (n, c // tile[0], run), tile, WARPS, 1)
        mean, var, batches, momentum = (None, None, None, 0.0) if running is None else running
        statistics = (whole(mean), whole(var))
        if running is not None and momentum is None:
            # before the kernel, whose programs read it
            running.batches.add_(1)
        _COMBINE_MOMENTS(
            (-(-c // FEW_CHANNELS), 1, 1),
            (sums, whole(weight), whole(bias), moments, *statistics, batches, real),
            (n, c, run, runs, *_halves(momentum or 0.0)),
            (eps, momentum is None, PARTIALS, FEW_CHANNELS),
            4,
            1,
        )
        if running is not None:
            for place, written in zip(running[:2], statistics, strict=True):
                if written is not None and written is not place:
                    # with gaps: a copy was followed
                    place.copy_(written)
            # autograd, and who keeps what is made of them, see that they changed
            increment_version((running.mean, running.var, running.batches))
        start_scale_shift(feats, (sums, sums), (3 * runs, 1), whole(residual), relu, out, tile, real)
    return out, moments


@triton.jit(do_not_specialize=["n", "c", "runs"])
def _combine_gradients(
    sums, moments, weight, grad_weight, grad_bias, real, n, c, runs,
    EPS: tl.constexpr, PARTIALS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of the parameters, and the factors of the rows; in float64 until stored."""
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = sum_of_runs(sums, cols, c, runs, PARTIALS, BLOCK_C)
    product = sum_of_runs(sums + runs * c, cols, c, runs, PARTIALS, BLOCK_C)
    centre = tl.load(moments + cols, mask=cols < c, other=0).to(tl.float64)
    inverse = 1 / tl.sqrt(tl.load(moments + c + cols, mask=cols < c, other=1).to(tl.float64) + EPS)
    scale = inverse
    if weight is not None:
        scale *= tl.load(weight + cols, mask=cols < c, other=0).to(tl.float64)
    size = rows_that_count(n, real).to(tl.float64)
    scale_feats = -scale * inverse * inverse * product / size
    store_wide(grad_weight + cols, product * inverse, cols < c)
    store_wide(grad_bias + cols, total, cols < c)
    # three rows behind the planes
    factors = sums + 2 * runs * c
    store_wide(factors + cols, scale, cols < c)
    store_wide(factors + c + cols, scale_feats, cols < c)
    store_wide(factors + 2 * c + cols, -scale * total / size - scale_feats * centre, cols < c)


_COMBINE_GRADIENTS = Launcher(_combine_gradients)


def batch_norm_grad(
    grad_out: Tensor,
    feats: Tensor,
    weight: Tensor | None,
    out: Tensor | None,
    moments: Tensor,
    eps: float,
    with_gated: bool,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    grad_out, feats = grad_out.contiguous(), feats.contiguous()
    out, moments = whole(out), moments.contiguous()
    n, c = feats.shape
    grad = torch.empty_like(feats)
    gated = torch.empty_like(feats) if with_gated else None
    grad_weight = torch.empty(c, dtype=moments.dtype, device=feats.device)
    grad_bias = torch.empty_like(grad_weight)
    if c:
        sums, runs = sums_of_runs(grad_out, feats, out, moments, 3, real)
        _COMBINE_GRADIENTS(
            (-(-c // FEW_CHANNELS), 1, 1),
            (sums, moments, whole(weight), grad_weight, grad_bias, real),
            (n, c, runs),
            (eps, PARTIALS, FEW_CHANNELS),
            4,
            1,
        )
        rows = (grad_out, feats, out)
        start_scale_shift_grad(rows, (sums, sums, sums), (2 * runs, 1), grad, gated, real)
    return grad, gated, grad_weight, grad_bias
