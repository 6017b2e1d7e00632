"""Gradient of a bias: the sum of rows, the same bits at any number of threads."""

import torch
from torch import Tensor


def bias_grad(grad_out: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over rows.

    Args:
        grad_out: (n, c) float.
        dtype: of the bias, as wide as `grad_out` or wider: sums of 16 bits may be beyond their range.

    Returns:
        (c,), of `dtype`.
    """
    wide = None
    if dtype != grad_out.dtype:
        wide = torch.float64 if grad_out.dtype == torch.float64 else torch.float32
    if grad_out.shape[1] == 1 and grad_out.device.type == "cpu":
        # a single number torch adds in parts, one a thread; columns it gives out whole
        sums = grad_out.expand(-1, 2).sum(dim=0, dtype=wide)[:1]
    else:
        sums = grad_out.sum(dim=0, dtype=wide)
    return sums if sums.dtype == dtype else sums.to(dtype)
