"""Small integers that a kernel reads, kept on the device: what they are made of does not change."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """The `values` as int64 on a device; waits for it only where it has not seen them lately.

    Args:
        values: any number of them.
        device: where to.

    Returns:
        (len(values),) int64, shared: not to be written to.
    """
    return _kept(tuple(values), device)


# a kernel of a network has two or three of these; an upload that waits lets every stream read it
@functools.lru_cache(maxsize=512)
def _kept(values: tuple[int, ...], device: torch.device) -> Tensor:
    # also made in inference mode, but used in training too
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.int64, device=device)
