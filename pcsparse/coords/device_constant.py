"""Numbers that the host knows, on a device, without waiting for it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def device_constant(numbers: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of a few numbers beside another.

    `torch.tensor(numbers, device=...)` would wait until the device has done all that it was told before.

    Args:
        numbers: of the result.
        like: on whose device it is to be.
        dtype: that of `like` if None.

    Returns:
        (len(numbers),).
    """
    constant = torch.tensor(numbers, dtype=like.dtype if dtype is None else dtype, device="cpu")
    # the numbers are copied to a place of the driver's own before this returns
    return constant.to(like.device, non_blocking=True)
