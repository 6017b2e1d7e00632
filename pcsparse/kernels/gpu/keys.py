"""Packing and sorting of coordinate keys."""

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text

_THREADS = 256
# enough to fill any card; a thread takes several rows where there are more
_MOST_BLOCKS = 1024
_HALF = 1 << 31


def pack_rows(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    n = coords.shape[0]
    keys = torch.empty(n, dtype=torch.int64, device=coords.device)
    if n == 0:
        nothing = torch.zeros(4, dtype=torch.int64)
        return keys, nothing, nothing.clone(), True
    facts = torch.zeros(9, dtype=torch.int64, device=coords.device)
    blocks = min(-(-n // _THREADS), _MOST_BLOCKS)
    cuda_text.launch("keys.cu", "pack_rows", blocks, _THREADS, coords, keys, facts, n)
    found = facts.cpu()
    return keys, _HALF - found[4:8], found[:4] - _HALF, not found[8]


def key_extent(keys: Tensor) -> tuple[Tensor, Tensor]:
    n = keys.numel()
    if n == 0:
        return torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    facts = torch.zeros(8, dtype=torch.int64, device=keys.device)
    blocks = min(-(-n // _THREADS), _MOST_BLOCKS)
    cuda_text.launch("keys.cu", "key_extent", blocks, _THREADS, keys, facts, n)
    found = facts.cpu()
    return _HALF - found[4:], found[:4] - _HALF


def sort_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    values, order = torch.sort(keys, stable=True)
    return values, order.int()


def unpack_keys(keys: Tensor) -> Tensor:
    n = keys.numel()
    coords = torch.empty(n, 4, dtype=torch.int32, device=keys.device)
    cuda_text.launch("keys.cu", "unpack_keys", -(-n // _THREADS), _THREADS, keys, coords, n)
    return coords
