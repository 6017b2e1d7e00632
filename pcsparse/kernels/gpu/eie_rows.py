"""Layers in EIE's format by rows, for activations that are seldom 0."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcsparse.kernels.gpu import cuda_text

_FILE = "eie_rows.cu"
# as in eie_rows.cu
_PART_COLUMNS = 8192
_CHUNK_BYTES = 16
_THREADS = 512
_LAY_OUT_THREADS = 128
# codes of a table that half a byte tells apart
_NARROW, _WIDE = 16, 256
# lanes of a row, such that each has about this many chunks: fewer lanes idle at a row's end
_CHUNKS_A_LANE = 2
_LEAST_LANES, _MOST_LANES = 4, 32


def _parts(n_in: int) -> int:
    return max(1, -(-n_in // _PART_COLUMNS))


def eie_row_layout(
    starts: Tensor, columns: Tensor, codes: Tensor, codebook: Tensor, n_in: int
) -> list[Tensor]:
    n_out, n_parts, device = len(starts) - 1, _parts(n_in), codes.device
    width = _NARROW if len(codebook) <= _NARROW else _WIDE
    name, blocks = f"eie_lay_rows_{_kind(width)}", -(-n_out // _LAY_OUT_THREADS)
    counts = torch.empty(n_out * n_parts, dtype=torch.int64, device=device)
    given = starts, columns, codes, counts
    cuda_text.launch(_FILE, name, blocks, _LAY_OUT_THREADS, *given, 0, n_out, n_parts)
    pointers = pad(counts.cumsum(0), (1, 0))
    # the one wait for the device: how much there is to write
    chunks = torch.zeros(int(pointers[-1]), _CHUNK_BYTES, dtype=torch.uint8, device=device)
    given = starts, columns, codes, pointers
    if len(chunks):
        cuda_text.launch(_FILE, name, blocks, _LAY_OUT_THREADS, *given, chunks, n_out, n_parts)
    return [chunks, pointers.int(), pad(codebook.detach(), (0, width - len(codebook)))]


def eie_row_linear(
    x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
) -> Tensor:
    chunks, pointers, table = layout
    x = x.detach().contiguous()
    n_items, n_in = x.shape
    out = torch.empty(n_items, n_out, dtype=torch.float32, device=x.device)
    shift = 0 if bias is None else bias.detach().contiguous()
    wanted = len(chunks) // (_CHUNKS_A_LANE * max(1, n_out * _parts(n_in)))
    lanes = min(_MOST_LANES, max(_LEAST_LANES, 1 << wanted.bit_length()))
    blocks = n_items * -(-n_out * lanes // _THREADS)
    cuda_text.launch(
        _FILE, f"eie_rows_{_kind(len(table))}", blocks, _THREADS, x, chunks, pointers, table, shift, out,
        n_items, n_in, n_out, _parts(n_in), lanes, int(relu),
    )  # fmt: skip
    return out


def _kind(width: int) -> str:
    return "narrow" if width == _NARROW else "wide"
