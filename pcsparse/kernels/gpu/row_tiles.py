"""How a matrix of feature rows is cut into tiles: rows times a power of two of channels."""

import torch

_MOST_CHANNELS = 128


def channel_block(c: int) -> int:
    """Channels of a tile: a power of two, without idle lanes where `c` has a large enough one in it."""
    exact = c & -c
    return min(_MOST_CHANNELS, exact if exact >= 32 else 1 << max(c - 1, 0).bit_length())


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that accumulates values of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32
