"""How a Triton kernel of the hot path is started: compiled once a form, then called without the binder.

Triton looks at every argument of every call to find the compiled form; on a small level that takes longer
than the kernel. Here the caller says which form it wants, and calls the compiled kernel's own entry, with
addresses in the place of tensors. (Both are what Triton 3.6 to 3.9 do themselves. Its launch hooks, which
serve profilers, are not called.)
"""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from pcsparse.errors import DeviceError

# what Triton looks for in an address: loads of this many bytes
_ALIGNED = 16
_MOVE = "move them to one device with .to()"


class Launcher:
    """One Triton kernel and its compiled forms.

    Args:
        kernel: a function under `triton.jit` that does not specialise its integer arguments.
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
        warps: int = 4,
        stages: int = 3,
    ) -> None:
        """Start the kernel on the current stream of the device of the first tensor.

        Args:
            grid: programs; none may be 0.
            tensors: the first arguments, in order, the first one not None.
            numbers: the next ones; each fits 32 bits.
            constants: the last ones, those that shape the code.
            warps: warps a program.
            stages: of the loads ahead.

        Raises:
            DeviceError: a tensor is on another device than the first.
        """
        first = tensors[0]
        assert first is not None
        device = first.get_device()
        for tensor in tensors:
            # an address of another device would be a fault without a name
            if tensor is not None and tensor.get_device() != device:
                raise DeviceError(f"tensors of one kernel on {first.device} and on {tensor.device}; {_MOVE}")
        if not first.is_cuda:
            # Triton's interpreter
            self._start(grid, tensors, numbers, constants, warps, stages)
            return
        if device != torch._C._cuda_getDevice():
            with torch.cuda.device(device):
                self(grid, tensors, numbers, constants, warps, stages)
            return
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        together = 0
        for pointer in pointers:
            together |= pointer or 0
        if together % _ALIGNED:
            # seldom: a part of a tensor, which has a form of its own
            self._start(grid, tensors, numbers, constants, warps, stages)
            return
        dtypes = tuple([None if tensor is None else tensor.dtype for tensor in tensors])
        form = (device, warps, stages, constants, dtypes)
        compiled = self._forms.get(form)
        if compiled is None:
            self._forms[form] = self._start(grid, tensors, numbers, constants, warps, stages)
            return
        stream = torch._C._cuda_getCurrentRawStream(device)
        packed = compiled.packed_metadata
        compiled.run(
            *grid, stream, compiled.function, packed, None, None, None, *pointers, *numbers, *constants
        )

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
        # products and sums in one rounding: the default up to Triton 3.9, which warns that 3.10 changes it
        return self._kernel[grid](*arguments, num_warps=warps, num_stages=stages, enable_fp_fusion=True)
