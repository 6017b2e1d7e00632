"""Normalisation over the voxels of a batch."""

import torch
from torch import Tensor, nn

from pcsparse.checks import check_shape
from pcsparse.kernels.running import Running
from pcsparse.nn.own_tensor import own_tensor
from pcsparse.ops.batch_norm import batch_norm, batch_norm_following
from pcsparse.ops.known_moments import norm_by_moments
from pcsparse.ops.scale_shift import scale_shift
from pcsparse.sparse_tensor import SparseTensor, check_same_coords


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all voxels, channel by channel; parameters and state of `nn.BatchNorm1d`.

    A batch of fewer than two voxels has no variance; in training it is normalised by the running statistics
    and leaves them as they are.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` must not be used on a network with it: it puts a module in
    its place that takes no SparseTensor, and drops the ReLU of a `BatchNormReLU`.
    """

    def forward(  # type: ignore[override]
        self, x: SparseTensor, *, residual: SparseTensor | None = None, relu: bool = False
    ) -> SparseTensor:
        """act(norm(x) + residual), in one pass.

        Args:
            x: (n, c).
            residual: (n, c) at the same voxels, to add; None for none.
            relu: whether negative values become zero.

        Raises:
            ShapeError: `x` has not `num_features` channels, or `residual` other voxels or channels.
        """
        if residual is not None:
            check_same_coords((x, residual))
        extra, real = None if residual is None else residual.feats, x.cache.real_rows(x.coords)
        return x.replace(self.of_rows(x.feats, extra, relu=relu, real=real))

    def of_rows(
        self,
        feats: Tensor,
        residual: Tensor | None = None,
        *,
        relu: bool = False,
        real: Tensor | None = None,
    ) -> Tensor:
        """The same for rows that are no voxels: act(norm(feats) + residual), (n, c).

        Args:
            feats: (n, c).
            residual: (n, c) to add; None for none.
            relu: whether negative values become zero.
            real: () int64, how many of the rows count in training; all if None.

        Raises:
            ShapeError: `feats` has not `num_features` channels.
        """
        if feats.dim() != 2 or feats.shape[1] != self.num_features:
            check_shape("feats", feats, (None, self.num_features))
        mean, var = own_tensor(self, "running_mean"), own_tensor(self, "running_var")
        known = mean is not None and var is not None
        if feats.shape[0] >= 2 and (self.training or not known):
            given = feats, own_tensor(self, "weight"), own_tensor(self, "bias")
            running = None
            if self.training and mean is not None and var is not None:
                batches = own_tensor(self, "num_batches_tracked")
                assert batches is not None
                running = Running(mean, var, batches, self.momentum)
            elif real is None:
                return batch_norm(*given, eps=self.eps, residual=residual, relu=relu)[0]
            return batch_norm_following(
                *given, running, eps=self.eps, residual=residual, relu=relu, real=real
            )
        if mean is not None and var is not None:
            if self.training:
                # the next cloud moves them, perhaps before this one goes backward
                mean, var = mean.clone(), var.clone()
            weight, bias = own_tensor(self, "weight"), own_tensor(self, "bias")
            return norm_by_moments(feats, mean, var, weight, bias, eps=self.eps, residual=residual, relu=relu)
        scale, shift = self.scale_and_shift(feats)
        return scale_shift(feats, scale, shift, residual=residual, relu=relu)

    def scale_and_shift(self, feats: Tensor) -> tuple[Tensor, Tensor]:
        """The two factors that the running statistics make of this layer, (c,) each, at least float32.

        Without running statistics the mean counts as 0 and the variance as 1.
        """
        wide = torch.float64 if feats.dtype == torch.float64 else torch.float32
        ones = torch.ones(self.num_features, dtype=wide, device=feats.device)
        var = ones if self.running_var is None else self.running_var.to(wide)
        mean = torch.zeros_like(ones) if self.running_mean is None else self.running_mean.to(wide)
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.to(wide)
        shift = -mean * scale
        return scale, shift if self.bias is None else shift + self.bias.to(wide)


class BatchNormReLU(BatchNorm):
    """Batch normalisation followed by ReLU, in one pass."""

    def forward(  # type: ignore[override]
        self, x: SparseTensor, *, residual: SparseTensor | None = None
    ) -> SparseTensor:
        """relu(norm(x) + residual), (n, c) -> (n, c)."""
        return super().forward(x, residual=residual, relu=True)
