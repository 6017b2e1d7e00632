"""Pooling modules."""

from torch import Tensor, nn

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.nn.conv import _times
from pcsparse.ops.pool import max_pool, mean_pool
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.types import Triple


class _Pool3d(nn.Module):
    """Geometry of a local pooling.

    Args:
        kernel_size: one int or (x, y, z).
        stride: one int or (x, y, z); `kernel_size` if None.
        dilation: one int or (x, y, z).
        padding: as in `coords.relation`.
    """

    def __init__(
        self,
        kernel_size: int | Triple = 2,
        stride: int | Triple | None = None,
        *,
        dilation: int | Triple = 1,
        padding: int | Triple = 0,
    ) -> None:
        super().__init__()
        self.relation = Relation.of(kernel_size, kernel_size if stride is None else stride, dilation, padding)

    def _level(self, x: SparseTensor) -> tuple[KernelMap, Tensor, Triple]:
        coarse = x.cache.coarser(x.coords, self.relation)
        return (
            x.cache.kernel_map(x.coords, coarse, self.relation),
            coarse,
            _times(x.stride, self.relation.stride),
        )

    def extra_repr(self) -> str:
        """Geometry."""
        relation = self.relation
        text = f"kernel_size={relation.kernel_size}, stride={relation.stride}"
        if relation.dilation != (1, 1, 1):
            text += f", dilation={relation.dilation}"
        return text if relation.padding == (0, 0, 0) else f"{text}, padding={relation.padding}"


class MaxPool3d(_Pool3d):
    """Largest feature of the voxels present under the kernel."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n_in, c) -> (n_out, c) at the coarser level."""
        kmap, coarse, stride = self._level(x)
        return x.at(max_pool(x.feats, kmap), coarse, stride)


class AvgPool3d(_Pool3d):
    """Mean feature of the voxels present under the kernel; absent ones do not count."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(n_in, c) -> (n_out, c) at the coarser level."""
        kmap, coarse, stride = self._level(x)
        return x.at(mean_pool(x.feats, kmap), coarse, stride)


class GlobalMaxPool(nn.Module):
    """Largest feature of each cloud."""

    def forward(self, x: SparseTensor) -> Tensor:
        """(n, c) -> (batch_size, c); 0 for an empty cloud."""
        return max_pool(x.feats, x.cache.cloud_map(x.coords, x.batch_size))


class GlobalAvgPool(nn.Module):
    """Mean feature of each cloud."""

    def forward(self, x: SparseTensor) -> Tensor:
        """(n, c) -> (batch_size, c); 0 for an empty cloud."""
        return mean_pool(x.feats, x.cache.cloud_map(x.coords, x.batch_size))
