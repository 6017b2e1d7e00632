"""A penalty on the sizes of weights while a network is fine-tuned, L1 or L2 or both.

Source: Han et al., NeurIPS 2015 (arXiv 1506.02626), section 3.1.
"""

import math

import torch
from torch import Tensor, nn

from pcsparse.compress.weights import all_weight_layers
from pcsparse.errors import RangeError


class WeightPenalty:
    """`l1` times the sizes of all prunable weights plus `l2` times their squares, summed, beside a loss.

    What `fit` of `pcsparse.train` takes as `penalty`. Its gradient is known without a backward pass, so that
    it is the same where network passes are recorded. Weights that are not trained are left out.

    Args:
        l1, l2: factors, at least 0.

    Raises:
        RangeError: a negative factor, or one that is not finite.
    """

    def __init__(self, *, l1: float = 0.0, l2: float = 0.0) -> None:
        # written so that nan is refused too
        if not (0 <= l1 < math.inf and 0 <= l2 < math.inf):
            raise RangeError(f"l1 and l2 must be at least 0 and finite, got {l1} and {l2}")
        self._l1, self._l2 = float(l1), float(l2)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Tensor:
        """Add the gradients to those of the weights; returns the penalty, a scalar on their device.

        Raises:
            UnsupportedError: weights that a parametrisation makes.
        """
        terms = []
        for weight in all_weight_layers(model).values():
            if not weight.requires_grad:
                continue
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.add_(weight.sign(), alpha=self._l1).add_(weight, alpha=2.0 * self._l2)
            terms.append(self._l1 * weight.abs().sum() + self._l2 * weight.square().sum())
        return torch.stack(terms).sum() if terms else torch.zeros((), device="cpu")

    def __repr__(self) -> str:
        """Both factors: equal where the penalty is the same."""
        return f"WeightPenalty(l1={self._l1}, l2={self._l2})"
