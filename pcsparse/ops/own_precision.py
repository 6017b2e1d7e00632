"""Dense products in the dtype of their operands, within autocast, too: of layers that promise a dtype."""

import torch
from torch import Tensor
from torch.nn.functional import linear


def linear_as_stored(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, which autocast leaves alone.

    Args:
        x: (n, n_in).
        weight: (n_out, n_in), dtype of `x`.
        bias: (n_out,), or None.

    Returns:
        (n, n_out), dtype of `x`.
    """
    kind = x.device.type
    # nothing is computed on meta, and autocast does not know it
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return linear(x, weight, bias)
    with torch.autocast(kind, enabled=False):
        return linear(x, weight, bias)
