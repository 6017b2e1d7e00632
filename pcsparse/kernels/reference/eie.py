"""Twins of the kernels of EIE's format."""

from itertools import pairwise

import torch
from torch import Tensor


def eie_layout(starts: Tensor, rows: Tensor, codes: Tensor, codebook: Tensor, n_out: int) -> list[Tensor]:
    return [starts, rows, codes, codebook]


def eie_linear(
    x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
) -> Tensor:
    starts, rows, codes, codebook = layout
    columns = torch.arange(len(starts) - 1, device=x.device).repeat_interleave(starts.diff())
    return _sums(x, rows.long(), columns, codebook[codes.long()], bias, n_out, relu)


def eie_row_layout(
    starts: Tensor, columns: Tensor, codes: Tensor, codebook: Tensor, n_in: int
) -> list[Tensor]:
    return [starts, columns, codes, codebook]


def eie_row_linear(
    x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
) -> Tensor:
    starts, columns, codes, codebook = layout
    rows = torch.arange(len(starts) - 1, device=x.device).repeat_interleave(starts.diff())
    return _sums(x, rows, columns.long(), codebook[codes.long()], bias, n_out, relu)


def eie_chip_linear(
    x: Tensor,
    codes: Tensor,
    skips: Tensor,
    pointers: Tensor,
    batch_starts: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    n_out: int,
    relu: bool = False,
) -> Tensor:
    n_pe, rows, columns, at = len(pointers), [], [], 0
    for batch, (first, last) in enumerate(pairwise(batch_starts.tolist())):
        for pe in range(n_pe):
            counts = pointers[pe, first + batch : last + batch + 1].diff().tolist()
            for column, count in zip(range(first, last), counts, strict=True):
                local = (skips[at : at + count].long() + 1).cumsum(0) - 1
                rows += (local * n_pe + pe).tolist()
                columns += [column] * count
                at += count
    kept = codes != 0
    row, of_column = (
        torch.tensor(numbers, dtype=torch.int64, device="cpu")[kept] for numbers in (rows, columns)
    )
    return _sums(x, row, of_column, codebook[codes[kept].long()], bias, n_out, relu)


def _sums(
    x: Tensor,
    rows: Tensor,
    columns: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    n_out: int,
    relu: bool,
) -> Tensor:
    """One product a weight, added up in float64."""
    out = torch.zeros(len(x), n_out, dtype=torch.float64, device="cpu")
    for sample, result in zip(x.double(), out, strict=True):
        active = (sample != 0)[columns]
        result.index_add_(0, rows[active], weights.double()[active] * sample[columns][active])
    if bias is not None:
        out += bias.double()
    return (torch.where(out < 0, 0.0, out) if relu else out).to(x.dtype)
