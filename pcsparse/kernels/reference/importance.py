"""Twins of the kernels that find important rows."""

from itertools import pairwise

import torch
from torch import Tensor


def mean_magnitude(feats: Tensor) -> Tensor:
    wide = torch.float64 if feats.dtype == torch.float64 else torch.float32
    return feats.to(wide).abs().mean(dim=1)


def top_rows(scores: Tensor, order: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for (begin, end), count in zip(pairwise(starts.tolist()), counts.tolist(), strict=True):
        rows = order[begin:end].long()
        # stable, so of equal scores the lower row comes first; a NaN comes before all
        ranked = scores[rows].argsort(descending=True, stable=True)
        mask[rows[ranked[:count]]] = True
    return mask
