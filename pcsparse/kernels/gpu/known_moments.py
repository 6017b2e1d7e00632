"""Normalisation by moments that are known, in one launch: each tile makes the factors for itself."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.launch import Launcher
from pcsparse.kernels.gpu.row_tiles import whole
from pcsparse.kernels.gpu.scale_shift import WARPS, tile_of


@triton.jit(do_not_specialize=["n", "c"])
def _norm_by_moments(
    feats, mean, var, weight, bias, residual, out, n, c,
    EPS: tl.constexpr, RELU: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c *= ALIGN
    wide_type: tl.constexpr = mean.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * ROWS
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (tl.arange(0, ROWS) < n - first)[:, None] & (cols < c)[None, :]
    start = first * c
    place = tl.arange(0, ROWS)[:, None] * c + cols[None, :]
    value = tl.load(feats + start + place, mask=inside, other=0).to(wide_type)
    spread = tl.load(var + cols, mask=cols < c, other=1) + EPS
    # rounded as IEEE wants it, so that every compiler makes the same bits
    scale = 1 / tl.sqrt(spread) if wide_type == tl.float64 else tl.div_rn(1.0, tl.sqrt_rn(spread))
    if weight is not None:
        scale *= tl.load(weight + cols, mask=cols < c, other=0)
    shift = -tl.load(mean + cols, mask=cols < c, other=0) * scale
    if bias is not None:
        shift += tl.load(bias + cols, mask=cols < c, other=0)
    value = value * scale[None, :] + shift[None, :]
    if residual is not None:
        value += tl.load(residual + start + place, mask=inside, other=0).to(wide_type)
    if RELU:
        # not a maximum: a NaN stays
        value = tl.where(value < 0, 0, value)
    tl.store(out + start + place, value.to(out.dtype.element_ty), mask=inside)


_NORM_BY_MOMENTS = Launcher(_norm_by_moments)


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
    feats = feats.contiguous()
    factors = (whole(mean), whole(var), whole(weight), whole(bias))
    n, c = feats.shape
    out = torch.empty_like(feats)
    if n and c:
        tile = tile_of(c)
        _NORM_BY_MOMENTS(
            (-(-n // tile[1]), -(-c // tile[2]), 1),
            (feats, *factors, whole(residual), out),
            (n, c // tile[0]),
            (eps, relu, *tile),
            WARPS,
            1,
        )
    return out
