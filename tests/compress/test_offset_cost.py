"""What offsets cost: lines by hand, counts against networks that were sliced, the space of a search."""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import nn

from pcsparse import SparseTensor
from pcsparse.compress.cost_measure import Draw, layer_runner, most_usual
from pcsparse.compress.cost_run import calls_of, runnable
from pcsparse.compress.measured import count_macs, measure_layers
from pcsparse.compress.offset_cost import Line, OffsetCost
from pcsparse.compress.offset_measure import _with_fewer, measure_offset_cost
from pcsparse.compress.offset_scores import offset_scores
from pcsparse.compress.offset_space import offset_space, offsets_of
from pcsparse.compress.offsets import choose_offsets, slice_offsets
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.uniform import Uniform
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.compress.voxel_measure import measure_voxel_cost
from pcsparse.compress.voxels import prune_voxels
from pcsparse.errors import RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import Linear, SubmanifoldConv3d, fuse
from pcsparse.nn.tuning import conv_calls
from pcsparse.ops.grouped_conv import grouped_sparse_conv
from tests.clouds import CLUMPED, LINE, PLANE, UNSORTED

UNITS = ("ms", "MACs", "bytes")


def _network() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)).eval()


def _sweeps() -> list[SparseTensor]:
    return [SparseTensor(torch.ones(len(c.coords), 3), c.coords) for c in (PLANE, UNSORTED)]


def _by_hand(maps: SharedMaps) -> OffsetCost:
    """A layer takes 1 ms and 2 a thousand pairs; the network 3 and twice that; maps 4 and 1 a hundred."""
    products = {
        reader.name: Line((0.0, 1000.0), (1.0, 3.0)) for group in maps.groups for reader in group.readers
    }
    lines = Line((10.0, 20.0), (23.0, 43.0)), Line((100.0, 200.0), (5.0, 6.0))
    return OffsetCost(maps, products, *lines, bytes=10**6, itemsize=4, machine="none")


def _bytes(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())


@cache
def _maps(scope: str) -> SharedMaps:
    return SharedMaps.of(_network(), _sweeps(), scope=scope)


@pytest.fixture(scope="module")
def parts(one_thread):
    network, sweeps = _network(), _sweeps()
    maps = _maps("map")
    scores = offset_scores(network, maps)
    return network, sweeps, maps, scores, measure_offset_cost(network, sweeps, maps, scores, runs=1)


def test_a_line_is_straight_between_its_points():
    line = Line((10.0, 20.0, 40.0), (1.0, 3.0, 4.0))
    assert [line.of(x) for x in (10, 15, 20, 30, 40)] == [1.0, 2.0, 3.0, 3.5, 4.0]
    # beyond the ends
    assert (line.of(44), line.of(7), line.of(0)) == pytest.approx((4.2, 0.4, 0.0))
    assert line.ends == (0.0, 0.1)
    assert Line((5.0,), (2.0,)).of(99) == 2.0


@pytest.mark.parametrize(
    ("at", "ms", "ends"),
    [
        ((10.0, 20.0), (5.0, 7.0), (3.0, 0.2)),
        # less took longer: nothing falls
        ((10.0, 20.0), (8.0, 7.0), (7.0, 0.0)),
        # steeper than from nothing
        ((10.0, 20.0), (1.0, 7.0), (0.0, 0.35)),
        ((20.0,), (7.0,), (7.0, 0.0)),
        ((0.0,), (7.0,), (7.0, 0.0)),
    ],
)
def test_the_ends_of_a_line_give_what_was_measured_whole(at, ms, ends):
    line = Line(at, ms)
    assert line.ends == pytest.approx(ends)
    assert line.ends[0] + line.ends[1] * at[-1] == pytest.approx(ms[-1])


@pytest.mark.parametrize(
    ("at", "ms"), [((), ()), ((1.0,), ()), ((2.0, 1.0), (1.0, 1.0)), ((1.0, 1.0), (1, 2))]
)
def test_lines_that_are_none(at, ms):
    with pytest.raises(RangeError, match="a line needs times at points that ascend"):
        Line(at, ms)


