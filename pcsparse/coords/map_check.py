"""What the lists of a kernel map must keep: kernels follow them by address and look at nothing.

Lists that come from outside are read here once, some milliseconds for a million pairs. Those that our kernels
wrote are right by construction and are never read.
"""

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.map_forms import Pairs
from pcsparse.coords.table_check import check_table
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.key_layout import check_pair_count

if TYPE_CHECKING:
    from pcsparse.coords.kernel_map import KernelMap

_MOST_ROWS = 2**31 - 1


def check_map(kmap: "KernelMap") -> None:
    """Everything that the docstrings of `Pairs` and `KernelMap` say of the form of a map and of its flags.

    Raises:
        ShapeError: lists or a table of other shapes, lengths or strides.
        DtypeError: lists or a table of other dtypes.
        DeviceError: lists on several devices.
        RangeError: offsets or rows that are not there, pairs out of order, or a flag that is not so.
    """
    for name, n in (("n_in", kmap.n_in), ("n_out", kmap.n_out)):
        if not 0 <= n <= _MOST_ROWS:
            raise RangeError(f"{name} must be from 0 to {_MOST_ROWS} (int32), got {n}; split the batch")
    if isinstance(kmap.born, Pairs):
        _check_pairs(kmap, kmap.born)
    else:
        check_table(kmap, kmap.born)


def _check_pairs(kmap: "KernelMap", pairs: Pairs) -> None:
    _check_form(kmap, pairs)
    if pairs.starts.is_meta:
        # shapes without values: no kernel takes them
        return
    _check_starts(kmap)
    _check_rows("rows_in", pairs.rows_in, "input", kmap.n_in)
    _check_rows("rows_out", pairs.rows_out, "output", kmap.n_out)
    again = "; where several inputs may meet one output, pass distinct=False" if kmap.distinct else ""
    _check_ascent(kmap, "rows_out", pairs.rows_out, "sort the pairs of each offset by rows_out" + again)
    if kmap.monotone:
        _check_ascent(kmap, "rows_in", pairs.rows_in, "pass monotone=False")
    elif kmap.distinct:
        _check_distinct(kmap)
    if kmap.symmetric:
        _check_mirror(kmap)


def _check_form(kmap: "KernelMap", pairs: Pairs) -> None:
    lists = {"rows_in": pairs.rows_in, "rows_out": pairs.rows_out, "starts": pairs.starts}
    for name, part in lists.items():
        check_shape(name, part, (None,))
        check_dtype(name, part, torch.int64 if name == "starts" else torch.int32)
        if not part.is_contiguous():
            raise ShapeError(f"{name} must be contiguous, got strides {part.stride()}; call .contiguous()")
    check_shape("rows_out", pairs.rows_out, (kmap.n_pairs,))
    if pairs.starts.numel() == 0:
        raise ShapeError("starts must have k + 1 entries, the last one n_pairs, got none; no offset is [0]")
    check_same_device(**lists)
    check_pair_count(kmap.n_pairs, kmap.n_in, kmap.n_out, kmap.volume)


def _check_starts(kmap: "KernelMap") -> None:
    starts = kmap.pairs.starts
    if int(starts[0]) != 0 or int(starts[-1]) != kmap.n_pairs:
        raise RangeError(
            f"starts must run from 0 to the {kmap.n_pairs} pairs, but runs from {int(starts[0])} to "
            f"{int(starts[-1])}; offset i owns the pairs from starts[i] to starts[i + 1]"
        )
    falls = torch.nonzero(starts.diff() < 0)
    if falls.numel():
        k = int(falls[0])
        raise RangeError(
            f"starts must not fall, but offset {k} begins at {int(starts[k])} and ends at "
            f"{int(starts[k + 1])}; offset i owns the pairs from starts[i] to starts[i + 1]"
        )


def _check_rows(name: str, rows: Tensor, side: str, n: int) -> None:
    if rows.numel() == 0:
        return
    low, high = rows.aminmax()
    if int(low) < 0 or int(high) >= n:
        pair = int(torch.nonzero((rows < 0) | (rows >= n))[0])
        raise RangeError(
            f"{name} names row {int(rows[pair])} at pair {pair}, but there are {n} {side} rows, from 0 on; "
            "build the map from the clouds that it is for"
        )


def _check_ascent(kmap: "KernelMap", name: str, rows: Tensor, remedy: str) -> None:
    steps = rows.diff()
    wrong = steps <= 0 if kmap.distinct else steps < 0
    # from one offset to the next a list may fall
    bounds = kmap.pairs.starts[1:-1]
    wrong[bounds[(bounds > 0) & (bounds < rows.numel())] - 1] = False
    found = torch.nonzero(wrong)
    if found.numel():
        pair = int(found[0])
        k = int(torch.searchsorted(kmap.pairs.starts, pair, right=True)) - 1
        raise RangeError(
            f"{name} must ascend within an offset, but at offset {k} row {int(rows[pair])} comes before row "
            f"{int(rows[pair + 1])}; {remedy}"
        )


def _check_distinct(kmap: "KernelMap") -> None:
    """That no input occurs twice at an offset: outputs of the transposed map would."""
    bounds = kmap.pairs.starts.tolist()
    last = kmap.pairs.rows_in.new_full((kmap.n_in,), -1)
    for k, (begin, end) in enumerate(pairwise(bounds)):
        rows = kmap.pairs.rows_in[begin:end].long()
        place = torch.arange(end - begin, dtype=torch.int32, device=rows.device)
        last[rows] = place
        # of pairs that write one place one is left, and the others find it
        twice = torch.nonzero(last[rows] != place)
        if twice.numel():
            raise RangeError(
                f"input row {int(rows[twice[0]])} occurs twice at offset {k}; a map in which rows occur more "
                "than once at an offset needs distinct=False"
            )


def _check_mirror(kmap: "KernelMap") -> None:
    n, k, pairs = kmap.n_out, kmap.volume, kmap.pairs
    if kmap.n_in != n:
        raise RangeError(
            f"a symmetric map has as many inputs as outputs, got n_in={kmap.n_in} and n_out={n}; pass "
            "symmetric=False"
        )
    if k % 2 == 0:
        raise RangeError(f"a symmetric map has an odd number of offsets, got {k}; pass symmetric=False")
    bounds, middle = pairs.starts.tolist(), k // 2
    lists = [slice(begin, end) for begin, end in pairwise(bounds)]
    every = torch.arange(n, dtype=torch.int32, device=pairs.rows_in.device)
    if not all(part[lists[middle]].equal(every) for part in (pairs.rows_in, pairs.rows_out)):
        raise RangeError(
            f"in a symmetric map of {k} offsets the middle offset {middle} leads each of the {n} rows to "
            "itself, but here it does not; pass symmetric=False"
        )
    for i in range(middle):
        this, other = lists[i], lists[k - 1 - i]
        order = pairs.rows_in[this].argsort(stable=True)
        if not (
            pairs.rows_out[this][order].equal(pairs.rows_in[other])
            and pairs.rows_in[this][order].equal(pairs.rows_out[other])
        ):
            raise RangeError(
                f"in a symmetric map offset k - 1 - i is offset i with its rows swapped, but offset "
                f"{k - 1 - i} is not offset {i} swapped; pass symmetric=False"
            )
