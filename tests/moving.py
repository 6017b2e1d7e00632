"""Tensors on another device as they lie in memory."""

import torch
from torch import Tensor


def moved(part: Tensor, device: torch.device | str) -> Tensor:
    """`part` on `device` with its strides and its offset, in a copy of all its memory.

    `Tensor.to` leaves out the gaps of a view: a kernel of another device would never see them.
    """
    whole = part.as_strided((part.untyped_storage().nbytes() // part.itemsize,), (1,), 0)
    return whole.to(device).as_strided(part.shape, part.stride(), part.storage_offset())
