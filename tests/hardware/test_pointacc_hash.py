"""The hash design: the merger's pairs, and cycles of plain Python."""

from dataclasses import replace

import pytest
import torch

from pcsparse.coords.keys import pack
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from pcsparse.hardware.pointacc import same_pairs
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_hash import hash_kernel_map
from pcsparse.hardware.pointacc_mapping import kernel_map
from tests.clouds import CLOUDS, lidar_like
from tests.hardware.oracle_pointacc import hash_cycles

FULL = PointAccChip.full()


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_pairs_are_the_mergers(cloud):
    keys = pack(torch.unique(cloud.coords, dim=0))
    deltas = Relation.of(3).key_deltas()
    expected, _ = kernel_map(keys, keys, deltas, FULL)
    for slots in (None, 16):
        assert same_pairs(hash_kernel_map(keys, keys, deltas, 8, slots=slots)[0], expected)


@pytest.mark.parametrize("banks", [2, 8, 32])
def test_cycles_are_those_of_plain_python(banks):
    inputs = pack(lidar_like(150, seed=3))
    queries = inputs[::2]
    deltas = Relation.of((3, 1, 3)).key_deltas()
    _, cost = hash_kernel_map(inputs, queries, deltas, banks)
    slots = 1
    while slots < 2 * len(inputs):
        slots *= 2
    assert (cost.build, cost.probe) == hash_cycles(
        inputs.tolist(), queries.tolist(), deltas.tolist(), banks, slots
    )
    requests = len(inputs) + 9 * len(queries)
    assert cost.accesses >= requests
    assert cost.cycles * banks >= cost.accesses
    assert cost.table_bytes == 12 * slots


def test_conflicts_keep_banks_idle():
    keys = pack(lidar_like(2000))
    deltas = Relation.of(3).key_deltas()
    _, cost = hash_kernel_map(keys, keys, deltas, 16)
    assert cost.conflicts > 0
    assert cost.cycles > 1.2 * cost.accesses / 16
    # a fuller table has longer searches, and filling it in parts looks everything up again
    parts = hash_kernel_map(keys, keys, deltas, 16, slots=1024)[1]
    assert parts.probe > 2 * cost.probe
    assert parts.table_bytes == 12 * 1024


def test_the_merger_is_much_smaller_and_the_hash_needs_no_order():
    keys = pack(lidar_like(2000))
    deltas = Relation.of(3).key_deltas()
    merged = kernel_map(keys, keys, deltas, replace(FULL, merger_width=16))[1]
    hashed = hash_kernel_map(keys, keys, deltas, 16)[1]
    assert merged.steps < hashed.cycles


def test_what_is_refused():
    keys = pack(lidar_like(30))
    deltas = Relation.of(1).key_deltas()
    with pytest.raises(RangeError, match="power of two from 2 to 1024, got 12"):
        hash_kernel_map(keys, keys, deltas, 12)
    with pytest.raises(RangeError, match="slots must be a power of two, at least 16, got 24"):
        hash_kernel_map(keys, keys, deltas, 8, slots=24)
    with pytest.raises(RangeError, match="slots must be a power of two, at least 16, got 8"):
        hash_kernel_map(keys, keys, deltas, 8, slots=8)
    with pytest.raises(RangeError, match="must ascend"):
        hash_kernel_map(keys.flip(0), keys, deltas, 8)
