"""Layers that act on each row of a table alone, as the local networks of PointNet do."""

from torch import Tensor, nn

from pcsparse.coords.build import identity_map
from pcsparse.coords.relation import Relation
from pcsparse.nn.norm import BatchNorm, BatchNormReLU
from pcsparse.ops.conv import sparse_conv

_ITSELF = Relation((1, 1, 1))


class RowLinear(nn.Linear):
    """`torch.nn.Linear` on rows (n, in_features), run as a 1^3 convolution.

    A BLAS rounds differently with another number of threads; the convolution does not.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """(n, in_features) -> (n, out_features)."""
        kmap = identity_map(_ITSELF, rows)
        return sparse_conv(rows, self.weight.t()[None], kmap, bias=self.bias)


class RowNorm(BatchNorm):
    """Batch normalisation over rows (n, c); one row in training is normalised by the running statistics."""

    def forward(self, rows: Tensor) -> Tensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return self.of_rows(rows)


class RowNormReLU(BatchNormReLU):
    """Batch normalisation over rows (n, c), followed by ReLU."""

    def forward(self, rows: Tensor) -> Tensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return self.of_rows(rows, relu=True)


class RowLayer(nn.Sequential):
    """Linear, batch norm, ReLU on rows: one layer of a network that all points share.

    Args:
        c_in: channels read.
        c_out: channels written.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(RowLinear(c_in, c_out), RowNormReLU(c_out))
