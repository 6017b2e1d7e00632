"""Small integers that a kernel reads, kept on the device: what they are made of does not change."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

LONGEST_KEPT = 4096
"""What a network's kernels need, and no more: longer lists are seldom, and not kept."""


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """The `values` as int64 on a device; waits for it only where it has not seen them lately.

    Args:
        values: any number of them.
        device: where to.

    Returns:
        (len(values),) int64, shared: not to be written to.
    """
    return (_kept if len(values) <= LONGEST_KEPT else _made)(tuple(values), device)


def _made(values: tuple[int, ...], device: torch.device) -> Tensor:
    # also in inference mode, but used in training too; the upload ends before it returns, so that work on any
    # stream may read it
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.int64, device=device)


_kept = functools.lru_cache(maxsize=512)(_made)
