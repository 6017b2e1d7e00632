"""Modules that act on each voxel alone."""

from torch import nn

from pcsparse.sparse_tensor import SparseTensor


class Linear(nn.Linear):
    """`torch.nn.Linear` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, in_features) -> (n, out_features)."""
        return x.replace(super().forward(x.feats))


class ReLU(nn.ReLU):
    """`torch.nn.ReLU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return x.replace(super().forward(x.feats))


class LeakyReLU(nn.LeakyReLU):
    """`torch.nn.LeakyReLU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return x.replace(super().forward(x.feats))


class SiLU(nn.SiLU):
    """`torch.nn.SiLU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return x.replace(super().forward(x.feats))


class GELU(nn.GELU):
    """`torch.nn.GELU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return x.replace(super().forward(x.feats))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        return x.replace(super().forward(x.feats))