def test_milliseconds_by_hand(parts):
    _, _, maps, _, _ = parts
    cost = _by_hand(maps)
    chosen = {"stem.0": (4, 13, 22), "down.0.0": (0, 7)}
    kept = maps.group("stem.0").pairs_of((4, 13, 22))
    total = 3.0 + 2.0 * 4 * (1.0 + 2.0 * kept / 1000)
    for name in ("down.0.0",):
        total += 2.0 * 2 * (1.0 + 2.0 * maps.group(name).pairs_of((0, 7)) / 1000)
    searched = kept
    for group in maps.groups[2:]:
        total += 2.0 * len(group.readers) * (1.0 + 2.0 * sum(group.pairs) / 1000)
        # a map that halves comes with its level
        searched += sum(group.pairs) if group.free else 0.0
    maps_ms = 4.0 + searched / 100
    assert cost.maps_ms(chosen) == pytest.approx(maps_ms)
    assert cost.total("ms", chosen) == pytest.approx(total + maps_ms)
    assert cost.total("ms", chosen) < cost.total("ms")
    with pytest.raises(RangeError, match="a cost is in ms, MACs, bytes, not in 'flops'"):
        cost.total("flops")
    with pytest.raises(RangeError, match="its centre"):
        cost.total("ms", {"stem.0": (0, 26)})


@pytest.mark.parametrize("scope", ["map", "layer"])
def test_counts_are_those_of_the_sliced_network(parts, scope):
    network, sweeps, *_ = parts
    maps = _maps(scope)
    scores = offset_scores(network, maps)
    chosen = choose_offsets(maps, scores, {g.name: 3 + 2 * i for i, g in enumerate(maps.groups) if g.free})
    sliced = slice_offsets(network, maps, chosen)
    cost = replace(_by_hand(maps), bytes=_bytes(network))
    assert cost.total("MACs", chosen) == maps.macs(chosen) == SharedMaps.of(sliced, sweeps).macs()
    assert cost.total("bytes", chosen) == _bytes(sliced) < cost.total("bytes") == _bytes(network)


def test_what_layers_of_one_map_keep_together_is_searched():
    maps = _maps("layer")
    stem = {reader.name for group in maps.groups if group.map_name == "stem.0" for reader in group.readers}
    assert len(stem) == 4
    whole, group = maps.searched_pairs(), maps.group("stem.0")
    # three of them still read all
    assert maps.searched_pairs({"stem.0": (13,)}) == whole
    chosen = dict.fromkeys(stem, (4, 13, 22)) | {"stem.0": (0, 13, 26)}
    assert maps.searched_pairs(chosen)["stem.0"] == group.pairs_of((0, 4, 13, 22, 26))
    assert "down.0.0" not in whole


def test_a_measured_cost_has_lines_over_pairs(parts):
    network, sweeps, maps, scores, cost = parts
    group = maps.group("stem.0")
    line = cost.products["decoder.3.0.conv2"]
    fewest, half = (choose_offsets(maps, scores, {"stem.0": n})["stem.0"] for n in (1, 15))
    assert line.at[0] == group.pairs_of(fewest) == group.pairs_of((13,))
    assert line.at[-1] == sum(group.pairs)
    assert group.pairs_of(half) in line.at
    assert all(ms > 0 for ms in line.ms)
    assert cost.building.at[-1] == sum(maps.searched_pairs().values())
    assert cost.network.at[-1] == pytest.approx(
        sum(cost.products[r.name].ms[-1] for g in maps.groups for r in g.readers)
    )
    assert all(len(x.cache) == 0 for x in sweeps)
    assert cost.total("ms") == pytest.approx(cost.network.ms[-1] + cost.building.ms[-1], rel=1e-6)
    assert cost.total("bytes") == _bytes(network)
    assert "stem.0" in str(cost)
    assert "ms with the fewest offsets" in str(cost)


def test_the_small_network_that_is_timed_is_the_sliced_one(parts):
    network, sweeps, maps, scores, _ = parts
    chosen = choose_offsets(maps, scores, {group.name: 3 for group in maps.groups if group.free})
    whole = {group.name: group.offsets for group in maps.groups} | chosen
    small = _with_fewer(runnable(network, fused=True), maps, whole)
    sliced = fuse(slice_offsets(network, maps, chosen))
    x, y = (SparseTensor(sweeps[1].feats, sweeps[1].coords) for _ in range(2))
    with torch.no_grad():
        assert torch.equal(small(x).feats, sliced(y).feats)
    # and it builds the same maps
    assert list(x.cache.maps()) == list(y.cache.maps())


