"""The same bits at 1, 2 and 4 threads and from run to run: maps, voxelisation, output-stationary passes."""

import json
import os
import subprocess
import sys

import pytest

# a fresh process, because the number of threads is fixed when Numba starts
_PROGRAM = """
import hashlib, json, sys
import numba, torch
from pcsparse import SparseTensor
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.coords.row_order import row_order
from pcsparse.coords.voxelize import voxelize
from pcsparse.kernels import cpu
from pcsparse.nn import Linear
from pcsparse.ops.conv import sparse_conv
from pcsparse.ops.importance import important_rows
from pcsparse.ops.partial_conv import partial_sparse_conv
from pcsparse.ops.pool import max_pool, mean_pool
from tests.clouds import lidar_like

def digest(*tensors):
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]

def results():
    rng = torch.Generator().manual_seed(0)
    found = {}
    points = torch.randn(30_000, 3, generator=rng)
    voxels = voxelize(points, 0.1)
    found["voxelize"] = digest(voxels.coords, voxels.inverse, voxels.first)
    coords = lidar_like(9000, batch_size=2)
    coords = coords[torch.randperm(len(coords), generator=rng)]
    cache = CoordCache()
    coarse = cache.coarser(coords, Relation.of(3, 2))
    maps = {"k3": cache.kernel_map(coords, coords, Relation.of(3)),
            "strided": cache.kernel_map(coords, coarse, Relation.of(3, 2))}
    for name, kmap in maps.items():
        found["map " + name] = digest(*kmap.tensors(), *kmap.transposed().tensors(), kmap.table)
        found["order " + name] = digest(row_order(kmap.table, splits=2, order="gray").rows)
        for dtype in (torch.float32, torch.bfloat16):
            feats = torch.randn(kmap.n_in, 33, generator=rng).to(dtype).requires_grad_()
            weight = torch.randn(27, 33, 48, generator=rng).to(dtype).requires_grad_()
            out = sparse_conv(feats, weight, kmap, dataflow="output_stationary")
            grad_out = torch.randn(out.shape, generator=rng).to(dtype)
            grads = torch.autograd.grad(out, (feats, weight), grad_out)
            for title, tensor in zip(("forward", "grad_feats", "grad_weight"), (out, *grads)):
                found[f"{title} {name} {dtype}"] = digest(tensor)
            found[f"pools {name} {dtype}"] = digest(max_pool(feats, kmap), mean_pool(feats, kmap))
    for dtype in (torch.float32, torch.bfloat16):
        feats = torch.randn(len(coords), 33, generator=rng).to(dtype).requires_grad_()
        weight = torch.randn(27, 33, 33, generator=rng).to(dtype).requires_grad_()
        mask = important_rows(feats, cache.cloud_map(coords, 2), 0.4)
        out = partial_sparse_conv(feats, weight, maps["k3"], mask, residual=feats, relu=True)
        grads = torch.autograd.grad(out, (feats, weight), torch.ones_like(out))
        found[f"partial {dtype}"] = digest(mask, out, *grads)
    # a sum of so many rows is one that torch shares out
    rows = torch.arange(100_003, dtype=torch.int32)
    many = torch.stack((rows * 0, rows % 100, rows // 100 % 100, rows // 10_000), dim=1)
    head = Linear(8, 1)
    x = SparseTensor(torch.randn(len(rows), 8, generator=rng), many)
    grads = []
    for _ in range(8):
        grad_out = torch.randn(len(rows), 1, generator=rng)
        grads += torch.autograd.grad(head(x).feats, head.bias, grad_out)
    found["bias of one channel"] = digest(*grads)
    return found

answers = []
for threads in (1, 2, 4, 4, 1):
    torch.set_num_threads(threads)
    answers.append(results())
    # kernels follow torch, and leave its setting as it was
    assert (numba.get_num_threads(), torch.get_num_threads()) == (threads, threads)
json.dump(answers, sys.stdout)
"""


def _run() -> list[dict[str, str]]:
    environment = os.environ | {
        "NUMBA_NUM_THREADS": "4",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def answers() -> list[dict[str, str]]:
    return _run()


def test_bits_do_not_depend_on_threads_or_run(answers):
    first = answers[0]
    assert len(first) == 24
    for other in answers[1:]:
        different = [name for name in first if first[name] != other[name]]
        assert not different


def test_bits_do_not_depend_on_the_process(answers):
    assert _run()[0] == answers[0]
