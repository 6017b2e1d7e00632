"""2:4 products on NVIDIA GPUs: the only file that knows torch's semi-structured tensors, which may change.

No kernel is chosen here; what torch dispatches to is cuSPARSELt, or CUTLASS where that is forced.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from pcsparse.errors import UnsupportedError

_DTYPES = (torch.float16, torch.bfloat16)
# rows and columns must be multiples; torch/sparse/semi_structured.py
_CUSPARSELT, _CUTLASS = (16, 16), (32, 64)
_CAPABILITY = (8, 0)


def serves(device: torch.device) -> bool:
    """Whether tensors on `device` are for this file."""
    return device.type == "cuda"


def minima() -> tuple[int, int]:
    """What rows and columns of the weight must be multiples of."""
    kind = getattr(torch.sparse, "SparseSemiStructuredTensor", None)
    return _CUTLASS if getattr(kind, "_FORCE_CUTLASS", False) else _CUSPARSELT


def refusal(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a 2:4 weight of `shape` (n_out, n_in) cannot be used on `device`; None if it can."""
    rows, columns = minima()
    if not hasattr(torch.sparse, "to_sparse_semi_structured"):
        return f"torch {torch.__version__} has no torch.sparse.to_sparse_semi_structured"
    if dtype == torch.float32:
        return "in float32 the GPU takes one of each two weights, not two of four; use .half() or .bfloat16()"
    if dtype not in _DTYPES:
        return f"{dtype} is neither float16 nor bfloat16"
    if shape[0] % rows or shape[1] % columns or not shape[0] or not shape[1]:
        size = f"{shape[0]} x {shape[1]}"
        return f"rows and columns must be multiples of {rows} and {columns}, the weight is {size}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"{name} has no sparse tensor cores; compute capability 8.0 is the first"
    return None


def compress(weight: Tensor) -> Tensor:
    """A dense weight that is 2:4, (n_out, n_in) float16 or bfloat16, as torch's semi-structured tensor.

    Raises:
        UnsupportedError: see `refusal`; or torch refused.
    """
    shape = (weight.shape[0], weight.shape[1])
    reason = refusal(shape, weight.dtype, weight.device)
    if reason is not None:
        raise UnsupportedError(f"no 2:4 product on this GPU: {reason}")
    try:
        return torch.sparse.to_sparse_semi_structured(weight.contiguous())
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(f"torch refused a 2:4 weight of {shape[0]} x {shape[1]}: {error}") from error


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product x @ weight.T + bias: x (n_items, n_in), weight from `compress`."""
    return linear(x, weight, bias)
