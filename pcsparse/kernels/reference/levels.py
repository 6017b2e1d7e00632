"""Twins of the level kernels."""

import itertools

import torch
from torch import Tensor

from pcsparse.kernels.key_layout import check_pair_count
from pcsparse.kernels.reference.keys import pack_rows, unpack_keys
from pcsparse.types import Triple


def partition_keys(keys: Tensor, stride: Triple, first: Triple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    coords = unpack_keys(keys)
    steps, shifted = coords.new_tensor(stride), coords[:, 1:] - coords.new_tensor(first)
    cells = torch.div(shifted, steps, rounding_mode="floor")
    place = shifted - cells * steps
    offset = (place[:, 0] * stride[1] + place[:, 1]) * stride[2] + place[:, 2]
    coarse, row = torch.unique(pack_rows(torch.cat([coords[:, :1], cells], dim=1))[0], return_inverse=True)
    order = torch.argsort(offset, stable=True)
    counts = torch.bincount(offset, minlength=stride[0] * stride[1] * stride[2])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return coarse, order.int(), row[order].int(), starts


def reached_cells(
    keys: Tensor, size: Triple, stride: Triple, dilation: Triple, first: Triple, expand: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    coords = unpack_keys(keys)
    steps, found, given = coords.new_tensor([1, *stride]), [keys.new_zeros(0)], []
    for offset in itertools.product(*map(range, size)):
        step = coords.new_tensor(
            [0, *(start + gap * o for start, gap, o in zip(first, dilation, offset, strict=True))]
        )
        shifted = coords * steps + step if expand else coords - step
        meets = torch.ones_like(keys, dtype=torch.bool) if expand else (shifted % steps == 0).all(dim=1)
        cells = shifted[meets] if expand else shifted[meets] // steps
        found.append(pack_rows(cells)[0])
        given.append(torch.nonzero(meets).squeeze(1).int())
    reached, rows = torch.unique(torch.cat(found), return_inverse=True)
    starts = torch.tensor([0, *map(len, given)], device=keys.device).cumsum(0)
    fine, coarse = (rows.int(), torch.cat(given)) if expand else (torch.cat(given), rows.int())
    n_fine, n_coarse = (reached, keys) if expand else (keys, reached)
    check_pair_count(int(starts[-1]), n_fine.numel(), n_coarse.numel(), len(given))
    return reached, fine, coarse, starts
