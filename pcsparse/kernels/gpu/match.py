"""The search of a kernel map: z-delta, one search a query and column of offsets, then steps.

A *column* is a run of offsets whose deltas ascend in small steps, as those do that differ in z only. A block
of threads takes neighbouring queries of one column, so that they walk the same keys and write side by side.

Source: Spira (MLSys 2026, arXiv 2511.20834), z-delta search; here a block narrows the keys down first.
"""

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.constants import on_device
from pcsparse.kernels.gpu.tables import listed
from pcsparse.kernels.key_layout import check_offset_count

_THREADS = 256
# keys that a thread may pass from one offset to the next; further on a search is cheaper
_NEAR = 8
# offsets of one thread: kernels are smaller, but lists of deltas may be long
_LONGEST = 32


def _columns(deltas: Tensor) -> list[int]:
    """Where the columns of deltas (k,), on the host, begin; and k."""
    k = deltas.numel()
    if k == 0:
        return [0]
    places, gaps = torch.arange(k), deltas.diff(prepend=deltas[:1])
    begins = torch.where((gaps <= 0) | (gaps > _NEAR), places, 0).cummax(0).values
    return [*torch.nonzero((places - begins) % _LONGEST == 0).squeeze(1).tolist(), k]


def match_table(keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False) -> Tensor:
    k, n_in, n_out = deltas.numel(), keys.numel(), queries.numel()
    check_offset_count(k)
    table = torch.empty(2 * k + 1 if mirrored else k, n_out, dtype=torch.int32, device=keys.device)
    if mirrored:
        table[k + 1 :].fill_(-1)
    if k == 0 and mirrored:
        torch.arange(n_out, out=table[0])
    if k == 0 or n_out == 0:
        return table
    # deltas are made on the host: no copy comes back
    host = deltas.cpu()
    columns, parts = _columns(host), -(-n_out // _THREADS)
    cuda_text.launch(
        "match.cu", "match_table", parts * (len(columns) - 1), _THREADS, keys, n_in, queries, n_out,
        on_device(host.tolist(), keys.device), on_device(columns, keys.device), table,
        2 * k if mirrored else 0, parts,
    )  # fmt: skip
    return table


def match_keys(
    keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return listed(match_table(keys, queries, deltas, mirrored), keys.numel())
