"""A network on the chip: stages, overlap, agreement, and layers that are alike."""

from dataclasses import replace

import pytest
import torch

from pcsparse.errors import RangeError
from pcsparse.hardware.pointacc import run_layer, simulate
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_mapping import kernel_map
from pcsparse.hardware.trace import LayerTrace, MapStep, NearestStep, NetworkTrace, SampleStep
from pcsparse.hardware.trace_sparse import trace_sparse
from pcsparse.models.minkunet import MinkUNet, MinkUNetSpec
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like

CHIP = replace(PointAccChip.edge(), mapping_bytes=2048)


@pytest.fixture(scope="module")
def trace():
    coords = lidar_like(700)
    x = SparseTensor(torch.zeros(len(coords), 4), coords)
    return trace_sparse(MinkUNet(MinkUNetSpec.minkunet14(width=0.25)).eval(), x, "unet")


@pytest.fixture(scope="module")
def run(trace):
    return simulate(trace, CHIP)


def test_every_mapping_step_agrees(run):
    assert [step.kind for step in run.mapping].count("map") == 9
    assert all(step.agrees for step in run.mapping)


def test_a_wrong_map_is_noticed(trace):
    step = next(step for step in trace.steps if isinstance(step, MapStep))
    pairs = replace(step.expected, rows_in=step.expected.rows_in.flip(0))
    rest = trace.steps[trace.steps.index(step) + 1 :]
    assert not simulate(NetworkTrace("wrong", (replace(step, expected=pairs), *rest)), CHIP).mapping[0].agrees


def test_layers_are_in_order_and_each_is_itself(trace, run):
    assert [layer.name for layer in run.layers] == [layer.name for layer in trace.layers]
    for layer, ran in zip(trace.layers, run.layers, strict=True):
        assert ran == run_layer(layer, CHIP)
        assert ran.matrix.macs == layer.macs
        assert (ran.cached is None) == layer.is_linear
        if ran.cached is not None:
            assert ran.cached.traffic.total <= ran.uncached.total


def test_layers_that_differ_in_one_size_are_not_taken_for_each_other(trace):
    first = trace.layers[0]
    others = [
        first,
        replace(first, name="wider", c_out=first.c_out + 16),
        replace(first, name="deeper", c_in=first.c_in + 16),
        replace(first, name="longer", itemsize=4),
        replace(first, name="elsewhere", map=trace.layers[4].map),
    ]
    run = simulate(NetworkTrace("one map", tuple(others)), CHIP)
    assert list(run.layers) == [run_layer(layer, CHIP) for layer in others]
    assert len({layer.cached.traffic.total for layer in run.layers}) == len(others)


def test_stages_overlap_with_the_mapping_of_the_next(trace, run):
    first, second, third = run.stages[:3]
    costs = {step.name: step.cost for step in run.mapping}
    assert first.layers == ()
    assert (first.mapping_cycles, first.memory_bytes) == (
        costs["stem.0 map"].cycles, costs["stem.0 map"].memory_bytes
    )  # fmt: skip
    assert second.layers == ("stem.0",)
    assert second.mapping_cycles == 0
    assert second.memory_bytes == run.layers[0].cached.traffic.total
    level, way = costs["down.0.0 level"], costs["down.0.0 map"]
    assert third.mapping_cycles == level.cycles + way.cycles
    moved = run.layers[1].cached.traffic.total + level.memory_bytes + way.memory_bytes
    assert third.memory_cycles == pytest.approx(moved / 17)
    assert third.matrix_cycles == run.layers[1].matrix.cycles
    assert third.cycles == max(third.matrix_cycles, third.mapping_cycles, third.memory_cycles)
    assert first.bound == "mapping"
    assert len(run.stages) == 1 + len(trace.layers)
    assert run.cycles == sum(stage.cycles for stage in run.stages)
    assert run.milliseconds == pytest.approx(run.cycles / 1e6)
    total = sum(step.cost.memory_bytes for step in run.mapping) + sum(
        layer.cached.traffic.total for layer in run.layers if layer.cached is not None
    )
    linear = sum(plan.fused_bytes for plan in run.plans)
    assert run.memory_bytes == total + linear


def test_fused_layers_are_one_stage(rng):
    points = torch.randn(60, 3, generator=rng)
    rows = torch.arange(40, dtype=torch.int32)
    steps = (
        SampleStep("far", points, 10),
        NearestStep("ball", points, points[:10], 4, 1.0),
        LayerTrace("a", None, 8, 16, 2, 60, gather=rows),
        LayerTrace("b", None, 16, 8, 2, 40, follows=True, pooled=4),
        NearestStep("again", points, points[:5], 4),
        LayerTrace("c", None, 8, 8, 2, 10, follows=True),
    )
    run = simulate(NetworkTrace("points", steps), CHIP)
    assert [stage.layers for stage in run.stages] == [(), ("a", "b"), ("c",)]
    assert run.stages[0].mapping_cycles == sum(step.cost.cycles for step in run.mapping[:2])
    assert run.stages[1].mapping_cycles == run.mapping[2].cost.cycles
    assert run.stages[1].matrix_cycles == run.layers[0].matrix.cycles + run.layers[1].matrix.cycles
    assert run.stages[2].mapping_cycles == 0
    assert [step.agrees for step in run.mapping] == [None, None, None]
    assert run.memory_bytes == sum(plan.fused_bytes for plan in run.plans) + sum(
        step.cost.memory_bytes for step in run.mapping
    )


def test_the_array_waits_for_weights_at_every_tile_of_a_fused_group():
    steps = LayerTrace("a", None, 8, 8, 2, 100), LayerTrace("b", None, 8, 8, 2, 100, follows=True)
    # half of the buffer holds 4 rows of both layers, and weights of 8 channels take 8 cycles to get in
    run = simulate(NetworkTrace("rows", steps), replace(CHIP, input_bytes=2 * 4 * 2 * 8 * 2))
    assert run.plans[0].groups[0].tile_rows == 4
    assert [layer.matrix.cycles for layer in run.layers] == [25 * 8 + 16 + 16] * 2
    assert run.stages[1].matrix_cycles == 2 * (25 * 8 + 32)
    # a buffer for all rows leaves the sums to say how long a tile is
    wide = simulate(NetworkTrace("rows", steps), CHIP)
    assert [layer.matrix.cycles for layer in wide.layers] == [100 + 32] * 2


def test_the_engines_neighbours_are_compared(rng):
    points = torch.randn(60, 3, generator=rng)
    layer = LayerTrace("a", None, 8, 16, 2, 60)
    far = SampleStep("far", points, 3, expected=torch.tensor([0, 1, 2], dtype=torch.int32))
    near = NearestStep("near", points, points[:2], 1, expected=torch.tensor([[0], [1]]).int())
    run = simulate(NetworkTrace("points", (far, near, layer)), CHIP)
    assert [step.agrees for step in run.mapping] == [False, True]


def test_a_trace_without_layers_is_refused(trace):
    with pytest.raises(RangeError, match="has no layer"):
        simulate(NetworkTrace("maps", trace.steps[:1]), CHIP)


def test_the_same_bits_again(trace):
    step = trace.steps[0]
    first, second = (kernel_map(step.inputs, step.queries, step.deltas, CHIP) for _ in range(2))
    assert first[1] == second[1]
    assert simulate(trace, CHIP) == simulate(trace, CHIP)
