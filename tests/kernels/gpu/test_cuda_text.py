"""Every `.cu` file, compiled for the cards we name: no warnings, no spills. -s shows what each takes."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.emulation import gpu_kernels

gpu_kernels()
from pcsparse.kernels.gpu import cuda_text  # noqa: E402

FILES = sorted(path.name for path in Path(cuda_text.__file__).parent.glob("*.cu"))
# kernels that may keep something in local memory, and why
MAY_SPILL: dict[str, str] = {}
# cupy adds the second
_OPTIONS = ("-std=c++17", "-ftz=true", "--ptxas-options=-v")


@dataclass(frozen=True)
class Usage:
    """What the assembler says of a kernel: registers a thread, bytes of local memory, bytes of shared."""

    kernel: str
    registers: int
    local: int
    shared: int

    @staticmethod
    def read(log: str) -> list["Usage"]:
        """From the output of `ptxas -v`."""
        found = []
        for text in re.split(r"Compiling entry function ", log)[1:]:
            numbers = {
                what: [int(n) for n in re.findall(rf"(\d+) {what}", text)]
                for what in ("registers", "bytes stack frame", "bytes spill stores", "bytes smem")
            }
            local = sum(numbers["bytes stack frame"] + numbers["bytes spill stores"])
            name = text.split("'")[1]
            found.append(Usage(name, numbers["registers"][0], local, sum(numbers["bytes smem"])))
        return found


def _compiled(file: str, arch: str, folder: Path) -> str:
    """The compiler's log. NVRTC comes first: it is what compiles for users, and it is quicker."""
    text = cuda_text.source(file)
    if find_spec("cuda") and find_spec("cuda.bindings"):
        return _by_nvrtc(text, file, arch)[0]
    if shutil.which("nvcc") is None:
        pytest.skip("neither NVRTC (pip install cuda-bindings) nor nvcc here")
    (folder / file).write_text(text)
    command = ["nvcc", *_OPTIONS, f"-arch={arch}", "-cubin", "-o", str(folder / "out"), str(folder / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def _by_nvrtc(text: str, file: str, arch: str) -> tuple[str, str]:
    """The compiler's log, and the PTX."""
    from cuda.bindings import nvrtc

    error, program = nvrtc.nvrtcCreateProgram(text.encode(), file.encode(), 0, [], [])
    assert not int(error)
    options = [option.encode() for option in (*_OPTIONS, f"-arch={arch}")]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytearray(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    said = log.rstrip(b"\0").decode()
    assert not int(error), said
    _, size = nvrtc.nvrtcGetPTXSize(program)
    ptx = bytearray(size)
    nvrtc.nvrtcGetPTX(program, ptx)
    nvrtc.nvrtcDestroyProgram(program)
    return said, ptx.rstrip(b"\0").decode()


@pytest.mark.parametrize("arch", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90"])
@pytest.mark.parametrize("file", FILES)
def test_kernels_compile_into_registers(file, arch, tmp_path):
    log = _compiled(file, arch, tmp_path)
    used = Usage.read(log)
    for usage in used:
        print(f"{arch} {file} {usage}")
    assert "warning" not in log, log
    assert used
    spilling = [usage for usage in used if usage.local and usage.kernel not in MAY_SPILL]
    assert not spilling


def test_products_keep_the_least_numbers_whatever_cupy_adds():
    pytest.importorskip("cuda.bindings", reason="needs NVRTC (pip install cuda-bindings)")
    file = "fetch_on_demand.cu"
    _, ptx = _by_nvrtc(cuda_text.source(file), file, "compute_90")
    assert "fma.rn.f32" in ptx
    assert ".ftz" not in ptx
