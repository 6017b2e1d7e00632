"""From voxels to a dense bird's-eye view."""

from typing import Literal

from torch import Tensor, nn

from pcsparse.coords.device_constant import device_constant
from pcsparse.errors import RangeError
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.types import Triple


class ToBEV(nn.Module):
    """A dense map in which the heights of each place stand side by side as channels.

    Channel c at height z of the grid becomes channel c * d + z, rows are y and columns x: the map that the
    2-D networks of detectors on spconv are trained on.

    Args:
        lower: coordinate of the grid's first cell, as (x, y, z), in cells of the level that comes in.
        shape: cells of the grid, as (x, y, z).
        outside: what to do with voxels beyond the grid, "error" or "crop".

    Raises:
        RangeError: no cells, or another word for `outside`.

    Source: SECOND (Yan et al., Sensors 2018), section 3.1.3; the order of channels is that of
    `HeightCompression` of OpenPCDet over spconv's `dense()`.
    """

    def __init__(self, lower: Triple, shape: Triple, *, outside: Literal["error", "crop"] = "error") -> None:
        super().__init__()
        if min(shape) < 1 or outside not in ("error", "crop"):
            raise RangeError(
                f"a grid needs at least one cell each way, and outside='error' or 'crop', got shape={shape}, "
                f"outside={outside!r}"
            )
        self.lower, self.shape, self.outside = lower, shape, outside

    def forward(self, x: SparseTensor) -> Tensor:
        """(n voxels, c) -> (batch, c * d, h, w) with d, h, w cells along z, y, x; zero where no voxel is.

        Raises:
            RangeError: a voxel outside the grid, unless they are to be cropped; two voxels in one cell; or a
                map of more than 4 GiB.
        """
        last = [low + n - 1 for low, n in zip(self.lower, self.shape, strict=True)]
        upper: Triple = last[0], last[1], last[2]
        if self.outside == "crop":
            x = _cropped(x, self.lower, upper)
        grid, _ = x.dense(lower=self.lower, upper=upper)
        return grid.permute(0, 1, 4, 3, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"lower={self.lower}, shape={self.shape}, outside={self.outside!r}"


def _cropped(x: SparseTensor, lower: Triple, upper: Triple) -> SparseTensor:
    if x.cache.sorted_keys(x.coords).extent.within(lower, upper):
        return x
    space = x.coords[:, 1:]
    first, last = device_constant(lower, space), device_constant(upper, space)
    inside = ((space >= first) & (space <= last)).all(dim=1)
    rows = inside.nonzero()[:, 0]
    if len(rows) == len(x):
        return x
    # features may be on the meta device, where no rows can be looked up by values elsewhere
    feats = x.feats.index_select(0, rows.to(x.feats.device))
    return SparseTensor(feats, x.coords[rows], stride=x.stride, batch_size=x.batch_size)
