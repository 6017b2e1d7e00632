"""Normalisation over the voxels of a batch."""

from torch import nn
from torch.nn import functional

from pcsparse.sparse_tensor import SparseTensor


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all voxels, channel by channel.

    A batch of fewer than two voxels has no variance; in training it is normalised by the running statistics
    and leaves them as they are.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """(n, c) -> (n, c)."""
        if self.training and len(x) < 2:
            feats = functional.batch_norm(
                x.feats,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                eps=self.eps,
            )
            return x.replace(feats)
        return x.replace(super().forward(x.feats))
