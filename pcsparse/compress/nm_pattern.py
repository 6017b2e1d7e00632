"""N:M sparsity: n of each m weights stay, those of largest magnitude.

Source: Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021
(arXiv 2102.04010), section 3; Mishra et al., 2021 (arXiv 2104.08378), section 3, for 2:4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.errors import RangeError, ShapeError


@dataclass(frozen=True)
class NM:
    """A pattern: of each `m` weights that read neighbouring input channels, `n` stay.

    Attributes:
        n, m: 0 < n < m.
        layers: names of the layers that get it; None for every convolution and linear layer.

    Raises:
        RangeError: n is not between 0 and m.
    """

    n: int
    m: int
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise RangeError(f"an N:M pattern needs 0 < n < m, got {self.n}:{self.m}")

    def mask(self, weight: Tensor, axis: int, name: str = "the weight") -> Tensor:
        """Which weights stay.

        Args:
            weight: any shape, finite.
            axis: of the input channels, a multiple of m; groups are m of them that follow each other.
            name: of the layer, for errors.

        Returns:
            bool, the shape of `weight`; of equal magnitudes the first ones stay.

        Raises:
            ShapeError: the channels are no multiple of m.
            RangeError: a weight is not finite.
        """
        channels = weight.shape[axis]
        if channels % self.m:
            raise ShapeError(
                f"{name} reads {channels} channels, which are no groups of {self.m}; name the layers that "
                f"can, NM({self.n}, {self.m}, layers=...)"
            )
        if not bool(weight.isfinite().all()):
            raise RangeError(f"{name} has weights that are not finite; look for what made them so")
        groups = weight.detach().abs().movedim(axis, -1).unflatten(-1, (-1, self.m))
        best = groups.argsort(dim=-1, descending=True, stable=True)[..., : self.n]
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True)
        return kept.flatten(-2).movedim(-1, axis).contiguous()
