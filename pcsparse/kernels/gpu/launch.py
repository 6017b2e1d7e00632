"""How a Triton kernel of the hot path is started: compiled once a form, then called without the binder.

Triton looks at every argument of every call to find the compiled form, and walks through Python once more to
its launcher; on a small level that takes longer than the kernel. Here the caller says which form it wants,
and the driver is called with addresses in the place of tensors, as for CUDA text. (The arguments lie as
Triton 3.6 to 3.9 lay them out; a form whose assembly says that it takes others is left to Triton's launcher.
Its launch hooks, which serve profilers, are not called.)
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from pcsparse.errors import DeviceError
from pcsparse.kernels.gpu.cuda_text import start

# what Triton looks for in an address: loads of this many bytes
_ALIGNED = 16
_MOVE = "move them to one device with .to()"
# a thread's own words hold so many; the last two are Triton's scratch memory, which is none
_MOST_ARGUMENTS, _SCRATCH = 30, 2
_THREADS_A_WARP = 32
# bytes a block; for more the driver is told so with every launch
_MOST_SHARED = 228 * 1024
# an argument in the assembly that is one address or integer, and its bits
_WORD = re.compile(r"\s*\.param\s+\.[bsu](\d+)\b[^\[]*")


@dataclass(frozen=True)
class _Form:
    """A compiled kernel.

    Attributes:
        compiled: Triton's.
        function: as the driver knows it; 0 where Triton's own launcher is to be asked.
        threads: of a block.
        shared: bytes a block.
        layout: of the arguments: addresses, then numbers of 32 bits, eight bytes each.
    """

    compiled: Any
    function: int
    threads: int
    shared: int
    layout: Struct

    @staticmethod
    def of(compiled: Any, n_tensors: int, n_numbers: int) -> "_Form":
        """What is known of a kernel that Triton has started."""
        function = compiled.function if is_direct(compiled, n_tensors, n_numbers) else 0
        facts, layout = compiled.metadata, _layout(n_tensors, n_numbers)
        return _Form(compiled, function, facts.num_warps * _THREADS_A_WARP, facts.shared, layout)

    def run(
        self,
        grid: tuple[int, int, int],
        device: int,
        tensors: tuple[Tensor | None, ...],
        others: tuple[Any, ...],
    ) -> None:
        """Start it by Triton's launcher."""
        stream, compiled = torch._C._cuda_getCurrentRawStream(device), self.compiled
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        given = (None, None, None, *pointers, *others)
        compiled.run(*grid, stream, compiled.function, compiled.packed_metadata, *given)


def is_direct(compiled: Any, n_tensors: int, n_numbers: int) -> bool:
    """Whether the driver can be told all about a kernel of so many addresses and numbers of 32 bits."""
    facts = compiled.metadata
    # what else Triton would tell the driver or the kernel
    others = ("launch_cooperative_grid", "launch_pdl", "global_scratch_size", "profile_scratch_size")
    if n_tensors + n_numbers > _MOST_ARGUMENTS or facts.num_ctas != 1 or facts.shared > _MOST_SHARED:
        return False
    return not any(getattr(facts, name, True) for name in others) and _takes(
        compiled.asm.get("ptx", ""), n_tensors, n_numbers
    )


@cache
def _layout(n_tensors: int, n_numbers: int) -> Struct:
    # little-endian, as GPUs are; a number beyond 32 bits is refused
    return Struct(f"<{n_tensors}q{'i4x' * n_numbers}{8 * _SCRATCH}x")


def _takes(assembly: str, n_tensors: int, n_numbers: int) -> bool:
    """Whether a kernel's arguments are these, and at most two addresses of scratch memory behind them."""
    entry = re.search(r"\.entry\s+\w+\(([^)]*)\)", assembly)
    words = [_WORD.fullmatch(one) for one in entry[1].split(",")] if entry else []
    bits = [word[1] if word else "" for word in words]
    ours = ["64"] * n_tensors + ["32"] * n_numbers
    return any(bits == ours + ["64"] * n for n in range(_SCRATCH + 1))


class Launcher:
    """One Triton kernel and its compiled forms.

    Args:
        kernel: a function under `triton.jit` that does not specialise its integer arguments.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._forms: dict[Hashable, _Form] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        constants: tuple[Any, ...],
        warps: int = 4,
        stages: int = 3,
        absent: int = 0,
    ) -> None:
        """Start the kernel on the current stream of the device of the first tensor.

        Args:
            grid: programs; none: nothing is started.
            tensors: the first arguments, in order, the first one not None.
            numbers: the next ones; each fits 32 bits.
            constants: the last ones, those that shape the code.
            warps: warps a program.
            stages: of the loads ahead.
            absent: so many more tensors are None: those after the given ones.

        Raises:
            DeviceError: a tensor is on another device than the first.
        """
        if 0 in grid:
            # the driver refuses it
            return
        first = tensors[0]
        assert first is not None
        device = first.get_device()
        words: list[int] = []
        dtypes: list[torch.dtype | None] = []
        together = 0
        # one loop, and no function of its own: this stands before every kernel
        for tensor in tensors:
            if tensor is None:
                dtypes.append(None)
            elif tensor.get_device() == device:
                dtypes.append(tensor.dtype)
                address = tensor.data_ptr()
                words.append(address)
                together |= address
            else:
                # an address of another device would be a fault without a name
                raise DeviceError(f"tensors of one kernel on {first.device} and on {tensor.device}; {_MOVE}")
        key = (warps, stages, device, constants, *dtypes)
        known = self._forms.get(key)
        aligned = not together % _ALIGNED
        if known is not None and aligned and device == torch._C._cuda_getDevice():
            if known.function:
                words.extend(numbers)
                start(device, known.function, grid, known.threads, known.shared, known.layout, words)
            else:
                known.run(grid, device, (*tensors, *(None,) * absent), (*numbers, *constants))
        elif first.is_cuda and device != torch._C._cuda_getDevice():
            with torch.cuda.device(device):
                self(grid, tensors, numbers, constants, warps, stages, absent)
        else:
            compiled = self._start(grid, (*tensors, *(None,) * absent, *numbers, *constants), warps, stages)
            # an unaligned address is seldom: that of a part of a tensor, which has a form of its own
            if compiled is not None and aligned:
                self._forms[key] = _Form.of(compiled, len(words), len(numbers))

    def _start(self, grid: tuple[int, int, int], arguments: tuple[Any, ...], warps: int, stages: int) -> Any:
        """Through Triton's binder: what it has compiled, or None where it interprets."""
        # products and sums in one rounding: the default up to Triton 3.9, which warns that 3.10 changes it
        return self._kernel[grid](*arguments, num_warps=warps, num_stages=stages, enable_fp_fusion=True)
