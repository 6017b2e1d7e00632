"""The search of a kernel map: z-delta, one search a query and column of offsets, then steps.

A *column* is a run of offsets whose deltas ascend in small steps, as those do that differ in z only. A block
of threads takes neighbouring queries of one column, so that they walk the same keys and write side by side.

Source: Spira (MLSys 2026, arXiv 2511.20834), z-delta search; here a block narrows the keys down first.
"""

import functools

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.constants import on_device
from pcsparse.kernels.gpu.tables import to_pairs
from pcsparse.kernels.key_layout import check_offset_count

_THREADS = 256
# keys that a thread may pass from one offset to the next; further on a search is cheaper
_NEAR = 8
# offsets of one thread: kernels are smaller, but lists of deltas may be long
_LONGEST = 32


@functools.lru_cache(maxsize=256)
def _columns(deltas: tuple[int, ...]) -> tuple[int, ...]:
    """Where the columns of `deltas` begin; and their number."""
    begins: list[int] = []
    for k, delta in enumerate(deltas):
        if not begins or k - begins[-1] == _LONGEST or not 0 < delta - deltas[k - 1] <= _NEAR:
            begins.append(k)
    return (*begins, len(deltas))


def match_table(keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False) -> Tensor:
    k, n_in, n_out = deltas.numel(), keys.numel(), queries.numel()
    check_offset_count(k)
    table = torch.empty(2 * k + 1 if mirrored else k, n_out, dtype=torch.int32, device=keys.device)
    if mirrored:
        table[k + 1 :].fill_(-1)
    if mirrored and k == 0:
        torch.arange(n_out, out=table[0])
    if k == 0 or n_out == 0:
        return table
    # nothing comes back from a device, as deltas are made on the host
    listed = tuple(deltas.tolist())
    columns, parts = _columns(listed), -(-n_out // _THREADS)
    cuda_text.launch(
        "match.cu", "match_table", parts * (len(columns) - 1), _THREADS, keys, n_in, queries, n_out,
        on_device(listed, keys.device), on_device(columns, keys.device), table, 2 * k if mirrored else 0,
        parts,
    )  # fmt: skip
    return table


def match_keys(
    keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return to_pairs(match_table(keys, queries, deltas, mirrored), keys.numel())
