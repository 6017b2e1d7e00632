"""Verdicts that hold and that break, figures beside the published ones, tables."""

from dataclasses import replace

import pytest
import torch

from pcsparse.hardware.pointacc import PointAccRun, simulate
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_hash import hash_kernel_map
from pcsparse.hardware.pointacc_mapping import kernel_map
from pcsparse.hardware.pointacc_memory import CacheConfig
from pcsparse.hardware.pointacc_pointnet import Ball, Level, trace_pointnet2
from pcsparse.hardware.pointacc_report import Finding, cache_traffic, findings, verdicts
from pcsparse.hardware.pointacc_study import (
    CACHE_BYTES,
    CACHE_POINTS,
    WIDTHS,
    cache_curve,
    compare_maps,
    hungriest_layer,
    largest_map,
    width_curve,
)
from pcsparse.hardware.pointacc_tables import (
    fusion_lines,
    layer_head,
    layer_lines,
    map_head,
    map_line,
    other_mapping_lines,
    totals,
)
from pcsparse.hardware.trace import LayerTrace
from pcsparse.hardware.trace_sparse import trace_sparse
from pcsparse.models.minkunet import MinkUNet, MinkUNetSpec
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like

CHIP = PointAccChip.edge()


@pytest.fixture(scope="module")
def trace():
    coords = lidar_like(500)
    x = SparseTensor(torch.zeros(len(coords), 4), coords)
    return trace_sparse(MinkUNet(MinkUNetSpec.minkunet14(width=0.25)).eval(), x, "unet")


@pytest.fixture(scope="module")
def run(trace):
    return simulate(trace, CHIP)


@pytest.fixture(scope="module")
def maps(trace, run):
    return compare_maps(trace, run)


@pytest.fixture(scope="module")
def curve(trace, run):
    layer, ran = hungriest_layer(trace, run)
    return cache_curve(layer, CHIP, ran.cached.config)


@pytest.fixture(scope="module")
def points():
    cloud = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    levels = (Level(32, (Ball(0.8, 16, (16, 32)),)),)
    return simulate(trace_pointnet2(cloud, levels, (32, 64)), CHIP)


def failed(verdicts) -> list[str]:
    return [verdict.text.split(":")[0] for verdict in verdicts if not verdict.passed]


def test_what_holds(run, maps, curve, points):
    found = verdicts([run, points], maps, [curve])
    assert failed(found) == []
    assert len(found) == 7
    assert found[0].text == "mapping: 15 of 15 results are the engine's"
    assert found[1].text == "hash: 9 of 9 maps are the engine's"


def broken(run: PointAccRun, what: str) -> PointAccRun:
    layer, plan = run.layers[0], run.plans[0]
    if what == "mapping":
        return replace(run, mapping=(replace(run.mapping[0], agrees=False), *run.mapping[1:]))
    if what == "cache":
        less = replace(layer.uncached, inputs=layer.cached.traffic.inputs - 1)
        return replace(run, layers=(replace(layer, uncached=less), *run.layers[1:]))
    if what == "fusion":
        group = plan.groups[0]
        more = replace(group, traffic=replace(group.traffic, inputs=group.traffic.inputs + 1))
        return replace(run, plans=(replace(plan, groups=(more, *plan.groups[1:])), *run.plans[1:]))
    cycles = layer.macs if what == "none" else 1
    return replace(run, layers=(replace(layer, matrix=replace(layer.matrix, cycles=cycles)), *run.layers[1:]))


@pytest.mark.parametrize("what", ["mapping", "cache", "fusion", "array"])
def test_what_breaks_in_a_run(run, maps, curve, what):
    assert failed(verdicts([broken(run, what)], maps, [curve])) == [what]


def test_what_breaks_in_maps_and_curves(run, maps, curve):
    wrong = replace(maps[0], agrees=False)
    assert failed(verdicts([run], [wrong, *maps[1:]], [curve])) == ["hash"]
    slow = replace(maps[0], merged=replace(maps[0].merged, steps=maps[0].merged.steps + 1))
    assert failed(verdicts([run], [slow, *maps[1:]], [curve])) == ["merger"]
    rising = replace(curve, inputs=(curve.inputs[0], curve.inputs[1][::-1], curve.inputs[2]))
    assert failed(verdicts([run], maps, [rising])) == ["cache"]


@pytest.mark.parametrize(
    ("ours", "low", "high", "inside"),
    [(1.27, 1.4, 1.4, True), (1.25, 1.4, 1.4, False), (1.55, 1.4, 1.4, False), (3.5, 3.5, 6.3, True),
     (3.4, 3.5, 6.3, False), (6.4, 3.5, 6.3, False)],
)  # fmt: skip
def test_published_figures_bind_nothing(ours, low, high, inside):
    finding = Finding("what", ours, low, high)
    assert finding.inside == inside
    published = "~1.4x" if low == high else "3.5-6.3x"
    assert str(finding) == (
        f"what: {ours:.3g}x, published {published} (unverified): {'inside' if inside else 'outside'}"
    )


