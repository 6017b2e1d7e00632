"""How a matrix of feature rows is cut into tiles: rows times a power of two of channels."""

import torch
from torch import Tensor

_MOST_CHANNELS = 128
# elements whose width a load of whole vectors asks for
_MOST_ALIGNED = 16


def channel_block(c: int) -> int:
    """Channels of a tile: a power of two, without idle lanes where `c` has a large enough one in it."""
    exact = c & -c
    return min(_MOST_CHANNELS, exact if exact >= 32 else 1 << max(c - 1, 0).bit_length())


def alignment(c: int) -> int:
    """The largest power of two that divides rows of `c` channels, as far as loads care.

    Kernels get `c` divided by it, and it as a constant, so that the compiler sees what rows are multiples of.
    """
    return min(_MOST_ALIGNED, c & -c)


def whole(part: Tensor | None) -> Tensor | None:
    """What a kernel reads without strides: the same, or a copy without gaps."""
    return part if part is None or part.is_contiguous() else part.contiguous()


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that accumulates values of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32
