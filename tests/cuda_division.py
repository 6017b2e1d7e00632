"""Division on a CPU as CUDA divides."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def divided(a: Tensor, b: Any) -> Tensor:
    """By a number of the host as on a GPU: a product with its inverse, which may lose a bit.

    Source: torch, aten/src/ATen/native/cuda/BinaryDivTrueKernel.cu.
    """
    # what torch makes of a number has no dimensions
    number = b.item() if isinstance(b, Tensor) and b.dim() == 0 else b
    if isinstance(number, Tensor) or not isinstance(a, Tensor) or not a.is_floating_point():
        return torch.div(a, b)
    kind = torch.float32 if a.dtype.itemsize < 4 else a.dtype
    return a.to(kind).mul(torch.ones((), dtype=kind).div(number)).to(a.dtype)


class CudaDivision(TorchDispatchMode):
    """All divisions are such."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return divided(*args) if func is torch.ops.aten.div.Tensor else func(*args, **kwargs or {})
