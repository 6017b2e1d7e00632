"""The voxels of a coarse level that surround each voxel of a fine one: what trilinear interpolation reads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.kernel_map import NO_NEIGHBOUR, KernelMap
from pcsparse.coords.keys import pack
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.errors import RangeError
from pcsparse.types import Triple

CUBE = Relation((2, 2, 2))
"""From a coarse voxel to the eight corners of the cell that begins at it."""


@dataclass(frozen=True, eq=False)
class CornerMap:
    """Up to eight coarse voxels around each fine one, and how near each is.

    A coarse voxel stands where its first fine cell is. Corners without a voxel count for nothing: the weights
    of the others are scaled up to a sum of 1.

    Attributes:
        n_in: coarse voxels.
        n_out: fine voxels.
        rows: (m,) int32 coarse rows, grouped by fine voxel.
        weights: (m,) float64, above 0.
        starts: (n_out + 1,) int64; fine voxel i owns [starts[i], starts[i + 1]).
        cells: leads each fine voxel to the coarse one that holds it.
    """

    n_in: int
    n_out: int
    rows: Tensor
    weights: Tensor
    starts: Tensor
    cells: KernelMap


def build_corner_map(fine: Tensor, coarse: SortedKeys, cube: KernelMap, ratio: Triple) -> CornerMap:
    """Find the corners around every fine voxel.

    Args:
        fine: (n, 4) int32.
        coarse: of m coarse voxels, one of which holds each fine voxel.
        cube: the map of `CUBE` from the coarse level to itself.
        ratio: fine cells that a coarse one spans, (x, y, z).

    Raises:
        RangeError: a fine voxel lies in no coarse one.
    """
    span = device_constant((1, *ratio), fine)
    first = torch.div(fine, span, rounding_mode="floor")
    held = _rows_of(first, coarse, fine)
    # (n, 3): how far into the cell, 0 to below 1
    far = ((fine - first * span)[:, 1:].double() / span[1:]).unbind(dim=1)
    near = [1 - part for part in far]
    corners = CUBE.offsets()
    weights = torch.stack(
        [(far if x else near)[0] * (far if y else near)[1] * (far if z else near)[2] for x, y, z in corners],
        dim=1,
    )
    rows = cube.table[:, held].T
    there = (rows != NO_NEIGHBOUR) & (weights > 0)
    weights = torch.where(there, weights, 0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    starts = torch.nn.functional.pad(there.sum(dim=1).cumsum(0), (1, 0))
    # asked of the device once, for both
    places = there.flatten().nonzero().squeeze(1)
    rows, weights = (part.flatten()[places] for part in (rows, weights))
    cells = KernelMap.of_groups(held, len(coarse.keys))
    return CornerMap(len(coarse.keys), len(fine), rows, weights, starts, cells)


def _rows_of(coords: Tensor, level: SortedKeys, asked: Tensor) -> Tensor:
    """The row of each coordinate in a level, (n,) int64."""
    keys = pack(coords)
    places = torch.searchsorted(level.keys, keys).clamp(max=max(len(level.keys) - 1, 0))
    missing = level.keys[places] != keys if len(level.keys) else torch.ones_like(keys, dtype=torch.bool)
    if bool(missing.any()):
        row = int(missing.nonzero()[0])
        raise RangeError(
            f"{int(missing.sum())} of {len(asked)} voxels lie in no voxel of the coarser level, first at row "
            f"{row}: {asked[row].tolist()}; take a level that a strided convolution or pool made of them"
        )
    return places if level.order is None else level.order[places].long()
