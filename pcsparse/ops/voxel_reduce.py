"""From values at points to values at voxels."""

from typing import Literal

import torch
from torch import Tensor

from pcsparse.checks import check_dtype
from pcsparse.coords.voxelize import Voxels
from pcsparse.errors import DtypeError, RangeError, ShapeError
from pcsparse.ops.pool import max_pool, mean_pool

IGNORE = -1


def voxel_reduce(values: Tensor, voxels: Voxels, how: Literal["mean", "first", "max", "majority"]) -> Tensor:
    """Reduce the values of the points of each voxel.

    Args:
        values: (n, c) float for "mean" and "max"; (n,) or (n, c) of any dtype for "first"; (n,) integer
            labels of at least -1 for "majority".
        voxels: from `voxelize`, of the same n points.
        how: "first" takes the first point in input order. "majority" takes the commonest label; a tie takes
            the smallest one, and -1 (ignore) is taken only where all points have it.

    Returns:
        (m,) or (m, c); differentiable for "mean", "max" and "first".

    Raises:
        ShapeError: `values` does not have one row a point.
        DtypeError: the dtype does not fit `how`.
        RangeError: a label is below -1, or `how` is unknown.
    """
    n = voxels.inverse.numel()
    if values.shape[:1] != (n,):
        raise ShapeError(
            f"values must have one row for each of the {n} points, got shape {tuple(values.shape)}"
        )
    if how == "first":
        return values[voxels.first]
    if how == "majority":
        return _majority(values, voxels)
    if how not in ("mean", "max"):
        raise RangeError(f"how must be 'mean', 'first', 'max' or 'majority', got {how!r}")
    if not values.is_floating_point() or values.dim() != 2:
        raise DtypeError(f"{how!r} takes (n, c) floats, got {values.dtype} {tuple(values.shape)}")
    kmap = voxels.groups()
    return max_pool(values, kmap) if how == "max" else mean_pool(values, kmap)


def _majority(labels: Tensor, voxels: Voxels) -> Tensor:
    check_dtype("labels", labels, torch.int64, torch.int32, torch.int16, torch.uint8)
    if labels.dim() != 1:
        raise ShapeError(f"majority takes labels (n,), got {tuple(labels.shape)}")
    m = voxels.coords.shape[0]
    if labels.numel() == 0:
        return labels.new_zeros(m)
    wide = labels.long()
    lowest, highest = torch.stack(wide.aminmax()).tolist()
    if lowest < IGNORE:
        raise RangeError(f"labels must be at least {IGNORE} (ignore), got {lowest}")
    classes = highest + 1
    winner = wide.new_full((m,), IGNORE)
    if classes > 0:
        known = wide >= 0
        pair, votes = torch.unique(voxels.inverse[known] * classes + wide[known], return_counts=True)
        # pairs ascend by voxel, then label; a stable sort by falling votes, then by voxel, leaves ties in
        # that order
        order = torch.argsort(votes, descending=True, stable=True)
        order = order[torch.argsort(pair[order] // classes, stable=True)]
        voxel = pair[order] // classes
        lead = torch.ones_like(voxel, dtype=torch.bool)
        lead[1:] = voxel[1:] != voxel[:-1]
        winner[voxel[lead]] = pair[order][lead] % classes
    return winner.to(labels.dtype)