@pytest.mark.parametrize("scope", ["map", "layer"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_cost_of_an_assignment_is_that_of_the_choice(parts, scope, unit):
    network, *_ = parts
    maps = _maps(scope)
    scores, cost = offset_scores(network, maps), _by_hand(maps)
    space = offset_space(cost, scores, unit, ratios=(0.3, 0.6, 0.9))
    assert [step.name for step in space.steps] == [group.name for group in maps.groups if group.free]
    assert space.steps[0].widths == (3, 11, 19, 27)
    assert (space.steps[0].c_in, space.steps[0].c_out, space.steps[0].kernel) == (3, 4, 27)
    assert space.steps[0].pairs == sum(maps.group("stem.0").pairs)
    draw = torch.Generator().manual_seed(1)
    searched = scope == "layer" and unit == "ms"
    for _ in range(10):
        picks = [int(torch.randint(size, (), generator=draw)) for size in space.sizes]
        assignment = space.assignment(picks)
        chosen = offsets_of(space, assignment, maps, scores)
        assert [len(chosen[step.name]) for step in space.steps] == list(assignment)
        expected = cost.total(unit, chosen)
        if searched:
            # the search of maps counts as that of the whole network
            expected += cost.maps_ms() - cost.maps_ms(chosen)
        assert space.cost(assignment) == pytest.approx(expected)
    assert space.cost(space.largest) == pytest.approx(cost.total(unit))


def test_a_search_runs_over_it(parts):
    network, _, maps, scores, _ = parts
    cost = _by_hand(maps)
    space = offset_space(cost, scores, "MACs", ratios=(0.2, 0.5, 0.8))
    budget = 0.6 * space.cost(space.largest)

    def evaluate(assignment) -> float:
        net = slice_offsets(network, maps, offsets_of(space, assignment, maps, scores))
        assert maps.macs(offsets_of(space, assignment, maps, scores)) <= budget
        return 1.0 if net.stem[0].offsets is not None else 0.0

    result = search(space, evaluate, budget, 3, method=Uniform())
    assert result.best.score == 1.0


def test_groups_that_are_not_steps_are_a_constant(parts):
    _, _, maps, scores, _ = parts
    cost = _by_hand(maps)
    space = offset_space(cost, scores, ratios=(0.5,), names=("down.0.0", "encoder.0.0.conv1"))
    assert [step.widths for step in space.steps] == [(4, 8), (15, 27)]
    assert space.cost((8, 27)) == pytest.approx(cost.total("ms"))
    chosen = choose_offsets(maps, scores, {"down.0.0": 4})
    assert space.cost((4, 27)) == pytest.approx(cost.total("ms", chosen))


def test_what_cannot_be_measured_is_refused(parts):
    network, sweeps, maps, scores, _ = parts
    for options in ({"runs": 0}, {"shares": (0.5, 1.0)}, {"shares": (0.0,)}):
        with pytest.raises(RangeError, match="needs sweeps, runs of at least 1 and shares"):
            measure_offset_cost(network, sweeps, maps, scores, **options)
    with pytest.raises(RangeError, match="needs sweeps"):
        measure_offset_cost(network, [], maps, scores)
    with pytest.raises(RangeError, match="a ratio is the share to remove"):
        offset_space(_by_hand(maps), scores, ratios=(0.5, 1.0))
    with pytest.raises(RangeError, match="no kernel map is called 'nothing'"):
        offset_space(_by_hand(maps), scores, names=("nothing",))


def test_a_network_of_any_class_is_measured():
    torch.manual_seed(0)
    net = nn.Sequential(
        SubmanifoldConv3d(3, 4, 3, bias=True), SubmanifoldConv3d(4, 8, 3, groups=2, dilation=2)
    ).eval()
    x = _sweeps()[1]
    maps = SharedMaps.of(net, [x])
    assert [reader.pair_macs for group in maps.groups for reader in group.readers] == [12, 16]
    cost = measure_offset_cost(net, [x], maps, offset_scores(net, maps), shares=(), runs=1)
    assert (
        cost.total("MACs") == maps.macs() == 12 * sum(maps.groups[0].pairs) + 16 * sum(maps.groups[1].pairs)
    )


class SeparableNet(nn.Module):
    """A depthwise convolution and grouped pointwise ones."""

    def __init__(self, spec: "Shares | None" = None) -> None:
        super().__init__()
        self.spec = spec or Shares()
        self.first = SubmanifoldConv3d(3, 8, 3, **self.spec.options)
        self.depthwise = SubmanifoldConv3d(8, 8, 3, groups=8)
        self.pointwise = SubmanifoldConv3d(8, 16, 1, groups=4)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.pointwise(self.depthwise(self.first(x)))


class KeywordNet(SeparableNet):
    """The same, and each layer gets its input by name, after another one where there are two."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.first(x=x)
        return self.pointwise(x=self.depthwise(residual=y, x=y))


@dataclass(frozen=True)
class Shares:
    """A Spec that is the share of the rows of `first`."""

    share: float = 1.0
    rest: str = "centre"

    @property
    def options(self) -> dict:
        return {"voxels": self.share, "rest": self.rest} if self.share < 1 else {}

    def with_voxels(self, shares, rest):
        return Shares(shares.get("first", 1.0), rest)


def test_groups_take_their_share_of_the_multiply_adds():
    torch.manual_seed(0)
    net, x = SeparableNet().eval(), _sweeps()[1]
    maps = SharedMaps.of(net, [x])
    (group,) = maps.groups
    expected = sum(group.pairs) * (3 * 8 + 8) + len(x) * 16 * 2
    assert maps.macs() == expected
    assert count_macs(net, [x]) == expected
    assert [pair.before.macs for pair in measure_layers(net, net, [x], runs=1)] == [
        24 * sum(group.pairs), 8 * sum(group.pairs), 32 * len(x)
    ]  # fmt: skip
    cost = measure_offset_cost(net, [x], maps, offset_scores(net, maps), shares=(), runs=1)
    assert cost.total("MACs") == expected
    voxels = measure_voxel_cost(net, [x], (500,), rest="centre", runs=1)
    assert [layer.name for layer in voxels.layers] == ["first"]
    assert voxels.total("MACs") == pytest.approx(expected)


def test_a_grouped_layer_is_timed_as_one():
    x = SparseTensor(torch.ones(len(UNSORTED.coords), 6), UNSORTED.coords)
    net = runnable(nn.Sequential(SubmanifoldConv3d(6, 4, 3, groups=2)), fused=False)
    (call,), draw = calls_of(net, x)[0], Draw(torch.float32, x.device)
    found = layer_runner(call, 6, 4, draw, None)()
    expected = grouped_sparse_conv(draw(len(x), 6), draw(27, 3, 4), call.kmap, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert call.macs == call.n_pairs * 3 * 4


def test_the_usual_sweep_is_that_of_the_products_that_are_taken():
    net = runnable(nn.Sequential(SubmanifoldConv3d(8, 8, 3, groups=8), Linear(8, 32)), fused=False)
    sweeps = [SparseTensor(torch.ones(len(c.coords), 8), c.coords) for c in (LINE, CLUMPED, UNSORTED)]
    calls = [calls_of(net, x)[0] for x in sweeps]
    assert [sum(call.macs for call in each) for each in calls] == [4744, 28848, 32856]
    # without groups the mean would be nearest to the last
    assert most_usual(calls) == 1


def test_hooks_of_the_network_do_not_run_where_rows_are_chosen():
    net = SeparableNet().eval()
    for part in net.modules():
        part.register_forward_hook(lambda part, inputs, out: pytest.fail("a hook ran"))
    assert measure_voxel_cost(net, _sweeps(), (500,), rest="centre", runs=1).layers


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_offsets_of_weights_that_a_hook_makes_are_measured(norm):
    net, x = nn.Sequential(norm(SubmanifoldConv3d(3, 4, 3))).eval(), _sweeps()[1]
    maps = SharedMaps.of(net, [x])
    cost = measure_offset_cost(net, [x], maps, offset_scores(net, maps), runs=1)
    assert cost.total("MACs") == 12 * sum(maps.groups[0].pairs)


def test_layers_that_get_their_input_by_name_are_measured():
    torch.manual_seed(0)
    net, x = KeywordNet().eval(), _sweeps()[1]
    maps = SharedMaps.of(net, [x])
    assert maps.macs() == SharedMaps.of(SeparableNet().eval(), [x]).macs()
    cost = measure_offset_cost(net, [x], maps, offset_scores(net, maps), shares=(), runs=1)
    assert cost.total("MACs") == maps.macs()
    assert measure_voxel_cost(net, [x], (500,), rest="centre", runs=1).total("MACs") == pytest.approx(
        maps.macs()
    )
    # and where rows are chosen
    assert count_macs(prune_voxels(net, {"first": 0.5}, "centre"), [x]) < maps.macs()
    assert {name for call in conv_calls(net, x) for name in call.names} == {"first", "depthwise", "pointwise"}
