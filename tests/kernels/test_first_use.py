"""What a process pays before its first result, when the kernels are compiled already."""

import os
import subprocess
import sys

_PROGRAM = """
import sys

import torch
from numba.core import event

from pcsparse import SparseTensor
from pcsparse.models import MinkUNet, MinkUNetSpec

torch.manual_seed(0)
points, feats = 5 * torch.randn(500, 3), torch.randn(500, 4)
net = MinkUNet(MinkUNetSpec.minkunet14(width=0.25)).eval()

def segment():
    x, _ = SparseTensor.from_points(points, feats, 0.2)
    with torch.no_grad():
        net(x)

with event.install_recorder("numba:compile") as compiled:
    segment()
unwanted = ("torch._dynamo", "torch._inductor", "sympy", "matplotlib", "hydra")
print(len(compiled.buffer), [name for name in unwanted if name in sys.modules])
"""


def _first_result() -> tuple[int, str]:
    """What is compiled for it, and which modules nobody asked for."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled, _, heavy = done.stdout.strip().partition(" ")
    return int(compiled), heavy


def test_the_first_result_of_a_warm_process_compiles_nothing():
    # the first run may compile
    _first_result()
    assert _first_result() == (0, "[]")
