"""The two forms of a kernel map, lists and table, and what is made of either."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.kernels.key_layout import MOST_PAIRS, check_pair_count
from pcsparse.kernels.select import backend_of

NO_NEIGHBOUR = -1
"""Entry of a table where an output has no input at an offset."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """A kernel map as lists.

    Attributes:
        rows_in: (n_pairs,) int32, grouped by offset.
        rows_out: (n_pairs,) int32, ascending within an offset.
        starts: (k + 1,) int64; offset i owns [starts[i], starts[i + 1]).
    """

    rows_in: Tensor
    rows_out: Tensor
    starts: Tensor


def table_of(pairs: Pairs, n_out: int) -> Tensor:
    """The table (k, n_out) int32 of lists."""
    backend = backend_of(pairs.rows_in)
    return backend.pairs_to_table(pairs.rows_in, pairs.rows_out, pairs.starts, n_out)


def pairs_of(table: Tensor, n_in: int) -> Pairs:
    """The lists of a table (k, n_out) int32. The host waits for the device, which counts the pairs.

    Raises:
        RangeError: more pairs than lists can tell apart.
    """
    if table.numel() > MOST_PAIRS:
        k, n_out = table.shape
        check_pair_count(int((table != NO_NEIGHBOUR).sum()), n_in, n_out, k)
    return Pairs(*backend_of(table).table_to_pairs(table))


def transposed_pairs(pairs: Pairs, n_in: int, *, symmetric: bool, monotone: bool) -> Pairs:
    """Lists with inputs and outputs swapped; the offsets keep their place."""
    if monotone:
        return Pairs(pairs.rows_out, pairs.rows_in, pairs.starts)
    if symmetric:
        # a list with its columns swapped is the mirrored list, and that one ascends already
        return kept_pairs(pairs, range(pairs.starts.numel() - 2, -1, -1))
    backend = backend_of(pairs.rows_in)
    rows = backend.renumber_pairs(pairs.rows_out, pairs.rows_in, pairs.starts, None, None, n_in)
    return Pairs(*rows, pairs.starts)


def transposed_table(table: Tensor, n_in: int, *, symmetric: bool) -> Tensor:
    """The same of a table (k, n_out) int32: (k, n_in) int32."""
    return table.flip(0) if symmetric else backend_of(table).transpose_table(table, n_in)


def kept_pairs(pairs: Pairs, offsets: Sequence[int]) -> Pairs:
    """The lists of some offsets, in the given order."""
    bounds = pairs.starts.tolist()
    lists = [slice(bounds[k], bounds[k + 1]) for k in offsets]
    nothing = pairs.rows_in.new_zeros(0)
    counts = pairs.starts.diff()[list(offsets)]
    return Pairs(
        torch.cat([nothing, *(pairs.rows_in[part] for part in lists)]),
        torch.cat([nothing, *(pairs.rows_out[part] for part in lists)]),
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
    )


def kept_table(table: Tensor, offsets: Sequence[int]) -> Tensor:
    """The rows of some offsets of a table (k, n_out) int32, in the given order."""
    # slices, as an index would have to travel to the device first
    return torch.cat([table[:0], *(table[k : k + 1] for k in offsets)])


def neighbours_by_output(table: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of each output of a table (k, n_out) int32, in the order of the offsets.

    Nobody counts the pairs, so that the host does not wait for the device.

    Returns:
        rows (k * n_out,) int32; starts (n_out + 1,) int64; output j owns [starts[j], starts[j + 1]), and
        what stands behind the last of them is none.
    """
    by_output = table.T.flatten()
    there = by_output != NO_NEIGHBOUR
    before = torch.nn.functional.pad(there.cumsum(0), (1, 0))
    # those that are not there go behind the others, in order, too: no place is written twice
    behind = before[-1] + torch.arange(len(by_output), device=table.device) - before[:-1]
    places = torch.where(there, before[:-1], behind)
    starts = before[:: len(table)] if len(table) else before.new_zeros(table.shape[1] + 1)
    return torch.empty_like(by_output).scatter_(0, places, by_output), starts.contiguous()
