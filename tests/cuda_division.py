"""Division on a CPU as CUDA divides."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class CudaDivision(TorchDispatchMode):
    """A number of the host divides as on a GPU: by a product with its inverse, which may lose a bit.

    Source: torch, aten/src/ATen/native/cuda/BinaryDivTrueKernel.cu.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.div.Tensor and args[0].is_floating_point() and _is_number(args[1]):
            return args[0] * (1.0 / float(args[1]))
        return func(*args, **kwargs or {})


def _is_number(divisor: Any) -> bool:
    # what torch makes of a number has no dimensions
    return not isinstance(divisor, Tensor) or divisor.dim() == 0
