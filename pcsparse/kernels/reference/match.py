"""Twin of the search of a kernel map."""

import torch
from torch import Tensor

from pcsparse.kernels.key_layout import check_offset_count, check_pair_count


def match_keys(
    keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    check_offset_count(deltas.numel())
    rows_in, rows_out = [], []
    for delta in deltas.tolist():
        wanted = queries + delta
        found = torch.searchsorted(keys, wanted)
        inside = found < keys.numel()
        hit = inside.clone()
        hit[inside] = keys[found[inside]] == wanted[inside]
        rows_in.append(found[hit].int())
        rows_out.append(torch.nonzero(hit).squeeze(1).int())
    if mirrored:
        same = torch.arange(queries.numel(), dtype=torch.int32, device=keys.device)
        rows_in, rows_out = [*rows_in, same, *rows_out[::-1]], [*rows_out, same, *rows_in[::-1]]
    starts = torch.tensor([0, *(rows.numel() for rows in rows_in)], device=keys.device).cumsum(0)
    check_pair_count(int(starts[-1]), keys.numel(), queries.numel(), starts.numel() - 1)
    nothing = keys.new_zeros(0, dtype=torch.int32)
    return torch.cat([nothing, *rows_in]), torch.cat([nothing, *rows_out]), starts
