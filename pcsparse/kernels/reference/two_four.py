"""Twin of the product with a 2:4 matrix."""

import torch
from torch import Tensor


def two_four_matvec(x: Tensor, values: Tensor, positions: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    n_kept = values.shape[1]
    # bits 2 j and 2 j + 1 of a byte are the position of its value j, j = 0 to 3
    parts = [positions >> shift & 3 for shift in (0, 2, 4, 6)]
    position = torch.stack(parts, dim=-1).flatten(1)[:, :n_kept].long()
    # values 2 g and 2 g + 1 belong to inputs 4 g to 4 g + 3
    columns = position + torch.arange(n_kept, device=x.device) // 2 * 4
    out = (x[:, columns] * values).sum(dim=-1)
    if bias is not None:
        out = out + bias
    return out.clamp(min=0) if relu else out
