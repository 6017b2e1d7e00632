"""Traces of point networks: published sizes, chains, groups that are real balls."""

from dataclasses import replace

import pytest
import torch

from pcsparse.errors import RangeError
from pcsparse.hardware.pointacc import simulate
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_fusion import chains
from pcsparse.hardware.pointacc_pointnet import (
    Ball,
    Level,
    trace_pointnet,
    trace_pointnet2,
    trace_pointnet2_segmentation,
)
from pcsparse.hardware.trace import LayerTrace, NearestStep, SampleStep

# single-scale grouping for ModelNet40
LEVELS = Level(512, (Ball(0.2, 32, (64, 64, 128)),)), Level(128, (Ball(0.4, 64, (128, 128, 256)),))
POOLED = (256, 512, 1024)


@pytest.fixture(scope="module")
def points():
    rng = torch.Generator().manual_seed(3)
    points = torch.randn(700, 3, generator=rng)
    return points / points.norm(dim=1).max()


def test_pointnets_sizes():
    trace = trace_pointnet(1024)
    assert [(layer.c_in, layer.c_out) for layer in trace.layers] == [
        (3, 64), (64, 64), (64, 64), (64, 128), (128, 1024), (1024, 512), (512, 256), (256, 40)
    ]  # fmt: skip
    assert [layer.n_rows for layer in trace.layers] == [1024] * 5 + [1] * 3
    assert [len(chain) for chain in chains(trace.layers)] == [5, 3]
    # by hand: 1024 (3 64 + 2 64 64 + 64 128 + 128 1024) + 1024 512 + 512 256 + 256 40
    assert sum(layer.macs for layer in trace.layers) == 151_857_152


def test_pointnet2s_sizes(points):
    trace = trace_pointnet2(points, LEVELS, POOLED)
    assert [(layer.name, layer.c_in, layer.c_out, layer.n_rows) for layer in trace.layers[:9]] == [
        ("level0.0", 3, 64, 512 * 32), ("level0.1", 64, 64, 512 * 32), ("level0.2", 64, 128, 512 * 32),
        ("level1.0", 131, 128, 128 * 64), ("level1.1", 128, 128, 128 * 64), ("level1.2", 128, 256, 128 * 64),
        ("all.0", 259, 256, 128), ("all.1", 256, 512, 128), ("all.2", 512, 1024, 128),
    ]  # fmt: skip
    assert [layer.pooled for layer in trace.layers] == [1, 1, 32, 1, 1, 64, 1, 1, 128, 1, 1, 1]
    assert [len(chain) for chain in chains(trace.layers)] == [3, 3, 3, 3]
    kinds = [type(step) for step in trace.steps if not step.name.startswith(("all", "head"))]
    assert kinds.count(SampleStep) == kinds.count(NearestStep) == 2
    assert kinds[:2] == [SampleStep, NearestStep]
    assert len(trace.steps[5].points) == 512


def test_groups_are_balls(points):
    trace = trace_pointnet2(points, (Level(40, (Ball(0.3, 8, (16, 24)),)),), (32,))
    ball, first = trace.steps[1:3]
    rows = first.gather.view(40, 8).long()
    away = (points[rows] - ball.queries[:, None]).norm(dim=2)
    assert bool((away < 0.3).all())
    # a centre is a point, and its own nearest
    assert bool((away[:, 0] == 0).all())
    few = (rows[:, 1:] == rows[:, :1]).any(dim=1)
    assert 0 < int(few.sum()) < 40
    assert (first.n_in, first.c_in) == (700, 3)


def test_balls_of_several_sizes_stand_side_by_side(points):
    level = Level(40, (Ball(0.2, 4, (8, 16)), Ball(0.4, 8, (8, 24))))
    trace = trace_pointnet2(points, (level, Level(10, (Ball(0.8, 4, (12,)),))), (32,), (7,))
    kinds = [type(step) for step in trace.steps[:8]]
    assert kinds == [
        SampleStep,
        NearestStep,
        LayerTrace,
        LayerTrace,
        NearestStep,
        LayerTrace,
        LayerTrace,
        SampleStep,
    ]
    found = [(layer.name, layer.c_in, layer.c_out) for layer in trace.layers]
    assert found[:5] == [
        ("level0.0.0", 3, 8), ("level0.0.1", 8, 16), ("level0.1.0", 3, 8), ("level0.1.1", 8, 24),
        ("level1.0", 43, 12),
    ]  # fmt: skip
    assert found[5:] == [("all.0", 15, 32), ("head.0", 32, 7)]
    assert [len(chain) for chain in chains(trace.layers)] == [2, 2, 1, 1, 1]


def test_samples_and_balls_of_the_unit_are_the_engines(points):
    run = simulate(trace_pointnet2(points, LEVELS, POOLED), replace(PointAccChip.edge(), merger_width=8))
    assert [step.agrees for step in run.mapping] == [True] * 4


def test_propagation_reads_three_rows_and_what_lies_beside(points):
    levels = Level(40, (Ball(0.3, 8, (16, 24)),)), Level(10, (Ball(0.8, 4, (12,)),))
    trace = trace_pointnet2_segmentation(points, levels, ((20, 18), (14,)), (9, 5))
    named = {step.name: step for step in trace.steps}
    first, second = named["up0.0"], named["up1.0"]
    assert [(layer.c_in, layer.beside, layer.n_in, layer.n_rows) for layer in (first, second)] == [
        (12 + 24, 24, 10, 40), (18, 0, 40, 700),
    ]  # fmt: skip
    centres, coarse = named["level1 sample"].points, named["up0 nearest"].points
    away = (centres[:, None] - coarse[None]).norm(dim=2)
    own = away.gather(1, first.gather.view(40, 3).long())
    assert torch.equal(own, away.sort(dim=1).values[:, :3])
    assert [layer.name for layer in chains(trace.layers)[-1]] == ["up1.0", "head.0", "head.1"]
    assert trace.layers[-1].n_rows == 700
    run = simulate(trace, replace(PointAccChip.edge(), merger_width=8))
    assert [(step.name, step.agrees) for step in run.mapping][-2:] == [
        ("up0 nearest", True), ("up1 nearest", True),
    ]  # fmt: skip
    with pytest.raises(RangeError, match="2 levels down need as many propagations up, got 1"):
        trace_pointnet2_segmentation(points, levels, ((20,),), (5,))


def test_too_few_points_are_refused(points):
    with pytest.raises(RangeError, match="samples 512 of 511 points"):
        trace_pointnet2(points[:511], LEVELS, POOLED)
    with pytest.raises(RangeError, match="at least 1 point, got 0"):
        trace_pointnet(0)
