"""Layers and networks before and after, measured: the right layers, the right counts, what is marked."""

import math
from dataclasses import replace

import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.compress.channels import prune_channels
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.measured import (
    LayerPair,
    LayerSide,
    count_macs,
    measure_layers,
    measure_sweeps,
    spread_by_size,
)
from pcsparse.compress.voxels import prune_voxels, voxel_layers
from pcsparse.coords.cache import CoordCache
from pcsparse.errors import RangeError
from pcsparse.models import MinkUNet
from pcsparse.models.minkunet import BlockSpec, ConvSpec
from pcsparse.timing import Timing
from tests.clouds import LINE, PLANE
from tests.programs.compress_case import tiny_network


def sweeps():
    rng = torch.Generator().manual_seed(1)
    return [SparseTensor(torch.randn(len(c.coords), 4, generator=rng), c.coords) for c in (PLANE, LINE)]


@pytest.fixture(scope="module")
def pair(one_thread):
    torch.manual_seed(0)
    dense = tiny_network().eval()
    return dense, prune_channels(dense, 0.5, multiple=2)


def test_layers_are_those_of_the_cost_table_before_and_after(pair):
    dense, small = pair
    found = measure_layers(dense, small, sweeps(), runs=1)
    assert len({(layer.name, layer.kind) for layer in found}) == len(found)
    # timed on one sweep, the one whose work is nearest to the mean: with two of them the first
    for net, side in ((dense, "before"), (small, "after")):
        table = measure_cost(net, sweeps()[:1], multiple=2, step=1000, runs=1)
        listed = [(one.name, one.kind, one.c_in, one.c_out, one.k, one.n_pairs * one.c_in * one.c_out,
                   one.n_out)
                  for one in table.layers]  # fmt: skip
        sides = [getattr(layer, side) for layer in found]
        seen = [(layer.name, layer.kind, one.c_in, one.c_out, one.k, one.macs, one.rows)
                for layer, one in zip(found, sides, strict=True)]  # fmt: skip
        assert seen == listed
        assert all(one.time.median > 0 for one in sides)
    assert any(layer.after.c_in < layer.before.c_in for layer in found)


def test_rows_that_pass_are_not_counted(pair):
    dense, _ = pair
    small = prune_voxels(dense, 0.25, "pass")
    found = measure_layers(dense, small, sweeps()[:1], runs=1)
    for layer in found:
        share = 0.25 if layer.name in voxel_layers(dense, "pass") else 1.0
        assert layer.after.rows == math.ceil(share * layer.before.rows), layer.name
    assert any(layer.after.rows < layer.before.rows for layer in found)


def test_multiply_adds_are_means_of_the_sweeps(pair):
    dense, _ = pair
    table = measure_cost(dense, sweeps(), multiple=2, step=1000, runs=1)
    assert count_macs(dense, sweeps()) == pytest.approx(table.total("MACs"))
    assert count_macs(dense, sweeps()[:1]) != pytest.approx(count_macs(dense, sweeps()[1:]))


def test_networks_are_timed_whole_and_inputs_left_alone(pair, monkeypatch):
    dense, small = pair
    inputs, rebuilt = sweeps(), []
    build = CoordCache.rebuilt
    monkeypatch.setattr(CoordCache, "rebuilt", lambda cache: rebuilt.append(cache.maps()) or build(cache))
    first, second = measure_sweeps(dense, small, inputs, runs=1)
    assert (first.n_voxels, second.n_voxels) == tuple(len(x) for x in inputs)
    for time in (
        first.maps_before,
        first.maps_after,
        first.before,
        first.after,
        first.before_all,
        first.after_all,
    ):
        assert time.runs == 1
        assert time.median > 0
    # two networks on two sweeps have each their own maps, all of them
    assert len({id(next(iter(maps.values()))) for maps in rebuilt}) == 4
    assert len({len(maps) for maps in rebuilt}) == 1
    assert all(len(x.cache) == 0 for x in inputs)
    assert not any(part.training for part in dense.modules())


def test_a_layer_that_is_new_is_refused(pair):
    dense, _ = pair
    *stages, last = dense.spec.decoder
    more = replace(last, blocks=(*last.blocks, BlockSpec(ConvSpec(8, 8), ConvSpec(8, 8))))
    bigger = MinkUNet(replace(dense.spec, decoder=(*stages, more))).eval()
    with pytest.raises(RangeError, match=r"layers that the whole one has not: .*decoder.3.1.conv1"):
        measure_layers(dense, bigger, sweeps(), runs=1)
    gone = measure_layers(bigger, dense, sweeps(), runs=1)
    assert {layer.name for layer in gone if layer.after is None} == {"decoder.3.1.conv1", "decoder.3.1.conv2"}
    assert not any(layer.idle for layer in gone if layer.after is None)


def test_a_layer_is_idle_where_work_falls_and_time_does_not():
    before = LayerSide(8, 8, 27, 1000, Timing(10.0, 9.0, 11.0, 5))
    for macs, median, idle in ((500, 9.5, True), (500, 12.0, True), (500, 8.9, False), (1000, 12.0, False)):
        after = replace(before, macs=macs, time=Timing(median, median - 0.1, median + 0.1, 5))
        assert LayerPair("a", "conv", before, after).idle is idle


def test_sweeps_are_spread_by_their_size():
    sizes = (50, 10, 30, 20, 40)
    coords = torch.zeros(50, 4, dtype=torch.int32)
    made = [SparseTensor(torch.zeros(n, 1), coords[:n]) for n in sizes]
    assert [len(x) for x in spread_by_size(made, 3)] == [10, 30, 50]
    assert [len(x) for x in spread_by_size(made, 1)] == [30]
    assert [len(x) for x in spread_by_size(made, 9)] == [10, 20, 30, 40, 50]
