"""What stands on each cell of the ground, from the labels of points."""

import torch
from torch import Tensor

from pcsparse.coords.pillars import PillarGrid, to_pillars
from pcsparse.data.label_map import IGNORE
from pcsparse.ops import voxel_reduce


def bev_targets(points: Tensor, targets: Tensor, cells: PillarGrid) -> Tensor:
    """The commonest label among the points of each cell.

    Args:
        points: (n, 3) float32 or float64, metres, of one cloud, all inside `cells`.
        targets: (n,) integer, a class or `IGNORE`.
        cells: the ground.

    Returns:
        (nx, ny) int64; `IGNORE` where no labelled point stands. A tie takes the smallest class.

    Raises:
        ShapeError, DtypeError: no points, or targets that do not match them.
        RangeError: a point outside the cells, or a target below `IGNORE`.
    """
    pillars = to_pillars(points, cells)
    found = torch.full(cells.shape, IGNORE, dtype=torch.int64, device=points.device)
    _, x, y, _ = pillars.coords.long().unbind(dim=1)
    found[x, y] = voxel_reduce(targets, pillars, "majority").long()
    return found
