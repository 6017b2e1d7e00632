"""The product with a 2:4 matrix on the packed form: half the bytes of the dense one, and no gathers.

A chunk of rows is multiplied by the whole batch before the next one, so that its weights come from memory
once. The sum of a row is added in an order of its own: neither threads nor the rest of the batch change it.
"""

import numpy as np
import torch
from numba import prange
from torch import Tensor

from pcsparse.kernels.cpu.emitter import HAS_LANE_PERMUTE
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial
from pcsparse.kernels.cpu.memory import aligned
from pcsparse.kernels.cpu.two_four_rows import two_four_rows

# rows of a chunk; prefetching ahead in it gained nothing, the hardware follows the few streams by itself
_CHUNK = 32
# products below which a second thread costs more than it brings: 10 us against 15 us for 256 x 256
_FEW = 1 << 16
# rows of the matrix, and items of the batch, whose sums are kept in registers together
_ROWS = (0,) * 4
_ITEMS = {1: (0,), 2: (0,) * 2}
_MOST_ITEMS = (0,) * 4


@jit_parallel()
def _chunks(
    mr, mb, values, value_step, positions, position_step, x, x_step, n_kept, n_out, n_items, bias, bias_step,
    least, out, out_step,
):  # fmt: skip
    for chunk in prange((n_out + _CHUNK - 1) // _CHUNK):
        for item in range(0, n_items, len(mb)):
            for row in range(chunk * _CHUNK, min(n_out, (chunk + 1) * _CHUNK), len(mr)):
                two_four_rows(
                    mr, mb, values, value_step, positions, position_step, x, x_step, n_kept, row, n_out, item,
                    n_items, bias, bias_step, least, out, out_step,
                )  # fmt: skip


@jit_serial
def _few(
    mr, mb, values, value_step, positions, position_step, x, x_step, n_kept, n_out, n_items, bias, bias_step,
    least, out, out_step,
):  # fmt: skip
    for item in range(0, n_items, len(mb)):
        for row in range(0, n_out, len(mr)):
            two_four_rows(
                mr, mb, values, value_step, positions, position_step, x, x_step, n_kept, row, n_out, item,
                n_items, bias, bias_step, least, out, out_step,
            )  # fmt: skip


@jit_parallel()
def _gather(values, positions, x, bias, least, out):
    for row in prange(values.shape[0]):
        for item in range(x.shape[0]):
            even = odd = np.float32(0)
            for group in range(values.shape[1] // 2):
                nibble = positions[row, group >> 1] >> (4 * (group & 1))
                even += values[row, 2 * group] * x[item, 4 * group + (nibble & 3)]
                odd += values[row, 2 * group + 1] * x[item, 4 * group + (nibble >> 2 & 3)]
            total = even + odd + bias[row % bias.size]
            out[item, row] = least if total < least else total


def two_four_matvec(x: Tensor, values: Tensor, positions: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    x, values, positions = x.detach().contiguous(), values.detach().contiguous(), positions.contiguous()
    n_items, n_in = x.shape
    n_out, n_kept = values.shape
    out = aligned((n_items, n_out), torch.float32)
    shifts = torch.zeros(1, dtype=torch.float32, device="cpu") if bias is None else bias.detach().contiguous()
    least = np.float32(0 if relu else -np.inf)
    if not n_out or not n_items:
        return out
    if not HAS_LANE_PERMUTE:
        parts = (part.numpy() for part in (values, positions, x, shifts))
        _gather(*parts, least, out.numpy())
        return out
    run = _few if n_out * n_kept * n_items < _FEW else _chunks
    run(
        _ROWS, _ITEMS.get(n_items, _MOST_ITEMS), values.data_ptr(), 4 * n_kept, positions.data_ptr(),
        positions.shape[1], x.data_ptr(), 4 * n_in, n_kept, n_out, n_items, shifts.data_ptr(),
        0 if bias is None else 4, least, out.data_ptr(), 4 * n_out,
    )  # fmt: skip
    return out
