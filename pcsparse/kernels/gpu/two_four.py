"""The product with a 2:4 matrix on the packed form, which is read once for four items at most."""

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text

# as in two_four.cu
_ROWS = 8
_ITEMS = 4


def two_four_matvec(x: Tensor, values: Tensor, positions: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    x, values, positions = x.detach().contiguous(), values.detach().contiguous(), positions.contiguous()
    (n_items, n_in), n_out = x.shape, len(values)
    out = torch.empty(n_items, n_out, dtype=torch.float32, device=x.device)
    shift = 0 if bias is None else bias.detach().contiguous()
    name, items = ("two_four_one", 1) if n_items == 1 else ("two_four_many", _ITEMS)
    cuda_text.launch(
        "two_four.cu", name, -(-n_out // _ROWS) * -(-n_items // items), 32 * _ROWS, x, values, positions,
        shift, out, n_items, n_in, n_out, int(relu),
    )  # fmt: skip
    return out
