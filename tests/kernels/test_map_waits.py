"""How often the host waits for a GPU that makes maps: once where it needs a size, or else not at all."""

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.jobs import LevelStep
from pcsparse.kernels.select import backend_of
from tests.clouds import CLOUDS
from tests.host_waits import host_waits

KEYS = reference.pack_rows(torch.unique(CLOUDS["two-batches"].coords, dim=0))[0]
N = len(KEYS)
TABLE = reference.match_table(KEYS, KEYS, torch.tensor([-1]), True)
CUBE = ((3, 3, 3), (2, 2, 2), (1, 1, 1), (-1, -1, -1))
BOUNDS = reference.key_extent(KEYS)
CALLS = {  # waits, tensors of the device, the rest
    "pack_rows": (1, (reference.unpack_keys(KEYS),), ()),
    "pack_and_match": (1, (reference.unpack_keys(KEYS),), ((-1, 0, 1),)),
    "pack_and_reach": (1, (reference.unpack_keys(KEYS),), ((LevelStep(*CUBE, BOUNDS),) * 3, (-1, 0))),
    "unpack_keys": (0, (KEYS,), ()),
    "key_extent": (1, (KEYS,), ()),
    "scale_keys": (0, (KEYS,), ((2, 2, 2),)),
    "ascend": (1, (KEYS,), ()),
    "sort_keys": (0, (KEYS,), ()),
    "unique_keys": (1, (KEYS,), ()),
    "match_table": (0, (KEYS, KEYS), ([-1], True)),
    "match_keys": (1, (KEYS, KEYS), ([-1], True)),
    "partition_table": (1, (KEYS,), ((2, 2, 2), (0, 0, 0))),
    "partition_keys": (2, (KEYS,), ((2, 2, 2), (0, 0, 0))),
    "reached_level": (1, (KEYS,), (*CUBE, False, BOUNDS)),
    "reached_cells": (2, (KEYS,), CUBE),
    "renumber_table": (0, (TABLE, torch.arange(N).int(), torch.arange(N).int()), ()),
    "transpose_table": (0, (TABLE,), (N,)),
    "table_to_pairs": (1, (TABLE,), ()),
    "mask_table_outputs": (0, (TABLE, torch.arange(N) % 2 == 0), (1,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_host_waits_for_sizes_only(gpu_or_emulated, name):
    waits, tensors, rest = CALLS[name]
    moved = [tensor.to(gpu_or_emulated) for tensor in tensors]
    for _ in range(2):
        with host_waits(gpu_or_emulated) as seen:
            # offsets are the host's
            numbers = [torch.tensor(value) if isinstance(value, list) else value for value in rest]
            getattr(backend_of(*moved), name)(*moved, *numbers)
    # at the second call small constants lie on the device
    assert len(seen.places) == waits, seen.places
    assert not seen.mixed


def test_a_sparse_cloud_without_room_for_its_bits_waits_once_more(gpu_or_emulated, rng):
    sides = [1, 1000, 1000, 80]
    rows = torch.stack([torch.randint(side, (1000,), generator=rng) for side in sides], dim=1).int()
    rows = torch.unique(rows, dim=0).to(gpu_or_emulated)
    # nothing is known of the cloud, so that bounds are all that a key holds
    everywhere = ((0, -130_000, -130_000, -32_000), (2046, 130_000, 130_000, 32_000))
    steps = (LevelStep((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0), everywhere),) * 4
    for _ in range(2):
        with host_waits(gpu_or_emulated) as seen:
            levels = backend_of(rows).pack_and_reach(rows, steps)[3]
    assert len(seen.places) == 2, seen.places
    assert not seen.mixed
    expected = reference.pack_and_reach(rows.cpu(), steps)[3]
    for got, want in zip(levels, expected, strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))
