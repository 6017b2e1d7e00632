"""What the table of a kernel map must keep, as `map_check` says it of lists."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.coords.map_forms import NO_NEIGHBOUR
from pcsparse.errors import RangeError, ShapeError

if TYPE_CHECKING:
    from pcsparse.coords.kernel_map import KernelMap


def check_table(kmap: "KernelMap", table: Tensor) -> None:
    """Everything that the docstring of `KernelMap` says of a table and of the flags of its map.

    Raises:
        ShapeError: a table of another shape, or with gaps between its numbers.
        DtypeError: a table that is not int32.
        RangeError: rows that are not there, inputs twice at an offset, or a flag that is not so.
    """
    check_shape("table", table, (None, kmap.n_out))
    check_dtype("table", table, torch.int32)
    if not table.is_contiguous():
        raise ShapeError(f"table must be contiguous, got strides {table.stride()}; call .contiguous()")
    if not kmap.distinct:
        raise RangeError(
            "a table holds one input for each output and offset, but distinct=False says there are more; "
            "make the map of pairs"
        )
    if table.is_meta:
        # a shape without values: no kernel takes it
        return
    _check_range(table, kmap.n_in)
    for k, row in enumerate(table):
        _check_row(k, row[row != NO_NEIGHBOUR], kmap.monotone)
    if kmap.symmetric:
        _check_mirror(kmap, table)


def _check_range(table: Tensor, n_in: int) -> None:
    if table.numel() == 0:
        return
    low, high = torch.stack(table.aminmax()).tolist()
    if low < NO_NEIGHBOUR or high >= n_in:
        wrong = torch.nonzero((table < NO_NEIGHBOUR) | (table >= n_in))[0]
        k, output = wrong.tolist()
        raise RangeError(
            f"the table names row {int(table[k, output])} at offset {k} of output {output}, but there are "
            f"{n_in} input rows, from 0 on, and {NO_NEIGHBOUR} is none; build the map from the clouds that "
            "it is for"
        )


def _check_row(k: int, inputs: Tensor, monotone: bool) -> None:
    ordered = inputs if monotone else inputs.sort().values
    wrong = torch.nonzero(ordered.diff() <= 0)
    if wrong.numel() == 0:
        return
    before, after = ordered[wrong[0, 0]], ordered[wrong[0, 0] + 1]
    if monotone:
        raise RangeError(
            f"inputs must ascend within an offset, but at offset {k} row {int(before)} comes before row "
            f"{int(after)}; pass monotone=False"
        )
    raise RangeError(
        f"input row {int(before)} occurs twice at offset {k}; a map in which rows occur more than once at an "
        "offset is made of pairs, with distinct=False"
    )


def _check_mirror(kmap: "KernelMap", table: Tensor) -> None:
    n, k = kmap.n_out, len(table)
    if kmap.n_in != n or k % 2 == 0:
        raise RangeError(
            "a symmetric map has as many inputs as outputs and an odd number of offsets, got "
            f"n_in={kmap.n_in}, n_out={n} and {k} offsets; pass symmetric=False"
        )
    middle, every = k // 2, torch.arange(n, dtype=torch.int32, device=table.device)
    if not table[middle].equal(every):
        raise RangeError(
            f"in a symmetric map of {k} offsets the middle offset {middle} leads each of the {n} rows to "
            "itself, but here it does not; pass symmetric=False"
        )
    for i in range(middle):
        mirrored = torch.full_like(every, NO_NEIGHBOUR)
        there = table[i] != NO_NEIGHBOUR
        mirrored[table[i][there].long()] = every[there]
        if not table[k - 1 - i].equal(mirrored):
            raise RangeError(
                f"in a symmetric map offset k - 1 - i is offset i with its rows swapped, but offset "
                f"{k - 1 - i} is not offset {i} swapped; pass symmetric=False"
            )
