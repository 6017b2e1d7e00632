"""Triton kernels compiled for sm_80 and sm_90 without a GPU: tensor cores, wide copies, no spills."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.kernels.gpu.offline import ROOT, report

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed here")
_KERNELS = ROOT / "pcsparse" / "kernels" / "gpu"
# kernels that others call, and that no one launches
_PARTS = {
    "_double", "_finish", "_follow", "_places", "_span", "_take_larger", "real_of", "rows_that_count",
    "store_wide", "sum_of_runs",
}  # fmt: skip


def _the_gemm(kernels: list[dict]) -> dict[tuple[str, int], dict]:
    return {(kernel["case"], kernel["arch"]): kernel for kernel in kernels if kernel["kernel"] == "_multiply"}


def _check_wide(gemm: dict[tuple[str, int], dict]) -> None:
    for (_, arch), kernel in gemm.items():
        # warp groups multiply on Hopper, warps before it
        assert (kernel["wgmma"] > 0) == (arch == 90)
        assert (kernel["mma"] > 0) == (arch == 80)
        # rows of features and weights come 16 bytes at a time, and past the registers
        assert kernel["copies"]["16"] >= 12
        assert kernel["spilled"] == 0


def test_a_wide_convolution_runs_on_tensor_cores():
    kernels = report("half 64")
    gemm = _the_gemm(kernels)

    # the layout's, too
    assert {kernel["kernel"] for kernel in kernels if kernel["direct"]} == {
        "_count_pairs", "_rank_rows", "_fill_tiles", "_multiply",
    }  # fmt: skip
    assert set(gemm) == {("half 64", 80), ("half 64", 90)}
    _check_wide(gemm)


@pytest.mark.skipif(torch.version.cuda is not None, reason="stands in for the driver of a CPU build of torch")
def test_the_driver_is_given_what_triton_gives_it(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here to compile the stand-in for the driver")
    import triton

    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    library = tmp_path / "libcuda.so.1"
    source = Path(__file__).with_name("fake_driver.c")
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-I{headers}", "-o", library, source]
    subprocess.run(command, check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "TRITON_LIBCUDA_PATH": str(tmp_path)}
    names = ["half 32, all endings", "half 32, in parts", "batch_norm", "grad_weight, half 33 -> 64"]
    command = [sys.executable, "-m", "tests.kernels.gpu.launch_bytes", *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    launches = json.loads(done.stdout.splitlines()[-1])
    assert {"_multiply", "_add_lots", "_combine_moments", "_sums_of_pairs"} <= {name for name, *_ in launches}
    for name, ours, theirs in launches:
        assert any(bytes.fromhex(ours)[56:]), name
        assert ours == theirs, name


@pytest.mark.slow
def test_every_kernel_compiles_and_spills_nothing():
    from tests.kernels.gpu.offline import WIDE, WIDE_GRADIENTS

    kernels = report()
    assert all(kernel["direct"] for kernel in kernels)
    gemm = _the_gemm(kernels)

    _check_wide({key: kernel for key, kernel in gemm.items() if key[0] in WIDE})
    assert {kernel["arch"] for kernel in kernels} == {80, 90}
    # tiles of gradients are Hopper's: a part of them lies on the stack of an older GPU
    spilling = {(kernel["kernel"][:5], kernel["arch"]) for kernel in kernels if kernel["spilled"]}
    assert spilling <= {("_sums", 80)}
    # four channels lie side by side with those of other offsets, 8 bytes of each
    assert gemm["half 4", 90]["copies"]["8"] > 0
    assert gemm["half 4", 90]["wgmma"] > 0
    gradients = [
        kernel
        for kernel in kernels
        if kernel["case"] in WIDE_GRADIENTS and kernel["kernel"].startswith("_sums")
    ]
    assert len(gradients) == 2 * len(WIDE_GRADIENTS)
    for kernel in gradients:
        assert kernel["wgmma" if kernel["arch"] == 90 else "mma"] > 0
    # exact products of float32 have no tensor core
    assert gemm["float32 64", 90]["wgmma"] == gemm["float32 64", 90]["mma"] == 0

    assert set(_jitted()) - _PARTS == {kernel["kernel"] for kernel in kernels}


def test_no_two_kernels_share_a_name():
    """Reports, and checks that no kernel is left out, name them without their modules."""
    twice = {name: times for name, times in Counter(_jitted()).items() if times > 1}
    assert twice == {}


def _jitted() -> list[str]:
    """The names of all Triton functions, as often as there are such functions."""
    lines = [line for file in _KERNELS.glob("*.py") for line in file.read_text().splitlines()]
    heads = _joined(lines)
    return [
        line.removeprefix("def ").partition("(")[0]
        for before, line in pairwise(heads)
        if before.startswith("@triton.jit")
    ]


def _joined(lines: list[str]) -> list[str]:
    """Decorators and heads of functions alone, a decorator of several lines by its first."""
    return [line for line in lines if line.startswith(("@triton.jit", "def "))]
