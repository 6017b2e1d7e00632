"""Gather and product on a GPU: rows are spread by their input row, and multiplied by cuBLAS.

A program reads some input rows once and stores them at each of their places; nobody writes the padding, and
nobody reads its products. cuBLAS multiplies 16-bit rows on tensor cores and keeps the products in float32.

Source: TorchSparse (MLSys 2022), section 4.3: the input-stationary gather.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcsparse.kernels.gpu.launch import Launcher

_HALVES = (torch.float16, torch.bfloat16)
# elements of a program, and the channels of a row that it takes at most
_ELEMENTS, _COLUMNS = 2048, 256
# bytes that one load takes at most
_WIDEST_LOAD = 16


def wide_matmul(a: Tensor, b: Tensor) -> Tensor:
    out = torch.empty(a.shape[0], b.shape[1], dtype=_wide(a.dtype), device=a.device)
    _multiply(a, b, out)
    return out


def gather_layout(rows_in: Tensor, places: Tensor, n_in: int, n_places: int) -> list[Tensor]:
    rows, order = torch.sort(rows_in, stable=True)
    bounds = torch.arange(n_in + 1, dtype=torch.int32, device=rows_in.device)
    return [places[order], torch.searchsorted(rows, bounds, out_int32=True)]


def gather_gemm(
    feats: Tensor, weight: Tensor, runs: list[tuple[tuple[int, ...], int]], layout: list[Tensor]
) -> Tensor:
    n_places = sum(len(offsets) * rows for offsets, rows in runs)
    gathered = feats.new_empty(n_places, feats.shape[1])
    products = feats.new_empty(n_places, weight.shape[2], dtype=_wide(feats.dtype))
    if n_places:
        _spread_all(feats, layout[0], layout[1], gathered)
    begin = 0
    for offsets, rows in runs:
        end = begin + len(offsets) * rows
        part, out = gathered[begin:end], products[begin:end]
        if len(offsets) == 1:
            _multiply(part, weight[offsets[0]], out)
        else:
            shape = (len(offsets), rows, -1)
            # stacked, as a list of offsets would have to travel to the device first
            several = torch.stack([weight[offset] for offset in offsets])
            _multiply(part.view(shape), several, out.view(shape))
        begin = end
    return products


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _HALVES else dtype


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    product = torch.bmm if a.dim() == 3 else torch.mm
    if a.dtype != out.dtype and a.is_cuda:
        product(a, b, out_dtype=out.dtype, out=out)
    else:
        # on a CPU, where torch has no wide product of halves
        product(a.to(out.dtype), b.to(out.dtype), out=out)


def _spread_all(feats: Tensor, places: Tensor, starts: Tensor, out: Tensor) -> None:
    n_in, c_in = feats.shape
    feats = feats if feats.stride(1) == 1 else feats.contiguous()
    columns = min(_COLUMNS, triton.next_power_of_2(c_in))
    rows = _ELEMENTS // columns
    align = _WIDEST_LOAD // feats.element_size() | c_in | feats.stride(0)
    align = align & -align
    _SPREAD(
        (-(-n_in // rows), -(-c_in // columns), 1),
        (feats, places, starts, out),
        (n_in, c_in // align, feats.stride(0) // align),
        (rows, columns, align),
        4,
        1,
    )


@triton.jit(do_not_specialize=["n_in", "c_in", "step"])
def _spread(
    feats,
    places,
    starts,
    out,
    n_in,
    c_in,
    step,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALIGN: tl.constexpr,
):
    # numbers came divided, so that the compiler sees what they are multiples of
    c_in, step = c_in * ALIGN, step * ALIGN
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (column < c_in)[None, :]
    first = tl.load(starts + row, mask=row < n_in, other=0)
    stop = tl.load(starts + row + 1, mask=row < n_in, other=0)
    values = tl.load(
        feats + (row.to(tl.int64)[:, None] * step + column[None, :]),
        mask=(row < n_in)[:, None] & inside,
        other=0.0,
    )
    count = stop - first
    for i in range(0, tl.max(count, axis=0)):
        # not first + i < stop: that sum may not fit 32 bits
        place = tl.load(places + first + i, mask=i < count, other=-1)
        at = place.to(tl.int64)[:, None] * c_in + column[None, :]
        tl.store(out + at, values, mask=(place >= 0)[:, None] & inside)


_SPREAD = Launcher(_spread)
