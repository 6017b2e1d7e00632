"""What torch must be told in C++, compiled against the headers of the torch that runs."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch


@functools.cache
def library() -> ctypes.CDLL:
    """`device.cpp`, compiled; kept, as it takes seconds."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here to mock a CUDA device")
    text, home = Path(__file__).with_name("device.cpp"), Path(torch.__file__).parent
    facts = f"{torch.__version__}\0{home}\0{text.read_text()}"
    folder = Path(tempfile.gettempdir()) / f"pcsparse-mock-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.so"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / "made.so"
            done = subprocess.run(
                [
                    *(compiler, "-std=c++20", "-fPIC", "-shared", f"-I{home / 'include'}", str(text)),
                    *("-o", str(made), f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"g++ refuses the mock of a device:\n{done.stderr}"
            # at once, as several test processes may build the same
            made.replace(kept)
    return ctypes.CDLL(str(kept))
