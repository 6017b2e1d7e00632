"""Kernels of `.cu` files on a host: compiled by g++ behind `shim.h`, and run thread by thread.

`launch` stands in for `kernels.gpu.cuda_text.launch`, with tensors on the CPU.
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.emulation import gpu_kernels

# also where cupy is not installed, and whichever test is collected first
gpu_kernels()

from pcsparse.kernels.gpu import cuda_text  # noqa: E402

_HEADERS = Path(__file__).parent
_FLAGS = (
    *("-x", "c++", "-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-ffp-contract=off", "-fwrapv"),
    *("-U_FORTIFY_SOURCE", "-fno-strict-aliasing"),
    # their handlers are in shim.h
    "-fsanitize=alignment,shift-exponent,integer-divide-by-zero,bounds",
    *("-Wall", "-Werror", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-unknown-pragmas"),
)
_GUARD = 4096
_GUARD_BYTE = 0xBF


def _host_text(text: str) -> str:
    """Dynamic shared memory is a pointer here: `extern` and `static` do not go together."""
    return re.sub(
        r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;", r"\1 *\2 = (\1 *)shim_dynamic_shared;", text
    )


@functools.cache
def _library(text: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(built(text, "shim.h", _FLAGS)))


def built(text: str, header: str, flags: tuple[str, ...]) -> Path:
    """What g++ makes of CUDA text behind a header of this folder; kept, as it takes seconds."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here to compile CUDA text for the host")
    parts = (text, *[(_HEADERS / name).read_text() for name in ("values.h", header)], *flags)
    folder = Path(tempfile.gettempdir()) / f"pcsparse-cuda-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.so"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            file, made = Path(scratch) / "text.cu", Path(scratch) / "made.so"
            file.write_text(_host_text(text), encoding="utf-8")
            command = [compiler, *flags, "-include", str(_HEADERS / header), str(file), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"g++ refuses CUDA text:\n{done.stderr}"
            # at once, as several test processes may build the same
            made.replace(kept)
    return kept


class _Guarded:
    """Copies of whole storages with a margin on both sides, so that a write beyond them is found."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[torch.UntypedStorage, ctypes.Array]] = {}

    def address(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._copies:
            n = storage.nbytes()
            copy = (ctypes.c_char * (n + 2 * _GUARD + 256))()
            ctypes.memset(copy, _GUARD_BYTE, len(copy))
            ctypes.memmove(self._begin(copy), storage.data_ptr(), n)
            self._copies[storage.data_ptr()] = storage, copy
        begin = self._begin(self._copies[storage.data_ptr()][1])
        return begin + tensor.data_ptr() - storage.data_ptr()

    @staticmethod
    def _begin(copy: ctypes.Array) -> int:
        # aligned as torch's allocator does
        return -(-(ctypes.addressof(copy) + _GUARD) // 256) * 256

    def check(self, name: str) -> None:
        """Copy back, and fail where a margin was written."""
        for storage, copy in self._copies.values():
            begin, n = self._begin(copy) - ctypes.addressof(copy), storage.nbytes()
            raw = memoryview(copy).cast("B")
            for side, margin in (
                ("before", raw[begin - _GUARD : begin]),
                ("after", raw[begin + n : begin + n + _GUARD]),
            ):
                assert bytes(margin) == bytes([_GUARD_BYTE]) * len(margin), (
                    f"kernel {name} wrote {side} a tensor of {n} bytes"
                )
            ctypes.memmove(storage.data_ptr(), self._begin(copy), n)


def launch(file: str, name: str, blocks: int, threads: int, *args: Tensor | int, shared: int = 0) -> None:
    """As `cuda_text.launch`, on the host. Fails where a kernel dead-locks or writes beside its tensors."""
    run_text(cuda_text.source(file), name, blocks, threads, *args, shared=shared)


def run_text(text: str, name: str, blocks: int, threads: int, *args: Tensor | int, shared: int = 0) -> None:
    """The same for a text that need not lie in a file."""
    assert 0 <= blocks < 2**31, f"kernel {name}: {blocks} blocks are no grid"
    assert 1 <= threads <= 1024, f"kernel {name}: {threads} threads are no block"
    assert 0 <= shared <= 48 << 10, f"kernel {name}: {shared} bytes of shared memory are too many"
    assert len(args) <= cuda_text.MOST_ARGUMENTS, f"kernel {name}: {len(args)} arguments are too many"
    assert any(isinstance(arg, Tensor) for arg in args), f"kernel {name}: no tensor says on which device"
    if blocks == 0:
        return
    guarded = _Guarded()
    words = (ctypes.c_longlong * cuda_text.MOST_ARGUMENTS)()
    for place, arg in enumerate(args):
        words[place] = guarded.address(arg) if isinstance(arg, Tensor) else int(arg)
    library = _library(text)
    kernel = ctypes.cast(getattr(library, name), ctypes.c_void_p)
    library.shim_launch.restype = ctypes.c_char_p
    fault = library.shim_launch(kernel, ctypes.c_longlong(blocks), threads, ctypes.c_longlong(shared), words)
    assert fault is None, f"kernel {name}: {fault.decode()}"
    guarded.check(name)
