"""Twins of the key kernels."""

import torch
from torch import Tensor

from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, FIELD_BITS, SHIFTS
from pcsparse.types import Triple


def pack_rows(coords: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    keys = coords[:, 0].long() << BATCH_SHIFT
    for axis, (shift, bias) in enumerate(zip(SHIFTS, BIAS, strict=True), start=1):
        keys = keys + ((coords[:, axis].long() + bias) << shift)
    nothing = coords.new_zeros(4, dtype=torch.int64)
    low = coords.amin(dim=0).long() if len(coords) else nothing
    high = coords.amax(dim=0).long() if len(coords) else nothing
    return keys, low, high, bool((keys[1:] > keys[:-1]).all())


def unpack_keys(keys: Tensor) -> Tensor:
    columns = [keys >> BATCH_SHIFT]
    for bits, shift, bias in zip(FIELD_BITS, SHIFTS, BIAS, strict=True):
        columns.append(((keys >> shift) & ((1 << bits) - 1)) - bias)
    return torch.stack(columns, dim=1).int()


def key_extent(keys: Tensor) -> tuple[Tensor, Tensor]:
    coords = unpack_keys(keys).long()
    if len(coords) == 0:
        return keys.new_zeros(4), keys.new_zeros(4)
    return coords.amin(dim=0), coords.amax(dim=0)


def scale_keys(keys: Tensor, stride: Triple) -> Tensor:
    coords = unpack_keys(keys).long()
    return pack_rows(coords * coords.new_tensor([1, *stride]))[0]


def sort_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    values, order = torch.sort(keys, stable=True)
    return values, order.int()


def unique_keys(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    unique, inverse = torch.unique(keys, return_inverse=True)
    first = torch.full_like(unique, keys.numel())
    first.scatter_reduce_(0, inverse, torch.arange(keys.numel(), device=keys.device), "amin")
    return unique, inverse, first
