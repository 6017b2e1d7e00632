"""Layers in EIE's format by columns, whose activations of 0 are skipped; and the chip's own format.

A slice of 256 rows and a part of the columns is a block's. What differs from the chip, where a processing
element has every n-th row: neighbouring rows, so that a row is one byte, and no pads. Blocks wait for memory
rather than add, so columns are cut into parts, whose sums a second kernel adds in order.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcsparse.kernels.gpu import cuda_text

_FILE = "eie.cu"
# as in eie.cu
_SLICE = 256
_THREADS = 256
# columns of a part, a block's first look at each of its activations, unless that makes too many parts
_PART_COLUMNS = 256
_MOST_PARTS = 16
# sums of parts held at a time: 64 MiB
_MOST_SUMS = 1 << 24
_CHIP_THREADS = 32
_TABLE = 256


def eie_layout(starts: Tensor, rows: Tensor, codes: Tensor, codebook: Tensor, n_out: int) -> list[Tensor]:
    n_in, n_weights, device = len(starts) - 1, len(codes), codes.device
    columns = torch.repeat_interleave(torch.arange(n_in, device=device), starts.diff(), output_size=n_weights)
    # slice after slice, in it column after column, as they came
    places, order = (rows.long() // _SLICE * n_in + columns).sort(stable=True)
    slots = torch.arange(-(-n_out // _SLICE) * n_in + 1, device=device)
    pointers = torch.searchsorted(places, slots).int()
    words = (rows.long() % _SLICE << 8 | codes.long())[order]
    # uint16 has few operators in torch: the same bits
    weights = torch.where(words < 1 << 15, words, words - (1 << 16)).to(torch.int16)
    table = pad(codebook.detach(), (0, _TABLE - len(codebook)))
    return [weights, pointers, table]


def eie_linear(
    x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
) -> Tensor:
    weights, pointers, table = layout
    x, shift = x.detach().contiguous(), _or_null(bias)
    n_items, n_in = x.shape
    out = torch.empty(n_items, n_out, dtype=torch.float32, device=x.device)
    n_parts = min(_MOST_PARTS, max(1, -(-n_in // _PART_COLUMNS)))
    part_columns = -(-n_in // n_parts)
    blocks = -(-n_out // _SLICE) * n_parts
    if n_parts == 1:
        cuda_text.launch(
            _FILE, "eie_columns", n_items * blocks, _THREADS, x, weights, pointers, table, shift, out, n_in,
            n_out, n_parts, part_columns, int(relu),
        )  # fmt: skip
        return out
    most = max(1, _MOST_SUMS // max(1, n_parts * n_out))
    sums = torch.empty(min(n_items, most), n_parts, n_out, dtype=torch.float32, device=x.device)
    for some, found in zip(x.split(most), out.split(most), strict=True):
        n = len(some)
        cuda_text.launch(
            _FILE, "eie_columns", n * blocks, _THREADS, some, weights, pointers, table, shift, sums, n_in,
            n_out, n_parts, part_columns, int(relu),
        )  # fmt: skip
        cuda_text.launch(
            _FILE, "eie_add_parts", -(-n * n_out // _THREADS), _THREADS, sums, shift, found, n, n_out,
            n_parts, int(relu),
        )  # fmt: skip
    return out


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
    n_pe, n_batches = len(pointers), len(batch_starts) - 1
    # where each PE's entries begin in each batch: batches follow each other, in them PEs
    ends = batch_starts[1:] + torch.arange(n_batches, device=x.device)
    counts = pointers[:, ends].long().T.reshape(-1)
    bases = counts.cumsum(0) - counts
    x = x.detach().contiguous()
    out = torch.empty(len(x), n_out, dtype=torch.float32, device=x.device)
    cuda_text.launch(
        _FILE, "eie_chip", -(-len(x) * n_pe // _CHIP_THREADS), _CHIP_THREADS, x, codes, skips, pointers,
        batch_starts, bases, codebook, _or_null(bias), out, len(x), x.shape[1], n_out, n_pe, n_batches,
        int(relu),
    )  # fmt: skip
    return out


def _or_null(bias: Tensor | None) -> Tensor | int:
    return 0 if bias is None else bias.detach().contiguous()
