"""How a Triton kernel of the hot path is started: compiled once a form, then called without the binder.

Triton looks at every argument of every call to find the compiled form; on a small level that takes longer
than the kernel. Here the caller says which form it wants, and gets the compiled kernel's own entry.
"""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

_BYTES_TOGETHER = 16


class Launcher:
    """One Triton kernel and its compiled forms.

    Args:
        kernel: a function under `triton.jit` whose integer arguments are not specialised.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._forms: dict[Hashable, Any] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        constants: tuple[Any, ...],
        warps: int,
        stages: int,
    ) -> None:
        """Start the kernel on the current stream of the device of the first tensor.

        Args:
            grid: programs; none may be 0.
            tensors: the first arguments, in order.
            numbers: the next ones; each fits 32 bits.
            constants: the last ones, those that shape the code.
            warps: warps a program.
            stages: of the loads ahead.
        """
        device = _device_of(tensors)
        if device is None:
            # Triton's interpreter, on CPU tensors
            self._start(grid, tensors, numbers, constants, warps, stages)
            return
        if device != torch.cuda.current_device():
            with torch.cuda.device(device):
                self(grid, tensors, numbers, constants, warps, stages)
            return
        pointers = tuple(None if tensor is None else tensor.data_ptr() for tensor in tensors)
        kinds = tuple(
            None if pointer is None else (tensor.dtype, pointer % _BYTES_TOGETHER == 0)  # type: ignore[union-attr]
            for tensor, pointer in zip(tensors, pointers, strict=True)
        )
        form = (device, warps, stages, constants, kinds)
        compiled = self._forms.get(form)
        if compiled is None:
            self._forms[form] = self._start(grid, tensors, numbers, constants, warps, stages)
            return
        compiled[grid](*pointers, *numbers, *constants)

    def _start(
        self,
        grid: tuple[int, int, int],
        tensors: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        constants: tuple[Any, ...],
        warps: int,
        stages: int,
    ) -> Any:
        arguments = (*tensors, *numbers, *constants)
        return self._kernel[grid](*arguments, num_warps=warps, num_stages=stages)


def _device_of(tensors: tuple[Tensor | None, ...]) -> int | None:
    first = tensors[0]
    return first.device.index if first is not None and first.is_cuda else None
