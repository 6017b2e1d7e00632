"""Gradient of a bias: the sum of rows, the same bits at any number of threads."""

from torch import Tensor


def bias_grad(grad_out: Tensor) -> Tensor:
    """Sum over rows.

    Args:
        grad_out: (n, c).

    Returns:
        (c,), in the dtype of `grad_out`.
    """
    if grad_out.shape[1] == 1 and grad_out.device.type == "cpu":
        # a single number torch adds in parts, one a thread; columns it gives out whole
        return grad_out.expand(-1, 2).sum(dim=0)[:1]
    return grad_out.sum(dim=0)
