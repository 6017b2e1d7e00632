"""Batch normalisation in as few passes over the features as it needs.

Sums run over blocks of rows, a number that comes from the problem, and the blocks are combined in order in
float64: the same bits at any thread count.

Source of the combination: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.
"""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.channelwise import column_moments, column_products, combine_rows, scale_row
from pcsparse.kernels.cpu.emitter import KINDS, kind_of
from pcsparse.kernels.cpu.launch import jit_parallel
from pcsparse.kernels.cpu.memory import aligned
from pcsparse.kernels.running import Running

# rows whose second reading still finds them in a cache
_BLOCK = 256


@jit_parallel()
def _moments(kind, feats, step, n, count, block, sums, squares, means):
    width = sums.shape[1] * sums.itemsize
    for i in prange(sums.shape[0]):
        rows = min(block, n - i * block)
        first = feats + i * block * step
        mean = means.ctypes.data + i * width
        total, square = sums.ctypes.data + i * width, squares.ctypes.data + i * width
        means[i, :] = 0
        column_moments(kind, first, step, rows, mean, total, square, count)
        for c in range(count):
            means[i, c] = sums[i, c] / rows
        column_moments(kind, first, step, rows, mean, total, square, count)


@jit_parallel()
def _scale(kind, feats, step, n, count, block, scale, shift, residual, residual_step, least, out):
    for i in prange((n + block - 1) // block):
        for row in range(i * block, min(n, (i + 1) * block)):
            at = row * step
            scale_row(kind, feats + at, scale, shift, residual + row * residual_step, least, out + at, count)


@jit_parallel()
def _products(kind, grad, gate, gate_step, feats, step, n, count, block, mean, sums, products):
    width = sums.shape[1] * sums.itemsize
    for i in prange(sums.shape[0]):
        at = i * block * step
        column_products(
            kind,
            grad + at,
            gate + i * block * gate_step,
            gate_step,
            feats + at,
            step,
            min(block, n - i * block),
            mean,
            sums.ctypes.data + i * width,
            products.ctypes.data + i * width,
            count,
        )


@jit_parallel()
def _combine(kind, grad, feats, gate, gate_step, step, n, count, block, factors, out, gated):
    width = factors.shape[1] * factors.itemsize
    first = factors.ctypes.data
    for i in prange((n + block - 1) // block):
        for row in range(i * block, min(n, (i + 1) * block)):
            at = row * step
            combine_rows(
                kind,
                grad + at,
                feats + at,
                gate + row * gate_step,
                first,
                first + width,
                first + 2 * width,
                out + at,
                gated + at if gated != 0 else 0,
                count,
            )


def _wide_of(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _wide_rows(rows: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Rows of factors, padded to whole vectors."""
    padded = aligned((len(rows), -(-rows[0].numel() // 16) * 16), _wide_of(dtype)).zero_()
    for place, row in zip(padded, rows, strict=True):
        place[: row.numel()] = row
    return padded


def _blocks(n: int, count: int, dtype: torch.dtype, copies: int) -> list[np.ndarray]:
    shape = (-(-n // _BLOCK), -(-count // 16) * 16)
    return [aligned(shape, _wide_of(dtype)).numpy() for _ in range(copies)]


def _batch_moments(feats: Tensor) -> tuple[Tensor, Tensor]:
    if feats.dtype == torch.float16:
        feats = feats.float()
    feats = feats.detach().contiguous()
    n, count = feats.shape
    sums, squares, means = _blocks(n, count, feats.dtype, 3)
    step = count * feats.element_size()
    _moments(KINDS[kind_of(feats.dtype)], feats.data_ptr(), step, n, count, _BLOCK, sums, squares, means)
    rows = np.full((len(means), 1), float(_BLOCK))
    rows[-1] = n - _BLOCK * (len(means) - 1)
    block_means = means[:, :count].astype(np.float64) + sums[:, :count] / rows
    mean = (block_means * rows).sum(axis=0) / n
    about = squares[:, :count] - np.square(sums[:, :count], dtype=np.float64) / rows
    total = (about + rows * np.square(block_means - mean)).sum(axis=0)
    wide = _wide_of(feats.dtype)
    return torch.from_numpy(mean).to(wide), torch.from_numpy(total / n).to(wide)


def _filled(rows: Tensor, n: int) -> Tensor:
    whole = aligned((n, rows.shape[1]), rows.dtype)
    whole[: len(rows)], whole[len(rows) :] = rows, 0
    return whole


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
    if real is not None:
        n = int(real)
        rows = None if residual is None else residual[:n]
        first, moments = batch_norm(feats[:n], weight, bias, rows, relu, eps, running)
        return _filled(first, len(feats)), moments
    mean, var = _batch_moments(feats)
    if running is not None:
        running.follow(mean, var, len(feats))
    out = norm_by_moments(feats, mean, var, weight, bias, residual, relu, eps)
    return out, torch.stack((mean, var))


def norm_by_moments(
    feats: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    eps: float,
) -> Tensor:
    scale = torch.rsqrt(var.detach() + eps)
    if weight is not None:
        scale = scale * weight.detach()
    shift = -mean.detach() * scale
    if bias is not None:
        shift += bias.detach()
    return scale_shift(feats, scale, shift, residual, relu)


def scale_shift(feats: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if feats.dtype == torch.float16:
        wide = None if residual is None else residual.float()
        return scale_shift(feats.float(), scale, shift, wide, relu).half()
    feats = feats.detach().contiguous()
    n, count = feats.shape
    step = count * feats.element_size()
    factors = _wide_rows((scale.detach(), shift.detach()), feats.dtype)
    extra = (
        torch.zeros(count, dtype=feats.dtype, device="cpu")
        if residual is None
        else residual.detach().contiguous()
    )
    out = aligned((n, count), feats.dtype)
    least = factors.numpy().dtype.type(0 if relu else -float("inf"))
    _scale(
        KINDS[kind_of(feats.dtype)], feats.data_ptr(), step, n, count, _BLOCK,
        factors[0].data_ptr(), factors[1].data_ptr(),
        extra.data_ptr(), 0 if residual is None else step, least, out.data_ptr(),
    )  # fmt: skip
    return out


def _gate(out: Tensor | None, count: int, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Rows that say where the gradient passes, and how far apart they are."""
    if out is None:
        return torch.ones(count, dtype=dtype, device="cpu"), 0
    return out.detach().to(dtype).contiguous(), count * dtype.itemsize


def scale_shift_sums(
    grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor
) -> tuple[Tensor, Tensor]:
    if feats.dtype == torch.float16:
        grad_out, feats = grad_out.float(), feats.float()
    grad_out, feats = grad_out.detach().contiguous(), feats.detach().contiguous()
    n, count = feats.shape
    gate, gate_step = _gate(out, count, feats.dtype)
    centre = _wide_rows((mean.detach(),), feats.dtype)
    sums, products = _blocks(n, count, feats.dtype, 2)
    _products(
        KINDS[kind_of(feats.dtype)], grad_out.data_ptr(), gate.data_ptr(), gate_step, feats.data_ptr(),
        count * feats.element_size(), n, count, _BLOCK, centre.data_ptr(), sums, products,
    )  # fmt: skip
    wide = _wide_of(feats.dtype)
    totals = (part[:, :count].sum(axis=0, dtype=np.float64) for part in (sums, products))
    first, second = (torch.from_numpy(total).to(wide) for total in totals)
    return first, second


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
    if real is not None:
        n, whole = int(real), len(feats)
        gate = None if out is None else out[:n]
        rows, passed, *grads = batch_norm_grad(
            grad_out[:n], feats[:n], weight, gate, moments, eps, with_gated
        )
        return _filled(rows, whole), None if passed is None else _filled(passed, whole), grads[0], grads[1]
    mean, inverse = moments[0], torch.rsqrt(moments[1] + eps)
    total, product = scale_shift_sums(grad_out, feats, out, mean)
    scale = inverse if weight is None else inverse * weight.detach()
    scale_feats = -scale * inverse.square() * product / feats.shape[0]
    shift = -scale * total / feats.shape[0] - scale_feats * mean
    grad, gated = scale_shift_grad(grad_out, feats, out, scale, scale_feats, shift, with_gated)
    return grad, gated, product * inverse, total


def scale_shift_grad(
    grad_out: Tensor,
    feats: Tensor,
    out: Tensor | None,
    scale_grad: Tensor,
    scale_feats: Tensor,
    shift: Tensor,
    with_gated: bool,
) -> tuple[Tensor, Tensor | None]:
    dtype = feats.dtype
    if dtype == torch.float16:
        grad_out, feats = grad_out.float(), feats.float()
    grad_out, feats = grad_out.detach().contiguous(), feats.detach().contiguous()
    n, count = feats.shape
    gate, gate_step = _gate(out, count, feats.dtype)
    factors = _wide_rows((scale_grad, scale_feats, shift), feats.dtype)
    grad = aligned((n, count), feats.dtype)
    gated = aligned((n, count), feats.dtype) if with_gated else None
    _combine(
        KINDS[kind_of(feats.dtype)], grad_out.data_ptr(), feats.data_ptr(), gate.data_ptr(), gate_step,
        count * feats.element_size(), n, count, _BLOCK, factors.numpy(), grad.data_ptr(),
        0 if gated is None else gated.data_ptr(),
    )  # fmt: skip
    return grad.to(dtype), None if gated is None else gated.to(dtype)
