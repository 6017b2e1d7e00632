"""Modules that act on each voxel alone."""

from collections.abc import Callable

from torch import Tensor, nn

from pcsparse.coords.relation import Relation
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.lack_of_memory import raise_with_sizes, rows_of
from pcsparse.ops.conv import sparse_conv
from pcsparse.sparse_tensor import SparseTensor

ITSELF = Relation.of(1)
"""Of the kernel of a linear layer."""


def _of_rows(x: SparseTensor, function: Callable[[Tensor], Tensor]) -> SparseTensor:
    try:
        return x.replace(function(x.feats))
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"a function of {rows_of(x.feats)}")


class Linear(nn.Linear):
    """`torch.nn.Linear` on the features, run as a 1^3 convolution.

    A BLAS rounds differently with another number of threads; the convolution does not, and is as fast.
    """

    # set by `use_tuning`
    tuned: TuneTable | None = None

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, in_features) -> (n, out_features)."""
        kmap = x.cache.kernel_map(x.coords, x.coords, ITSELF)
        return x.replace(sparse_conv(x.feats, self.weight.t()[None], kmap, bias=self.bias, tuned=self.tuned))


class ReLU(nn.ReLU):
    """`torch.nn.ReLU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return _of_rows(x, super().forward)


class LeakyReLU(nn.LeakyReLU):
    """`torch.nn.LeakyReLU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return _of_rows(x, super().forward)


class SiLU(nn.SiLU):
    """`torch.nn.SiLU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return _of_rows(x, super().forward)


class GELU(nn.GELU):
    """`torch.nn.GELU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return _of_rows(x, super().forward)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return _of_rows(x, super().forward)
