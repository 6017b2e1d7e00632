"""Loader workers of every kind, their parent having run kernels too: no abort, one thread, equal bits."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pcsparse import SparseTensor, voxel_reduce
from pcsparse.coords.relation import Relation
from pcsparse.kernels.cpu import launch
from pcsparse.nn import SubmanifoldConv3d

_TASKS = Path("/proc/self/task")
SUBMANIFOLD, HALVE, OVERLAP = Relation.of(3), Relation.of(2, 2), Relation.of(3, 2)


class _Clouds(Dataset):
    """Everything a worker may do: voxels, majority, levels, maps, a convolution."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, object]:
        rng = torch.Generator().manual_seed(index)
        points = torch.randn(4000, 3, generator=rng)
        x, voxels = SparseTensor.from_points(points, torch.randn(4000, 5, generator=rng), 0.2)
        coarse, overlapped = x.cache.coarser(x.coords, HALVE), x.cache.coarser(x.coords, OVERLAP)
        fine = x.cache.expanded(coarse, HALVE)
        torch.manual_seed(index)
        out = SubmanifoldConv3d(5, 7)(x).feats.detach()
        return {
            "x": x,
            "inverse": voxels.inverse,
            "labels": voxel_reduce(torch.randint(4, (4000,), generator=rng), voxels, "majority"),
            "maps": [
                *x.cache.kernel_map(x.coords, x.coords, SUBMANIFOLD).tensors(),
                *x.cache.kernel_map(x.coords, coarse, HALVE).transposed().tensors(),
                *x.cache.kernel_map(x.coords, overlapped, OVERLAP).tensors(),
                *x.cache.kernel_map(fine, coarse, HALVE).tensors(),
            ],
            "out": out,
            "process": os.getpid(),
            "threads": _threads(),
        }


class _IdleFirst(_Clouds):
    """Two items a worker without any kernel, to see the threads it has anyway; then the clouds."""

    idle = 4

    def __len__(self) -> int:
        return self.idle + super().__len__()

    def __getitem__(self, index: int) -> dict[str, object]:
        if index < self.idle:
            time.sleep(0.1)
            # numba loads scipy's BLAS where there is one, and that starts its threads
            with suppress(ImportError):
                import scipy.linalg  # noqa: F401
            # torch starts a thread to send tensors
            return {"threads": _threads(), "tensor": torch.zeros(3)}
        return super().__getitem__(index - self.idle)


def _threads() -> int:
    return len(list(_TASKS.iterdir())) if _TASKS.is_dir() else 0


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_workers_give_the_bits_of_their_parent(start):
    clouds = _Clouds()
    here = [clouds[index] for index in range(len(clouds))]
    # torch warns of more workers than cores
    workers = min(2, torch.get_num_threads())
    loader = DataLoader(
        _IdleFirst(), batch_size=None, num_workers=workers, timeout=120, multiprocessing_context=start
    )
    items = list(loader)
    idle, there = items[: _IdleFirst.idle], items[_IdleFirst.idle :]

    assert os.getpid() not in {item["process"] for item in there}
    for mine, theirs in zip(here, there, strict=True):
        assert theirs["threads"] <= max(item["threads"] for item in idle)
        assert torch.equal(theirs["x"].coords, mine["x"].coords)
        assert torch.equal(theirs["x"].feats, mine["x"].feats)
        assert torch.equal(theirs["inverse"], mine["inverse"])
        assert torch.equal(theirs["labels"], mine["labels"])
        assert all(torch.equal(a, b) for a, b in zip(theirs["maps"], mine["maps"], strict=True))
        assert torch.equal(theirs["out"], mine["out"])
        # maps that a worker built are found here
        maps = set(theirs["x"].cache.maps())
        torch.manual_seed(0)
        SubmanifoldConv3d(5, 7)(theirs["x"])
        assert set(theirs["x"].cache.maps()) == maps
        assert len(maps) == 4


def test_serial_copies_of_the_kernels_give_the_bits_of_the_parallel_ones(monkeypatch, rng):
    index = _Clouds()
    parallel = index[0]
    monkeypatch.setattr(launch, "was_forked", lambda: True)
    serial = index[0]

    assert all(torch.equal(a, b) for a, b in zip(serial["maps"], parallel["maps"], strict=True))
    assert torch.equal(serial["out"], parallel["out"])


def test_a_child_that_is_the_first_to_need_a_kernel():
    """The parent has used torch's threads, but no kernel of ours yet."""
    program = """
import os, sys
import torch
import pcsparse
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
torch.set_num_threads(2)
a = torch.randn(400, 400)
(a @ a + a).sum()
assert "pcsparse.kernels.cpu" not in sys.modules
child = os.fork()
if child == 0:
    torch.set_num_threads(2)
    coords = torch.cartesian_prod(*[torch.arange(8)] * 3).int()
    coords = torch.cat([torch.zeros(len(coords), 1, dtype=torch.int32), coords], dim=1)
    kmap = CoordCache().kernel_map(coords, coords, Relation.of(3))
    os._exit(0 if kmap.n_pairs == (3 * 8 - 2) ** 3 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"NUMBA_NUM_THREADS": "2"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
