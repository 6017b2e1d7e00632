"""What the driver is given for a kernel: by our launcher, and by Triton's, on a driver that only takes notes.

LD_LIBRARY_PATH=(folder of fake_driver.c's libcuda.so.1) python -m tests.kernels.gpu.launch_bytes NAME ...
"""

import ctypes
import json
import os
import re
import sys
from typing import Any

# before triton is imported
os.environ.pop("TRITON_INTERPRET", None)

import torch

from tests.emulation import gpu_kernels, stand_in_for_cupy
from tests.kernels.gpu.offline import NARROW, WIDE, compile_call, others

_FUNCTION, _STREAM, _ARCH = 0x7F0012345678, 55, 90


class Comparison:
    """Each launch twice, so that the second is a direct one, and by Triton's launcher.

    Attributes:
        launches: kernel, what we gave the driver, and what Triton gave it, in hexadecimal.
    """

    def __init__(self) -> None:
        self.launches: list[tuple[str, str, str]] = []
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._started: dict[str, Any] = {}

    def start(self) -> Any:
        """In the place of cupy's `driver.launchKernel`, so that cupy need not be installed.

        Source: cupy 14.2, `cupy_backends/cuda/api/driver.pyx`: it hands its eleven arguments on to
        `cuLaunchKernel` as they come, addresses as pointers and sizes as `unsigned int`.
        """
        entry, address, size = self._driver.cuLaunchKernel, ctypes.c_void_p, ctypes.c_uint
        entry.argtypes = (address, *(size,) * 7, address, address, address)
        return entry

    def run(self, kernel: Any, *args: Any, grid: object, warmup: bool, **options: Any) -> Any:
        """In the place of `JITFunction.run`."""
        compiled, bound = compile_call(kernel, args, options, _ARCH)
        compiled.function = _FUNCTION
        self._started = {"name": kernel.__name__, "compiled": compiled, "bound": bound, "grid": grid}
        return compiled

    def launch(self, launcher: Any, *args: Any, **kwargs: Any) -> None:
        """In the place of `Launcher.__call__`."""
        from triton.backends.nvidia.driver import CudaLauncher

        from pcsparse.kernels.gpu import cuda_text

        launcher._forms.clear()
        self.called(launcher, *args, **kwargs)
        compiled = self._started["compiled"]
        entry = re.search(r"\.entry\s+\w+\(([^)]*)\)", compiled.asm["ptx"])
        assert entry
        sizes = [int(bits) // 8 for bits in re.findall(r"\.param \.[bus](\d+)", entry[1])]
        self._driver.fake_expect(len(sizes), (ctypes.c_int * len(sizes))(*sizes))
        # a launch before it had more words
        cuda_text._ARGUMENTS.words[:] = [-1] * len(cuda_text._ARGUMENTS.words)
        self.called(launcher, *args, **kwargs)
        ours = self._noted()
        given = (_FUNCTION, compiled.packed_metadata, None, None, None, *self._started["bound"].values())
        CudaLauncher(compiled.src, compiled.metadata)(*self._started["grid"], _STREAM, *given)
        self.launches.append((self._started["name"], ours, self._noted()))

    def _noted(self) -> str:
        noted = ctypes.create_string_buffer(4096)
        length = self._driver.fake_take(noted)
        return noted.raw[:length].hex()

    def compare(self, names: list[str]) -> None:
        """Run the named cases on CPU tensors."""
        import triton
        from triton.backends.nvidia import driver
        from triton.runtime.jit import JITFunction

        from pcsparse.kernels.gpu import cuda_text, launch

        # its modules name more of the driver than a launch calls
        sys.setdlopenflags(os.RTLD_LAZY)
        triton.runtime.driver.set_active(driver.CudaDriver())
        JITFunction.run = lambda *a, **k: self.run(*a, **k)
        self.called, launch.Launcher.__call__ = launch.Launcher.__call__, lambda *a, **k: self.launch(*a, **k)
        cuda_text._driver = self.start
        cuda_text._make_current = lambda device: None
        # the device of CPU tensors
        torch._C._cuda_getDevice = lambda: -1
        torch._C._cuda_getCurrentRawStream = lambda device: _STREAM
        cases = WIDE | NARROW | others()
        for name in names:
            cases[name]()


if __name__ == "__main__":
    # only launches would call it
    stand_in_for_cupy()
    gpu_kernels()
    comparison = Comparison()
    comparison.compare(sys.argv[1:])
    print(json.dumps(comparison.launches))
