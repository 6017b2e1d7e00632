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
    if dtype != grad_out.dtype:
        wide = torch.float64 if grad_out.dtype == torch.float64 else torch.float32
        return _sums(grad_out, wide).to(dtype)
    return _sums(grad_out, None)


def _sums(rows: Tensor, dtype: torch.dtype | None) -> Tensor:
    if rows.shape[1] == 1 and rows.device.type == "cpu":
        # a single number torch adds in parts, one a thread; columns it gives out whole
        return rows.expand(-1, 2).sum(dim=0, dtype=dtype)[:1]
    return rows.sum(dim=0, dtype=dtype)