def test_findings_are_sums(run, maps, points):
    by_name = {finding.what: finding.ours for finding in findings(run, maps, [points])}
    assert len(by_name) == 8
    hashed, steps = sum(m.hashed.cycles for m in maps), sum(m.merged.steps for m in maps)
    assert by_name["kernel maps, hash over merger, keys on the chip"] == hashed / steps
    assert by_name["kernel maps, hash on the chip over merger from the DRAM"] < hashed / steps
    ours, plain, gathered = cache_traffic(run.layers)
    with_map = [layer for layer in run.layers if layer.cached is not None]
    assert ours.inputs == sum(layer.cached.traffic.inputs for layer in with_map)
    assert by_name["input features, uncached over cached"] == plain.inputs / ours.inputs > 1
    assert by_name["all features, gather and scatter over cached"] == gathered.features / ours.features
    alone = sum(group.traffic.total for plan in points.plans for group in plan.alone)
    fused = sum(group.traffic.total for plan in points.plans for group in plan.groups)
    assert by_name["PointNet++, bytes of layers saved by fusion"] == 100 * (1 - fused / alone) > 0


def test_maps_by_both_designs(trace, run, maps):
    step = largest_map(trace)
    first = maps[0]
    assert (step.name, first.name) == ("stem.0 map", "stem.0 map")
    assert first.merged == kernel_map(step.inputs, step.queries, step.deltas, CHIP)[1]
    assert first.hashed == hash_kernel_map(step.inputs, step.queries, step.deltas, 16)[1]
    assert first.speedup == first.hashed.cycles / first.merged.steps > first.speedup_from_memory
    assert first.smaller == first.hashed.table_bytes / 4416
    wrong = replace(run, mapping=tuple(replace(each, agrees=False) for each in run.mapping))
    assert not any(each.agrees for each in compare_maps(trace, wrong))


def test_curves(trace, run, curve):
    step = largest_map(trace)
    widths = width_curve(step, CHIP)
    assert [list(values) for values in (widths.steps, widths.hashed)] == [
        sorted(values, reverse=True) for values in (widths.steps, widths.hashed)
    ]
    assert (
        widths.cycles[WIDTHS.index(16)] == kernel_map(step.inputs, step.queries, step.deltas, CHIP)[1].cycles
    )
    assert [len(values) for values in curve.inputs] == [len(CACHE_BYTES)] * len(CACHE_POINTS)
    layer, _ = hungriest_layer(trace, run)
    # bursts of 64 bytes for 16 channels of two
    assert curve.once == layer.n_in * 64 * (layer.c_in // 16) * (layer.c_out // 16)
    # the largest holds all of the input, which comes once for all passes
    assert curve.inputs[0][-1] * (layer.c_out // 16) <= curve.once < curve.inputs[0][0] <= curve.uncached
    assert layer.name == curve.name


@pytest.mark.parametrize(("c_out", "passes"), [(6, 1), (20, 2)])
def test_channels_beside_gathered_rows_are_no_fetches_of_a_curve(c_out, passes):
    picked = torch.tensor([0, 1, 0, 5, 5, 1], dtype=torch.int32)
    # eight channels are fetched, a burst a row, and five lie beside the two rows that these are added up to
    layer = LayerTrace("up", None, 13, c_out, 2, 9, gather=picked, summed=3, beside=5)
    curve = cache_curve(layer, CHIP, CacheConfig())
    beside = 2 * 5 * 2
    assert curve.once == passes * (9 * 64 + beside)
    assert curve.uncached == passes * (6 * 64 + beside)


def test_a_line_for_every_stage_map_and_chain(run, maps, points):
    lines = list(layer_lines(run))
    assert len(lines) == len(run.stages)
    assert lines[0].startswith("(before the first layer)")
    width = layer_head().splitlines()[0].index("|")
    assert all(line.index("|") == width for line in lines)
    assert lines[1].split()[:4] == ["stem.0", str(run.layers[0].n_out), str(run.layers[0].n_pairs), "4>8"]
    first = map_line(maps[0])
    assert first.index("|") == map_head(16).splitlines()[0].index("|")
    assert f"{maps[0].speedup:.2f}" in first
    levels = list(other_mapping_lines(run))
    assert len(levels) == 4
    assert all(line.endswith("as the engine's") for line in levels)
    lost = replace(run, mapping=tuple(replace(each, agrees=False) for each in run.mapping))
    assert all("NOT" in line for line in other_mapping_lines(lost))
    assert [line.split()[-1] for line in other_mapping_lines(points)] == ["engine's"] * 2
    assert len(list(fusion_lines(points))) == len(points.plans) == 3
    fused = next(line for line in layer_lines(points) if line.startswith("level0.0 +1"))
    assert "3>32" in fused
    assert totals(run).startswith(f"unet on edge: {run.milliseconds:.3f} ms")
