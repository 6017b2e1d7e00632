"""Statistics that follow those of the batches."""

from typing import NamedTuple

from torch import Tensor


class Running(NamedTuple):
    """Running moments of every channel. All tensors are changed in place, and count a version for it.

    Attributes:
        mean: (c,) float.
        var: (c,), as `mean`; unbiased.
        batches: () int64, so many so far.
        momentum: the share of a new batch; None: of all batches the same.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor
    momentum: float | None

    def follow(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Move towards the moments of a batch, without gradients; in torch, for any device.

        Args:
            mean: (c,) float.
            var: (c,), as `mean`; biased.
            n: its rows, at least 2.
        """
        self.batches.add_(1)
        share = 1.0 / self.batches.double() if self.momentum is None else self.momentum
        for running, new in ((self.mean, mean), (self.var, var * (n / (n - 1)))):
            # one kernel, where the formula written out takes three
            weight = share.to(running.dtype) if isinstance(share, Tensor) else share
            running.lerp_(new.to(running.dtype), weight)
