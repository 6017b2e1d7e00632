"""Features of few points carried to many."""

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import NO_NEIGHBOUR
from pcsparse.coords.neighbors import Neighbours
from pcsparse.errors import RangeError
from pcsparse.ops.group import check_gather, gather_spanned, row_span

_NEAREST = 1e-10
"""Square metres below which distances are not told apart: a point that coincides takes nearly all."""


def interpolate(feats: Tensor, neighbours: Neighbours) -> Tensor:
    """out[i] = sum over neighbours of w * feats[row] / sum of w, with w = 1 / squared distance.

    Args:
        feats: (n, c) float.
        neighbours: of m places among n points, most often the three nearest; free places count for nothing.

    Returns:
        (m, c), dtype of `feats`; weights are float64 until they are normalised. Differentiable in `feats`.

    Raises:
        ShapeError: `feats` is not (n, c).
        DtypeError, DeviceError: as `gather_rows`.
        RangeError: a place has no neighbour, or a row is not one of `feats`.

    Source: PointNet++ (NeurIPS 2017), section 3.4, equation 2, with p = 2 and k = 3.
    """
    rows = neighbours.rows
    check_gather(feats, rows)
    missing = rows == NO_NEIGHBOUR
    alone = missing.all(dim=1)
    low, high, count = row_span(rows, alone.sum().to(rows.dtype))
    if count:
        first = int(torch.nonzero(alone)[0])
        raise RangeError(
            f"{count} of {len(alone)} places have no neighbour to take features from, first row "
            f"{first}; give their cloud points, or drop them"
        )
    weights = torch.where(missing, 0, 1 / neighbours.squared.clamp(min=_NEAREST))
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(feats.dtype)
    return (gather_spanned(feats, rows, low, high) * weights[..., None]).sum(dim=1)
