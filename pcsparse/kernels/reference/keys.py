"""Twins of the key kernels."""

import torch
from torch import Tensor


def unique_keys(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    unique, inverse = torch.unique(keys, return_inverse=True)
    first = torch.full_like(unique, keys.numel())
    first.scatter_reduce_(0, inverse, torch.arange(keys.numel(), device=keys.device), "amin")
    return unique, inverse, first


def match_keys(keys: Tensor, queries: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows_in, rows_out, counts = [], [], [0]
    for delta in deltas.tolist():
        wanted = queries + delta
        found = torch.searchsorted(keys, wanted)
        inside = found < keys.numel()
        hit = inside.clone()
        hit[inside] = keys[found[inside]] == wanted[inside]
        rows_in.append(found[hit].int())
        rows_out.append(torch.nonzero(hit).squeeze(1).int())
        counts.append(rows_out[-1].numel())
    nothing = keys.new_zeros(0, dtype=torch.int32)
    starts = torch.tensor(counts, device=keys.device).cumsum(0)
    return torch.cat([nothing, *rows_in]), torch.cat([nothing, *rows_out]), starts
