"""Kernels of `.cu` files on a host, a thread for each of theirs: g++'s thread sanitizer finds races.

Few threads; `cuda_shim.launch` runs everything, one thread at a time.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text
from tests.kernels import cuda_shim

MOST_THREADS = 4096
"""Of a launch: a sanitizer follows about twice as many."""
_FLAGS = (
    *("-x", "c++", "-std=c++17", "-O1", "-g", "-fPIE", "-pie", "-rdynamic", "-ffp-contract=off", "-fwrapv"),
    *("-fsanitize=thread", "--param=tsan-distinguish-volatile=1", "-pthread", "-Wno-unknown-pragmas"),
)
_RACES = 66
_NO_PLACE = "unexpected memory mapping"
# a declaration of static shared memory, and one variable of it
_SHARED = re.compile(r"(?<!extern )__shared__\s+((?:unsigned\s+)?\w+)\s+([^;]+);")
_VARIABLE = re.compile(r"(\w+)((?:\[[^\]]*\])*)")
# as in threads.h
_MOST_VARIABLES = 8


def launch(file: str, name: str, blocks: int, threads: int, *args: Tensor | int, shared: int = 0) -> None:
    """As `cuda_text.launch`, on the host. Fails where two threads of the launch race."""
    run_text(cuda_text.source(file), name, blocks, threads, *args, shared=shared)


def run_text(text: str, name: str, blocks: int, threads: int, *args: Tensor | int, shared: int = 0) -> None:
    """The same for a text that need not lie in a file."""
    if blocks == 0:
        return
    assert blocks * threads <= MOST_THREADS, (
        f"kernel {name}: {blocks} blocks of {threads} threads are too many"
    )
    program = _program(text)
    storages = {s.data_ptr(): s for s in (a.untyped_storage() for a in args if isinstance(a, Tensor))}
    places, memory = {}, bytearray()
    for address, storage in storages.items():
        places[address] = len(memory)
        memory += ctypes.string_at(address, storage.nbytes()) if address else b""
        # apart, and aligned as torch's allocator does
        memory += bytes(512 - len(memory) % 256)
    words = [f"p{_place(a, places)}" if isinstance(a, Tensor) else f"i{int(a)}" for a in args]
    with tempfile.NamedTemporaryFile() as scratch:
        Path(scratch.name).write_bytes(memory)
        given = [scratch.name, name, str(blocks), str(threads), str(shared), *words]
        told = {"TSAN_OPTIONS": f"exitcode={_RACES}"}
        done = subprocess.run(
            [program, *given], capture_output=True, text=True, env=os.environ | told, check=False
        )
        if _NO_PLACE in done.stderr:
            pytest.skip(f"this machine's address space is not the sanitizer's: {done.stderr[:200]}")
        assert done.returncode != -signal.SIGALRM, f"kernel {name} goes on for ever: a dead-lock"
        assert done.returncode != _RACES, f"kernel {name} races:\n{done.stderr[:2000]}"
        assert done.returncode == 0, f"kernel {name}: status {done.returncode}, {done.stderr[:2000]}"
        written = Path(scratch.name).read_bytes()
    for address, storage in storages.items():
        if address:
            ctypes.memmove(address, written[places[address] :][: storage.nbytes()], storage.nbytes())


def _program(text: str) -> Path:
    compiler = shutil.which("g++")
    if compiler is not None:
        found = subprocess.run(
            [compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True
        )
        if not Path(found.stdout.strip()).is_absolute():
            pytest.skip("g++ has no thread sanitizer here (libtsan)")
    return cuda_shim.built(_in_blocks(text), "threads.h", _FLAGS)


def _in_blocks(text: str) -> str:
    """Static shared memory as a part of the memory of a block: what is static here is all blocks'."""
    count = 0

    def placed(found: re.Match[str]) -> str:
        nonlocal count
        parts = []
        for name, sizes in _VARIABLE.findall(found[2]):
            kind, place = f"shim_shared_{count}", f"shim_here->statics + {count} * SHIM_STATIC"
            parts.append(f"typedef {found[1]} {kind}{sizes}; {kind} &{name} = *({kind} *)({place});")
            count += 1
        return " ".join(parts)

    text = _SHARED.sub(placed, text)
    assert count <= _MOST_VARIABLES, f"{count} variables of shared memory are too many for threads.h"
    return text


def _place(tensor: Tensor, places: dict[int, int]) -> int:
    begin = tensor.untyped_storage().data_ptr()
    # a tensor without elements has no address of its own
    return places[begin] + (tensor.data_ptr() - begin if tensor.numel() else 0)
