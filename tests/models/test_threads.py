"""A whole network has the same bits at 1, 2 and 4 threads, in evaluation, fused, in bfloat16, in training."""

import json
import os
import subprocess
import sys

# a fresh process, because the number of threads is fixed when Numba starts
_PROGRAM = """
import hashlib, json, sys
import torch
from pcsparse import nn
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like

def digest(tensors):
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]

def results():
    torch.manual_seed(0)
    coords = lidar_like(20_000, batch_size=2)
    feats = torch.randn(len(coords), 4)
    model = MinkUNet(MinkUNetSpec.minkunet18(width=0.5))
    found = {}
    def fresh(dtype=torch.float32):
        return SparseTensor(feats.to(dtype), coords, batch_size=2)
    out = model(fresh()).feats
    out.square().mean().backward()
    found["training forward"] = digest([out])
    found["gradients"] = digest([parameter.grad for parameter in model.parameters()])
    found["running statistics"] = digest(model.buffers())
    with torch.no_grad():
        found["evaluation"] = digest([model.eval()(fresh()).feats])
        fused = nn.fuse(model)
        found["fused"] = digest([fused(fresh()).feats])
        found["fused bfloat16"] = digest([fused.to(torch.bfloat16)(fresh(torch.bfloat16)).feats])
    return found

answers = []
for threads in (1, 2, 4):
    torch.set_num_threads(threads)
    answers.append(results())
json.dump(answers, sys.stdout)
"""


def test_bits_do_not_depend_on_the_threads():
    environment = os.environ | {
        "NUMBA_NUM_THREADS": "4",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *others = json.loads(done.stdout)

    assert len(first) == 6
    for other in others:
        assert not [name for name in first if first[name] != other[name]]
