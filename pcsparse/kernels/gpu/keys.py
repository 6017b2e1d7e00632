"""Packing and sorting of coordinate keys."""

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.key_layout import FIELD_BITS
from pcsparse.types import Triple

_THREADS = 256
# enough to fill a card, and few enough that their atomics do not queue; a thread takes several rows
_MOST_BLOCKS = 512


def _extent(facts: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high (4,) int64 of what `widen` in keys.cu wrote."""
    words = facts.long() & 0xFFFFFFFF
    return (1 << 31) - 1 - words[4:8], words[:4] - (1 << 31)


def pack_rows(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    n = coords.shape[0]
    keys = torch.empty(n, dtype=torch.int64, device=coords.device)
    if n == 0:
        nothing = torch.zeros(4, dtype=torch.int64)
        return keys, nothing, nothing.clone(), True
    # a row is read at once, which needs its address to be a multiple of its size
    coords = coords if coords.data_ptr() % 16 == 0 else coords.clone()
    facts = torch.zeros(9, dtype=torch.int32, device=coords.device)
    blocks = min(-(-n // _THREADS), _MOST_BLOCKS)
    cuda_text.launch("keys.cu", "pack_rows", blocks, _THREADS, coords, keys, facts, n)
    found = facts.cpu()
    return keys, *_extent(found), not found[8]


def key_extent(keys: Tensor) -> tuple[Tensor, Tensor]:
    n = keys.numel()
    if n == 0:
        return torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    facts = torch.zeros(8, dtype=torch.int32, device=keys.device)
    blocks = min(-(-n // _THREADS), _MOST_BLOCKS)
    cuda_text.launch("keys.cu", "key_extent", blocks, _THREADS, keys, facts, n)
    return _extent(facts.cpu())


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
