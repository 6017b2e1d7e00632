"""Small integers that a kernel reads, kept on the device: what they are made of does not change."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

LONGEST_KEPT = 4096
"""What a network's kernels need, and no more: longer lists are seldom, and not kept."""
# numbers of int64 in each of the two stores, on all devices together: 64 MiB in all, which 32,768 maps of a
# search over subsets of 27 offsets fill; the allocator gives 64 at a time
_ROOM, _GIVEN = 1 << 22, 64

T = TypeVar("T", bound=Tensor | tuple[Tensor, Tensor])


class Kept(Generic[T]):
    """What is made of few numbers on a device, kept for good.

    A kernel of any stream may still read it when its caller is done, of which the allocator, which knows
    only the stream that a tensor was made on, is told nothing: memory that is never freed is never taken by
    another. Once the room is used up nothing more is kept, to the end of the process: what is known stays
    quick, all else is made at each call, which waits for the upload of each tensor. The allocator gives what
    is not kept to the stream on which it was made and read.

    Args:
        make: the numbers and a device to a result, which work on any stream may read at once.
    """

    def __init__(self, make: Callable[[tuple[int, ...], torch.device], T]) -> None:
        self._make, self._room = make, _ROOM
        self._known: dict[tuple[tuple[int, ...], torch.device], T] = {}

    def __call__(self, values: tuple[int, ...], device: torch.device) -> T:
        """What is made of the values there; shared, where it is kept: not to be written to."""
        found = self._known.get((values, device))
        if found is not None:
            return found
        found = self._make(values, device)
        tensors = (found,) if isinstance(found, Tensor) else found
        size = sum(-(-tensor.numel() // _GIVEN) * _GIVEN for tensor in tensors)
        if len(values) > LONGEST_KEPT or size > self._room:
            return found
        self._room -= size
        # another thread may have been first
        return self._known.setdefault((values, device), found)


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """The `values` as int64 on a device; waits for it only where it does not keep them.

    Args:
        values: any number of them; such as come again, not those of a cloud.
        device: where to.

    Returns:
        (len(values),) int64, shared: not to be written to.
    """
    return _KEPT(tuple(values), device)


def made(values: tuple[int, ...], device: torch.device) -> Tensor:
    """As `on_device`, for its caller alone; waits."""
    # also in inference mode, but used in training too; the upload ends before it returns, so that work on any
    # stream may read it
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.int64, device=device)


_KEPT = Kept(made)
