"""The kernels compiled for CPUs that this one contains: the same tests in another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CPUS = {
    "avx2": ("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2"),
    "avx512-without-bf16": ("skylake-avx512", "+avx,+avx2,+fma,+f16c,+avx512f,+avx512bw,+avx512vl,+avx512dq"),
    "sse2": ("x86-64", "+sse2"),
}
_FILES = (
    "test_output_stationary", "test_batch_norm", "test_segment", "test_match", "test_levels", "test_two_four",
    "test_eie", "test_eie_rows", "test_neighbors",
)  # fmt: skip


def _contained(features: str) -> bool:
    import llvmlite.binding

    host = llvmlite.binding.get_host_cpu_features()
    return all(host.get(name, False) for name in features.replace("+", "").split(","))


@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
def test_kernels_are_right_on(cpu):
    name, features = CPUS[cpu]
    if not _contained(features):
        pytest.skip(f"this CPU has not all of {features}")
    files = [str(Path(__file__).with_name(f"{file}.py")) for file in _FILES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env=os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
