"""Twins of the key kernels."""

import torch
from torch import Tensor

from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, FIELD_BITS, SHIFTS
from pcsparse.types import Bounds, Triple


def pack_rows(coords: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], bool]:
    keys = coords[:, 0].long() << BATCH_SHIFT
    for axis, (shift, bias) in enumerate(zip(SHIFTS, BIAS, strict=True), start=1):
        keys = keys + ((coords[:, axis].long() + bias) << shift)
    return keys, *_ends(coords), ascend(keys)


def _ends(coords: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if len(coords) == 0:
        return (0,) * 4, (0,) * 4
    return tuple(coords.amin(dim=0).tolist()), tuple(coords.amax(dim=0).tolist())


def unpack_keys(keys: Tensor) -> Tensor:
    columns = [keys >> BATCH_SHIFT]
    for bits, shift, bias in zip(FIELD_BITS, SHIFTS, BIAS, strict=True):
        columns.append(((keys >> shift) & ((1 << bits) - 1)) - bias)
    return torch.stack(columns, dim=1).int()


def key_extent(keys: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return _ends(unpack_keys(keys))


def ascend(keys: Tensor) -> bool:
    return bool((keys[1:] > keys[:-1]).all())


def scale_keys(keys: Tensor, stride: Triple) -> Tensor:
    coords = unpack_keys(keys).long()
    return pack_rows(coords * coords.new_tensor([1, *stride]))[0]


def sort_keys(keys: Tensor, bounds: Bounds | None = None) -> tuple[Tensor, Tensor]:
    values, order = torch.sort(keys, stable=True)
    return values, order.int()


def unique_keys(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    unique, inverse = torch.unique(keys, return_inverse=True)
    first = torch.full_like(unique, keys.numel())
    first.scatter_reduce_(0, inverse, torch.arange(keys.numel(), device=keys.device), "amin")
    return unique, inverse, first
