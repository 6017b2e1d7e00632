"""CUDA text, compiled by NVRTC where it is first used: the one way to a kernel in a `.cu` file.

Kernels take pointers and `long long` only; a float travels as the bits of a double. Memory and streams are
torch's, so that its allocator and its order of work hold for these kernels too.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pcsparse.errors import DeviceError
from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, FIELD_BITS, SHIFTS

_OPTIONS = ("-std=c++17",)
MOST_ARGUMENTS = 16
"""A kernel's most arguments, as on a host it is called through one type."""


@functools.cache
def source(file: str) -> str:
    """The text of a `.cu` file of this folder, below the facts it shares with Python.

    Args:
        file: its name.

    Returns:
        The text; lines keep the numbers that they have in the file.
    """
    facts = {"BATCH_SHIFT": BATCH_SHIFT}
    for axis, shift, bits, bias in zip("XYZ", SHIFTS, FIELD_BITS, BIAS, strict=True):
        facts |= {f"SHIFT_{axis}": shift, f"BITS_{axis}": bits, f"BIAS_{axis}": bias}
    defined = "".join(f"#define {name} {value}LL\n" for name, value in facts.items())
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    return f'{defined}#line 1 "{file}"\n{text}'


class _Stream:
    """What cupy asks of a stream, without one of its own."""

    __slots__ = ("ptr",)

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


@functools.cache
def _module(file: str):  # type: ignore[no-untyped-def]
    import cupy

    return cupy.RawModule(code=source(file), options=_OPTIONS)


@functools.cache
def _function(file: str, name: str, device: int):  # type: ignore[no-untyped-def]
    """The kernel on the device that is current, which is `device`."""
    return _module(file).get_function(name).kernel


@functools.cache
def _word() -> Callable[[int], object]:
    """What makes an argument of 64 bits; by itself cupy takes ten times as long, by way of a numpy scalar."""
    from cupy.cuda.function import CIntptr

    return CIntptr


def launch(file: str, name: str, blocks: int, threads: int, *args: Tensor | int, shared: int = 0) -> None:
    """Run a kernel on the current stream of its tensors' device.

    Args:
        file: the `.cu` file's name.
        name: the `extern "C" __global__` function's.
        blocks: of the grid; none: nothing is launched.
        threads: of a block.
        args: at most `MOST_ARGUMENTS`; a tensor passes its address, an int a `long long`. At least one
            tensor, all on one device.
        shared: bytes of dynamic shared memory a block, at most 48 KiB.

    Raises:
        DeviceError: tensors on several devices.
    """
    if blocks == 0:
        return
    word, words, device = _word(), [], None
    for arg in args:
        # first what is quick to tell: an instance check of a tensor is slow where it fails
        if type(arg) is int:
            words.append(word(arg))
        elif isinstance(arg, Tensor):
            words.append(word(arg.data_ptr()))
            if device is None:
                device = arg.get_device()
            elif device != arg.get_device():
                raise _apart(name, args)
        else:
            words.append(word(int(arg)))
    assert device is not None
    if device != torch.cuda.current_device():
        with torch.cuda.device(device):
            _launch_here(device, file, name, blocks, threads, words, shared)
    else:
        _launch_here(device, file, name, blocks, threads, words, shared)


def _apart(name: str, args: tuple[Tensor | int, ...]) -> DeviceError:
    devices = " and on ".join(dict.fromkeys(str(arg.device) for arg in args if isinstance(arg, Tensor)))
    return DeviceError(f"tensors of the kernel {name} on {devices}; move them to one device with .to()")


def _launch_here(
    device: int, file: str, name: str, blocks: int, threads: int, words: list[object], shared: int
) -> None:
    # the raw one: torch.cuda.current_stream() makes an object a call
    stream = _Stream(torch._C._cuda_getCurrentRawStream(device))
    _function(file, name, device)((blocks,), (threads,), words, shared, stream)
