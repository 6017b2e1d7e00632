"""Between the voxels of a level and the points below them: the two ways of a point branch.

Points are the voxels of a finer level, as a rule of the network's input: what a network knows of a point is
what its voxel holds. Both are modules without parameters, so that a forward hook sees them.

Source: SPVCNN (Tang et al., ECCV 2020, arXiv 2007.16100), section 3.2.
"""

from torch import nn

from pcsparse.coords.corner_map import CornerMap
from pcsparse.errors import RangeError
from pcsparse.ops.pool import mean_pool
from pcsparse.ops.trilinear import trilinear
from pcsparse.sparse_tensor import SparseTensor


class VoxelsToPoints(nn.Module):
    """Trilinear interpolation between the voxels around each point; a voxel without features has no say."""

    def forward(self, x: SparseTensor, points: SparseTensor) -> SparseTensor:
        """Features (m, c) of a level at the (n, *) points -> (n, c); `x` itself where they are one level.

        Raises:
            RangeError: the strides are no multiples, or a point lies in no voxel of `x`.
        """
        if x.coords is points.coords:
            return x
        corners = _corners(x, points)
        return points.replace(trilinear(x.feats, corners))


class PointsToVoxels(nn.Module):
    """The mean over the points in each voxel."""

    def forward(self, points: SparseTensor, x: SparseTensor) -> SparseTensor:
        """Features (n, c) of points -> (m, c) at the level of the (m, *) voxels `x`.

        Raises:
            RangeError: the strides are no multiples, or a point lies in no voxel of `x`.
        """
        if x.coords is points.coords:
            return points
        return x.replace(mean_pool(points.feats, _corners(x, points).cells))


def _corners(x: SparseTensor, points: SparseTensor) -> CornerMap:
    spans = list(zip(x.stride, points.stride, strict=True))
    if any(coarse % fine for coarse, fine in spans):
        raise RangeError(f"voxels of stride {x.stride} do not hold whole points of stride {points.stride}")
    ratio = tuple(coarse // fine for coarse, fine in spans)
    return x.cache.corner_map(points.coords, x.coords, (ratio[0], ratio[1], ratio[2]))
