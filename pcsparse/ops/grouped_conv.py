"""Grouped and depthwise sparse convolution by block-diagonal weights.

Narrow groups are bundled until a bundle has as many channels as a vector has lanes; a bundle is one ordinary
convolution whose weight is zero off the blocks. A depthwise layer of 64 channels is four convolutions of 16:
most of their products are zeros, but rows are read as whole cache lines, which is what a narrow layer costs.
Zero times infinity is NaN, so a value that is not finite reaches the other groups of its bundle.
"""

import torch
from torch import Tensor

from pcsparse.checks import check_shape
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import ShapeError
from pcsparse.ops.conv import sparse_conv

_LANES = 16


def bundles(c_in: int, c_out: int, groups: int) -> list[range]:
    """The groups that run as one convolution, bundle by bundle.

    Args:
        c_in: input channels of a group, at least 1.
        c_out: output channels of a group, at least 1.
        groups: how many there are.
    """
    bundle = max(1, _LANES // max(c_in, c_out))
    return [range(first, min(first + bundle, groups)) for first in range(0, groups, bundle)]


def grouped_sparse_conv(
    feats: Tensor,
    weight: Tensor,
    kmap: KernelMap,
    groups: int,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    dataflow: str = "auto",
    tuned: TuneTable | None = None,
) -> Tensor:
    """`ops.sparse_conv` in which each of `groups` blocks of output channels reads its block of inputs.

    Args:
        feats: (n_in, c_in) float.
        weight: (k, c_in / groups, c_out), as torch's: group g owns output channels
            g * c_out / groups to (g + 1) * c_out / groups.
        kmap: kernel map from n_in to n_out rows.
        groups: divides c_in and c_out; c_in makes it depthwise.
        bias: (c_out,) or None.
        residual: (n_out, c_out) to add, or None.
        relu: whether negative outputs become zero.
        dataflow: see `ops.sparse_conv`.
        tuned: see `ops.sparse_conv`.

    Returns:
        (n_out, c_out), dtype of `feats`.

    Raises:
        ShapeError: channels are none or not divisible by `groups`, or the operands disagree.
        DtypeError, DeviceError, UnsupportedError: see `ops.sparse_conv`.
    """
    if feats.dim() != 2 or weight.dim() != 3:
        raise ShapeError(
            f"feats must be (n_in, c_in) and weight (k, c_in / groups, c_out), got {tuple(feats.shape)} and "
            f"{tuple(weight.shape)}"
        )
    k, c_in, c_out = weight.shape
    if groups < 1 or c_in < 1 or c_out < 1 or c_in * groups != feats.shape[1] or c_out % groups:
        raise ShapeError(
            f"weight {tuple(weight.shape)} in {groups} groups takes {c_in * groups} inputs and writes "
            f"a multiple of {groups}, at least 1 each a group; feats has {feats.shape[1]}"
        )
    # slices of a bundle would hide what is too long
    if bias is not None:
        check_shape("bias", bias, (c_out,))
    if residual is not None:
        check_shape("residual", residual, (kmap.n_out, c_out))
    each = c_out // groups
    parts = []
    for bundle in bundles(c_in, each, groups):
        first, n = bundle.start, len(bundle)
        columns = slice(first * each, (first + n) * each)
        parts.append(
            sparse_conv(
                feats[:, first * c_in : (first + n) * c_in],
                _block_diagonal(weight[:, :, columns].view(k, c_in, n, each)),
                kmap,
                bias=None if bias is None else bias[columns],
                residual=None if residual is None else residual[:, columns],
                relu=relu,
                dataflow=dataflow,
                tuned=tuned,
            )
        )
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _block_diagonal(blocks: Tensor) -> Tensor:
    """(k, c_in, n, c_out) -> (k, n * c_in, n * c_out), zero off the n diagonal blocks; differentiable."""
    k, c_in, n, c_out = blocks.shape
    if n == 1:
        return blocks.reshape(k, c_in, c_out)
    diagonal = torch.eye(n, dtype=blocks.dtype, device=blocks.device)
    # (k, n, c_in, n, c_out): block (g, h) is group g where g = h; a product by zero would keep a NaN alive
    spread = blocks.permute(0, 2, 1, 3)[:, :, :, None, :]
    keep = (diagonal > 0)[None, :, None, :, None]
    full = torch.where(keep, spread, spread.new_zeros(()))
    return full.reshape(k, n * c_in, n * c_out)
