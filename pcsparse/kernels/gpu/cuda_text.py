"""CUDA text, compiled by NVRTC where it is first used: the one way to a kernel in a `.cu` file.

Kernels take pointers and `long long` only; a float travels as the bits of a double. Memory and streams are
torch's, so that its allocator and its order of work hold for these kernels too.
"""

import ctypes
import functools
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcsparse.errors import DeviceError
from pcsparse.kernels.key_layout import BATCH_SHIFT, BIAS, FIELD_BITS, SHIFTS

_OPTIONS = ("-std=c++17",)
MOST_ARGUMENTS = 16
"""A kernel's most arguments, as on a host it is called through one type."""
# of a launch; Triton's kernels have more arguments than ours
_MOST_WORDS = 32


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


@functools.cache
def _module(file: str):  # type: ignore[no-untyped-def]
    import cupy

    return cupy.RawModule(code=source(file), options=_OPTIONS)


@functools.cache
def _function(file: str, name: str, device: int):  # type: ignore[no-untyped-def]
    """The kernel on the device that is current, which is `device`; `ptr` is what the driver knows it by."""
    # it is loaded into the thread's context, which a fresh one does not have yet
    _make_current(device)
    return _module(file).get_function(name).kernel


@functools.cache
def _driver() -> Callable[..., None]:
    """The driver's own entry: cupy's call of a kernel makes an object of each argument, stream and size."""
    # an attribute, and no module of that name
    from cupy.cuda import driver

    return driver.launchKernel  # type: ignore[no-any-return]


def _make_current(device: int) -> None:
    """Let this host thread work with a device: the driver's own entry does not see to it.

    Source: CUDA runtime API, cudaSetDevice: since CUDA 12 the device's context is the thread's at once.
    """
    from cupy.cuda import runtime

    # not by freeing nothing, which a recording on this thread may not outlive
    runtime.setDevice(device)


class _Arguments(threading.local):
    """Words of a launch, one set a thread: the driver has read them when it returns.

    Attributes:
        words: of 64 bits.
        address: where the addresses of the words are.
        devices: that the thread has worked with.
    """

    def __init__(self) -> None:
        self.devices: set[int] = set()
        self.words = (ctypes.c_longlong * _MOST_WORDS)()
        first, size = ctypes.addressof(self.words), ctypes.sizeof(ctypes.c_longlong)
        self._places = (ctypes.c_void_p * _MOST_WORDS)(*[first + size * i for i in range(_MOST_WORDS)])
        self.address = ctypes.addressof(self._places)


_ARGUMENTS = _Arguments()
# by number of words; they refuse what 64 bits do not hold, as ctypes does not
_LAYOUTS = [struct.Struct(f"{n}q") for n in range(MOST_ARGUMENTS + 1)]


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
    words, device = [], None
    for arg in args:
        # first what is quick to tell: an instance check of a tensor is slow where it fails
        if type(arg) is int:
            words.append(arg)
        elif isinstance(arg, Tensor):
            words.append(arg.data_ptr())
            if device is None:
                device = arg.get_device()
            elif device != arg.get_device():
                raise _apart(name, args)
        else:
            words.append(int(arg))
    assert device is not None
    if device != torch._C._cuda_getDevice():
        with torch.cuda.device(device):
            _launch_here(device, file, name, blocks, threads, words, shared)
    else:
        _launch_here(device, file, name, blocks, threads, words, shared)


def _apart(name: str, args: tuple[Tensor | int, ...]) -> DeviceError:
    devices = " and on ".join(dict.fromkeys(str(arg.device) for arg in args if isinstance(arg, Tensor)))
    return DeviceError(f"tensors of the kernel {name} on {devices}; move them to one device with .to()")


def _launch_here(
    device: int, file: str, name: str, blocks: int, threads: int, words: list[int], shared: int
) -> None:
    function = _function(file, name, device).ptr
    start(device, function, (blocks, 1, 1), threads, shared, _LAYOUTS[len(words)], words)


def start(
    device: int,
    function: int,
    grid: tuple[int, int, int],
    threads: int,
    shared: int,
    layout: struct.Struct,
    words: Sequence[int],
) -> None:
    """Launch a function of the driver's on the current stream of `device`, which is the current one.

    Args:
        device: its number.
        function: as the driver knows it.
        grid: blocks.
        threads: of a block.
        shared: bytes of dynamic shared memory a block.
        layout: of the words: eight bytes for every argument of the function, at most 32 of them.
        words: what it packs.
    """
    given = _ARGUMENTS
    if device not in given.devices:
        _make_current(device)
        given.devices.add(device)
    layout.pack_into(given.words, 0, *words)
    # the raw one: torch.cuda.current_stream() makes an object a call
    stream = torch._C._cuda_getCurrentRawStream(device)
    _driver()(function, *grid, threads, 1, 1, shared, stream, given.address, 0)
