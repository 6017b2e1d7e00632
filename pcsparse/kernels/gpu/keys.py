"""Packing and sorting of coordinate keys."""

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.mailbox import mailbox
from pcsparse.kernels.key_layout import FIELD_BITS
from pcsparse.types import Bounds, Triple

_THREADS = 256
# enough to fill a card, and few enough that their atomics do not queue; a thread takes several rows
_MOST_BLOCKS = 512
_NOTHING = (0, 0, 0, 0)


def _told(name: str, tensors: tuple[Tensor, ...], words: int) -> list[int]:
    """What a kernel tells the host of rows, the last of `tensors` written as it goes."""
    rows = tensors[0]
    box, n = mailbox(rows.device), rows.shape[0]
    blocks = min(-(-n // _THREADS), _MOST_BLOCKS)
    cuda_text.launch("keys.cu", name, blocks, _THREADS, *tensors, box.counters, box.address, box.stamp(), n)
    return box.read(words)


def _extent(facts: list[int]) -> Bounds:
    """Low and high of what `widen` in keys.cu found."""
    high, low = facts[:4], facts[4:8]
    return tuple([(1 << 31) - 1 - end for end in low]), tuple([end - (1 << 31) for end in high])


def pack_rows(coords: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], bool]:
    n = coords.shape[0]
    keys = torch.empty(n, dtype=torch.int64, device=coords.device)
    if n == 0:
        return keys, _NOTHING, _NOTHING, True
    # a row is read at once, which needs its address to be a multiple of its size
    coords = coords if coords.data_ptr() % 16 == 0 else coords.clone()
    facts = _told("pack_rows", (coords, keys), 9)
    return keys, *_extent(facts), not facts[8]


def key_extent(keys: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return _extent(_told("key_extent", (keys,), 8)) if keys.numel() else (_NOTHING, _NOTHING)


def ascend(keys: Tensor) -> bool:
    return not (keys.numel() and _told("find_fall", (keys,), 1)[0])


def scale_keys(keys: Tensor, stride: Triple) -> Tensor:
    # a longer one would leave the range, unless all coordinates are 0 there
    steps = [min(step, 1 << max(FIELD_BITS)) for step in stride]
    n, scaled = keys.numel(), torch.empty_like(keys)
    cuda_text.launch("keys.cu", "scale_keys", -(-n // _THREADS), _THREADS, keys, scaled, *steps, n)
    return scaled


def sort_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    values, order = torch.sort(keys, stable=True)
    return values, order.int()


def unpack_keys(keys: Tensor) -> Tensor:
    n = keys.numel()
    coords = torch.empty(n, 4, dtype=torch.int32, device=keys.device)
    cuda_text.launch("keys.cu", "unpack_keys", -(-n // _THREADS), _THREADS, keys, coords, n)
    return coords
