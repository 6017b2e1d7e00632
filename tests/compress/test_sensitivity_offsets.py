"""Scans over kernel offsets: what is evaluated is the sliced network, what it costs is exact."""

from functools import cache

import pytest
import torch
from torch import nn

from pcsparse import SparseTensor
from pcsparse.compress.offset_cost import Line, OffsetCost
from pcsparse.compress.offsets import prune_offsets
from pcsparse.compress.sensitivity import scan
from pcsparse.compress.sensitivity_figure import legend_of
from pcsparse.compress.sensitivity_offsets import OffsetsAxis
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec, PointNet2, PointNet2Spec
from pcsparse.nn import SubmanifoldConv3d
from tests.clouds import PLANE, UNSORTED

NAMES = ("stem.0", "encoder.3.0.conv1")


def _network() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)).eval()


def _x(cloud=UNSORTED) -> SparseTensor:
    feats = torch.randn(len(cloud.coords), 3, generator=torch.Generator().manual_seed(3))
    return SparseTensor(feats, cloud.coords)


def _logits(net) -> torch.Tensor:
    with torch.no_grad():
        return net(_x()).feats


@cache
def _maps(scope: str = "map") -> SharedMaps:
    return SharedMaps.of(_network(), [_x()], scope=scope)


@pytest.mark.parametrize("scope", ["map", "layer"])
def test_what_is_evaluated_is_the_network_that_pruning_gives(scope):
    model, seen = _network(), []
    names = NAMES if scope == "map" else ("stem.0", "stem.2")

    def look(net):
        seen.append(_logits(net))
        return 1.0

    table = scan(model, look, axis=OffsetsAxis(model, [_x()], scope=scope), ratios=(0.6,), names=names)
    maps = _maps(scope)
    assert len(seen) == 1 + len(table.points) == 3
    for point, logits in zip(table.points, seen[1:], strict=True):
        net = prune_offsets(model, {point.name: point.kept}, sweeps=[_x()], scope=scope)
        assert torch.equal(_logits(net), logits)
        assert point.macs == SharedMaps.of(net, [_x()]).macs() < maps.macs()
        assert point.ms is None
    assert [(point.name, point.kept, point.size) for point in table.points] == [(n, 11, 27) for n in names]
    assert not torch.equal(seen[1], seen[0])


def test_a_figure_names_the_map_that_several_layers_read():
    axis = OffsetsAxis(_network(), [_x()])
    table = scan(_network(), lambda _: 0.5, axis=axis, ratios=[0.5], names=NAMES)
    group = _maps().group("encoder.3.0.conv1")
    assert len(group.readers) > 1
    more = len(group.readers) - 1
    assert legend_of(table, "encoder.3", group.name) == f"map of encoder.3.0.conv1 and {more} more"
    alone = scan(
        _network(), lambda _: 0.5, axis=OffsetsAxis(_network(), [_x()], scope="layer"), ratios=[0.5],
        names=[group.name],
    )  # fmt: skip
    assert legend_of(alone, "encoder.3", group.name) == "0.conv1"


def test_by_its_name_the_axis_knows_no_pairs():
    model = _network()
    maps = _maps()
    table = scan(model, lambda net: 1.0, axis="offsets", ratios=(0.5, 0.96), names=["encoder.0.0.conv1"])
    assert [(point.kept, point.macs, point.ms) for point in table.points] == [
        (15, None, None),
        (3, None, None),
    ]
    axis = OffsetsAxis(model)
    assert axis.facts()["pairs"] == "alike"
    assert set(axis.sizes()) == {group.name for group in maps.groups if group.free}
    assert axis.macs("stem.0", 3) is None


def test_magnitudes_alone_choose_where_nothing_was_counted():
    net = nn.Sequential(SubmanifoldConv3d(3, 3, 3)).double()
    with torch.no_grad():
        net[0].weight.fill_(0.1)
        # large weights at a corner that has hardly any pairs
        net[0].weight[[6, 20]] = 0.2
    x = SparseTensor(torch.ones(len(PLANE.coords), 3, dtype=torch.float64), PLANE.coords)
    kept = []
    for sweeps in (None, [x]):
        axis = OffsetsAxis(net, sweeps)
        copy = nn.Sequential(SubmanifoldConv3d(3, 3, 3)).double()
        copy.load_state_dict(net.state_dict())
        axis.cut(copy, "0", 3)
        kept.append(copy[0].weight.abs().sum(dim=(1, 2)).nonzero().flatten().tolist())
    assert kept[0] == [6, 13, 20]
    assert kept[1] != kept[0]


def test_strided_kernels_are_scanned_where_that_is_asked_for():
    model = _network()
    axis = OffsetsAxis(model, [_x()], strided=True)
    assert axis.sizes() == {g.name: len(g.offsets) for g in _maps().groups}
    assert [axis.kept("down.0.0", ratio) for ratio in (0.0, 0.5, 0.9)] == [8, 4, 1]


def test_milliseconds_come_from_a_cost():
    model = _network()
    maps = _maps()
    line = Line((0.0, 1000.0), (1.0, 3.0))
    products = {reader.name: line for group in maps.groups for reader in group.readers}
    cost = OffsetCost(maps, products, line, line, bytes=1000, itemsize=4, machine="none")
    axis = OffsetsAxis(model, cost=cost)
    (point,) = scan(model, lambda net: 1.0, axis=axis, ratios=(0.5,), names=["stem.0"]).points
    # random weights differ little: the offsets with the most pairs stay
    assert point.ms == axis.milliseconds("stem.0", 15) < cost.total("ms")
    assert point.macs == axis.macs("stem.0", 15) < maps.macs()
    with pytest.raises(RangeError, match="the cost was measured with scope='map', not with 'layer'"):
        OffsetsAxis(model, cost=cost, scope="layer")


def test_a_log_of_other_sweeps_is_refused(tmp_path):
    model, log = _network(), tmp_path / "scan.jsonl"
    options = {"ratios": (0.5,), "names": ["stem.0"], "log": log}
    first = scan(model, lambda net: 0.5, axis=OffsetsAxis(model, [_x()]), **options)
    assert scan(model, lambda net: 1 / 0, axis=OffsetsAxis(model, [_x()]), **options) == first
    for sweeps in ([_x(PLANE)], None):
        with pytest.raises(FormatError, match="is the log of another scan"):
            scan(model, lambda net: 1.0, axis=OffsetsAxis(model, sweeps), **options)
    log.unlink()
    scan(model, lambda net: 0.5, axis="offsets", **options)
    with pytest.raises(FormatError, match="scope 'map', now 'layer'"):
        scan(model, lambda net: 1.0, axis=OffsetsAxis(model, scope="layer"), **options)


def test_networks_without_offsets_are_refused():
    with pytest.raises(UnsupportedError, match="PointNet2 has no sparse convolution"):
        scan(PointNet2(PointNet2Spec.segmentation(0, 5)), lambda net: 1.0, axis="offsets")
    with pytest.raises(UnsupportedError, match="Sequential has no sparse convolution of several offsets"):
        OffsetsAxis(nn.Sequential(SubmanifoldConv3d(3, 3, 1)))
    with pytest.raises(UnsupportedError, match="there are weights, channels, offsets and voxels"):
        scan(_network(), lambda net: 1.0, axis="depth")
    with pytest.raises(RangeError, match="need sweeps to count pairs on"):
        OffsetsAxis(_network(), [])
