"""Residual blocks."""

from collections.abc import Sequence

from torch import nn

from pcsparse.errors import ShapeError
from pcsparse.nn.conv import Rest, SubmanifoldConv3d
from pcsparse.nn.norm import BatchNorm, BatchNormReLU
from pcsparse.sparse_tensor import SparseTensor


class ResidualBlock(nn.Module):
    """Two submanifold 3^3 convolutions with batch norm, added to a shortcut.

    The shortcut is the identity or a 1x1 convolution with batch norm.

    Args:
        c_in: input channels.
        c_mid: channels between the convolutions.
        c_out: output channels.
        offsets: kept kernel offsets of the two 3^3 convolutions; all where None.
        projected: whether the shortcut is a convolution; None: where the channels differ.
        voxels: shares of rows that the two 3^3 convolutions convolve; all where None.
        rest: what becomes of the other rows, see `SubmanifoldConv3d`.

    Raises:
        ShapeError: no projection, and the channels differ.
    """

    def __init__(
        self,
        c_in: int,
        c_mid: int,
        c_out: int,
        offsets: tuple[Sequence[int] | None, Sequence[int] | None] = (None, None),
        *,
        projected: bool | None = None,
        voxels: tuple[float | None, float | None] = (None, None),
        rest: tuple[Rest, Rest] = ("pass", "pass"),
    ) -> None:
        super().__init__()
        if projected is False and c_in != c_out:
            raise ShapeError(
                f"a block from {c_in} to {c_out} channels cannot add its input; leave projected=None"
            )
        self.conv1 = SubmanifoldConv3d(c_in, c_mid, 3, offsets=offsets[0], voxels=voxels[0], rest=rest[0])
        self.norm1 = BatchNormReLU(c_mid)
        self.conv2 = SubmanifoldConv3d(c_mid, c_out, 3, offsets=offsets[1], voxels=voxels[1], rest=rest[1])
        self.norm2 = BatchNormReLU(c_out)
        self.shortcut = (
            nn.Sequential(SubmanifoldConv3d(c_in, c_out, 1), BatchNorm(c_out))
            if projected or c_in != c_out
            else nn.Identity()
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n, c_in) -> (n, c_out)."""
        y = self.conv2(self.norm1(self.conv1(x)))
        out: SparseTensor = self.norm2(y, residual=self.shortcut(x))
        return out
