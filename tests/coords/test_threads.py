"""Levels and maps have the same bits at any number of threads. In a process of its own, with four threads."""

import json
import os
import subprocess
import sys

_PROGRAM = """
import hashlib, json, sys
import numba, torch
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from tests.clouds import lidar_like

sorted_coords = lidar_like(30_000, batch_size=3)
shuffled = sorted_coords[torch.randperm(len(sorted_coords), generator=torch.Generator().manual_seed(1))]
relations = [Relation.of(3), Relation.of(5), Relation.of(3, dilation=2), Relation.of(2, 2), Relation.of(3, 2)]
answers = []
for threads in (1, 2, 4):
    torch.set_num_threads(threads)
    digest = hashlib.sha256()
    for coords in (sorted_coords, shuffled):
        for relation in relations:
            cache = CoordCache()
            coarse = coords if relation.is_submanifold else cache.coarser(coords, relation)
            kmap = cache.kernel_map(coords, coarse, relation)
            fine = cache.expanded(coarse, relation)
            for tensor in (fine, *cache.kernel_map(fine, coarse, relation).tensors()):
                digest.update(tensor.numpy().tobytes())
            kept = kmap.keep_outputs(torch.arange(kmap.n_out) % 3 > 0)
            for tensor in (coarse, *kmap.tensors(), *kmap.transposed().tensors(), *kept.tensors()):
                digest.update(tensor.numpy().tobytes())
    assert numba.get_num_threads() == threads
    answers.append(digest.hexdigest())
json.dump(answers, sys.stdout)
"""


def test_maps_are_the_same_at_one_two_and_four_threads():
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=os.environ | {"NUMBA_NUM_THREADS": "4", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 3
    assert len(set(answers)) == 1
