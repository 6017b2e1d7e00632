"""Cost from real kernel maps: counts by brute force, times between measured ones, the file."""

import json
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pcsparse import SparseTensor
from pcsparse.compress.channels import prune_channels
from pcsparse.compress.cost import CostTable, LayerCost
from pcsparse.compress.cost_dense import measure_dense_cost
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.cost_run import calls_of, runnable
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.offset_measure import measure_offset_cost
from pcsparse.compress.offset_scores import offset_scores
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.compress.space_of import space_of
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNormReLU, Linear, SparseConv3d, SubmanifoldConv3d
from tests.clouds import PLANE, UNSORTED
from tests.compress.networks import BEVNet, HeadFirst, RecurrentNet, TwoHeads, Widths


def _sweeps(channels: int = 3) -> list[SparseTensor]:
    return [SparseTensor(torch.ones(len(c.coords), channels), c.coords) for c in (PLANE, UNSORTED)]


def _unet(width: float = 1 / 4) -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=width)).eval()


@pytest.fixture(scope="module")
def table(one_thread) -> CostTable:
    return measure_cost(_unet(), _sweeps(), multiple=4, step=8, runs=1)


def _pairs(coords: torch.Tensor) -> int:
    """Of a submanifold 3^3 map, by looking at every two voxels."""
    steps = (coords[:, None, 1:] - coords[None, :, 1:]).abs().amax(dim=2)
    return int(((steps <= 1) & (coords[:, None, 0] == coords[None, :, 0])).sum())


def test_multiply_adds_are_means_over_pairs_of_real_maps(table):
    pairs = sum(_pairs(x.coords) for x in _sweeps()) / 2
    rows = sum(len(x) for x in _sweeps()) / 2
    by_name = {(layer.name, layer.kind): layer for layer in table.layers}
    first = by_name["stem.0", "conv"]
    assert (first.n_pairs, first.n_out, first.k) == (pairs, rows, 27)
    assert first.macs(3, 8) == pairs * 3 * 8
    # a strided 2^3 convolution reads each voxel once
    assert by_name["down.0.0", "conv"].n_pairs == rows
    assert by_name["down.0.0", "conv"].stride == 2
    assert by_name["classifier", "linear"].macs(24, 5) == rows * 24 * 5
    assert by_name["decoder.3.0.conv1", "cat"].macs(32, 32) == 0
    assert table.sweeps == 2


def test_every_layer_is_there_once_under_the_name_of_the_wide_network(table):
    names = [layer.name for layer in table.layers if layer.kind != "cat"]
    weighty = [name.removesuffix(".weight") for name, p in _unet().named_parameters() if p.dim() > 1]
    assert sorted(names) == sorted(weighty)
    cats = [layer.name for layer in table.layers if layer.kind == "cat"]
    assert cats == [f"decoder.{i}.0.conv1" for i in range(4)]
    unfused = measure_cost(_unet(), _sweeps()[:1], multiple=8, step=1000, runs=1, fused=False)
    norms = [layer.name for layer in unfused.layers if layer.kind == "norm"]
    assert len(norms) == sum(isinstance(p, nn.BatchNorm1d) for p in _unet().modules())


def test_weights_are_those_of_the_network_before_its_norms_are_folded(table):
    def parameters(network):
        return sum(p.numel() for p in network.parameters())

    assert table.total("bytes") == 4 * parameters(_unet()) > 4 * parameters(runnable(_unet(), fused=True))
    unfused = measure_cost(_unet(), _sweeps()[:1], multiple=8, step=1000, runs=1, fused=False)
    assert unfused.total("bytes") == 4 * parameters(_unet())
    first = next(layer for layer in table.layers if layer.name == "stem.0")
    assert first.feature_bytes(3, 8, 4) == 4 * first.n_out * (3 + 8)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_of_a_layer_that_is_called_again_count_once(fused, tmp_path):
    net = RecurrentNet().eval()
    graph = ChannelGraph.of(net)
    table = measure_cost(net, _sweeps(), graph=graph, multiple=2, step=1000, runs=1, fused=fused)
    rows = [layer for layer in table.layers if layer.name == "block.0"]
    assert [row.again for row in rows] == [False, True, True]
    # all calls take products
    assert len({row.macs(8, 8) for row in rows}) == 1
    assert table.total("bytes") == 4 * sum(p.numel() for p in net.parameters())
    keep = dict.fromkeys((group.name for group in graph.free), 6)
    small = prune_channels(net, keep, graph=graph, multiple=2)
    expected = 4 * sum(p.numel() for p in small.parameters())
    assert table.total("bytes", graph.widths(keep)) == expected
    space = space_of(graph, table, "bytes", ratios=(0.25,), multiple=2)
    assert (space.cost(space.largest), space.cost(space.cheapest)) == (table.total("bytes"), expected)
    # a file from before says nothing of it
    path = tmp_path / "cost.json"
    table.save(path)
    content = json.loads(path.read_text())
    for layer in content["layers"]:
        del layer["again"]
    path.write_text(json.dumps(content))
    assert CostTable.load(path) == table


class _KeepsAStep(RecurrentNet):
    """Has what it made in its last step, as heads of detectors have it for their losses."""

    def __init__(self, spec: Widths = RecurrentNet.SPEC) -> None:
        super().__init__(spec)
        self.forward_ret_dict = {}

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = super().forward(x)
        if self.training:
            self.forward_ret_dict = {"out": y, "logits": [y.feats]}
        return y


def test_the_narrowest_is_timed_beside_heads_that_did_not_run():
    assert measure_cost(TwoHeads().eval(), _sweeps(2), multiple=2, step=1000, runs=1).least_ms is not None


def test_a_network_that_keeps_its_last_step_is_pruned_and_measured():
    net, x = _KeepsAStep(), _sweeps()[0]
    net(x).feats.sum().backward()
    kept = net.forward_ret_dict
    graph = ChannelGraph.of(net)
    assert measure_cost(net, [x], graph=graph, multiple=2, step=1000, runs=1).least_ms is not None
    assert {group.width for group in ChannelGraph.of(prune_channels(net, 0.5, multiple=2)).free} == {4}
    assert SharedMaps.of(net, [x]).macs() > 0
    assert net.forward_ret_dict is kept
    assert kept["out"].feats.grad_fn is not None


def test_hooks_of_the_network_do_not_run():
    net, x, seen = RecurrentNet().eval(), _sweeps()[0], []
    for part in net.modules():
        part.register_forward_hook(lambda part, inputs, out: seen.append(out))
        part.register_forward_pre_hook(lambda part, inputs: seen.append(inputs))
    # what hangs on a hook need not bear to be copied
    net.head.register_forward_hook(partial(_told, threading.Lock()))
    measure_cost(net, [x], graph=ChannelGraph.of(net), runs=1, step=1000)
    maps = SharedMaps.of(net, [x])
    measure_offset_cost(net, [x], maps, offset_scores(net, maps), shares=(), runs=1)
    assert seen == []
    net(x)
    assert seen
    dense = nn.Sequential(nn.Conv2d(2, 3, 1))
    dense[0].register_forward_hook(lambda part, inputs, out: pytest.fail("a hook ran"))
    measure_dense_cost(dense, torch.zeros(1, 2, 4, 4), runs=1)


def _told(lock, part, inputs, out):
    """A hook that hangs on what cannot be copied."""


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda conv: prune.random_unstructured(conv, "weight", amount=0.5),
    ],
    ids=["weight_norm", "spectral_norm", "mask"],
)
def test_hooks_that_make_weights_stay(norm):
    net, x = nn.Sequential(norm(SubmanifoldConv3d(3, 4, 3, bias=True)), Linear(4, 2)).eval(), _sweeps()[0]
    for fused in (False, True):
        copied = runnable(net, fused=fused)
        with torch.no_grad():
            expected = net(x).feats
            torch.testing.assert_close(copied(x).feats, expected, rtol=0, atol=0)
            # from what they are made of, as in the network
            name = next(name for name, _ in copied[0].named_parameters() if name.startswith("weight_"))
            getattr(copied[0], name)[:, 0].zero_()
            assert not torch.equal(copied(x).feats, expected)
            assert torch.equal(net(x).feats, expected)
    assert measure_cost(net, [x], graph=ChannelGraph.of(net), runs=1).total("MACs") > 0


def test_layers_that_would_be_left_out_are_named():
    x = SparseTensor(torch.ones(2, 2), torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]], dtype=torch.int32))
    with pytest.raises(UnsupportedError, match=r"^first, second, head run on dense tensors"):
        measure_cost(BEVNet(), [x], runs=1)


def test_what_lives_at_once_by_hand():
    net = nn.Sequential(SubmanifoldConv3d(3, 8, 3), SubmanifoldConv3d(8, 2, 3), Linear(2, 1)).eval()
    x = _sweeps()[0]
    calls, most = calls_of(runnable(net, fused=True), x)
    # while the second convolution runs there are its input and output, and the network's input
    assert most == 4 * len(x) * (3 + 8 + 2)
    assert [call.kind for call in calls] == ["conv", "conv", "linear"]


def test_multiply_adds_of_a_slice_are_those_of_the_sliced_network(table):
    graph = ChannelGraph.of(_unet())
    keep = {"stem.2": 4, "encoder.1.0.conv2": 12, "up.3.0": 20, "decoder.0.0.conv1": 36}
    sliced = prune_channels(_unet(), keep, graph=graph, multiple=4)
    again = measure_cost(sliced, _sweeps(), multiple=4, step=1000, runs=1)
    assert table.total("bytes", graph.widths(keep)) == 4 * sum(p.numel() for p in sliced.parameters())
    for unit in ("MACs", "bytes"):
        assert table.total(unit, graph.widths(keep)) == pytest.approx(again.total(unit))
        assert table.total(unit, graph.widths(keep)) < table.total(unit)


def test_the_sum_is_maps_rest_and_layers(table):
    layers = sum(layer.milliseconds(layer.c_in, layer.c_out) for layer in table.layers)
    assert layers > 0
    assert table.map_ms > 0
    stays, share = table.rest
    assert table.total("ms") == pytest.approx((1 + share) * layers + table.map_ms + stays)
    assert stays + share * layers == pytest.approx(table.rest_ms)
    assert table.total("ms") >= table.network_ms
    with pytest.raises(RangeError, match="a cost is in ms, MACs, bytes, not in 'flops'"):
        table.total("flops")


def test_layers_on_one_map_share_measurements(table):
    by_name = {layer.name: layer for layer in table.layers if layer.kind == "conv"}
    # the same map and epilogue; widths of either are timed for both
    a, b = by_name["encoder.0.0.conv1"], by_name["encoder.1.0.conv1"]
    assert a.ms != b.ms
    one = by_name["encoder.2.0.conv2"]
    assert one.widths_in == (4, 8, 16, 24, 32)
    assert len(one.ms) == 5
    # a concatenation cannot become narrower than the least widths of both
    assert by_name["decoder.3.0.conv1"].widths_in == (8, 16, 24, 32)
    assert by_name["stem.0"].widths_in == (3,)


def _layer(**changes) -> LayerCost:
    fields = {
        "name": "a", "kind": "conv", "k": 27, "c_in": 16, "c_out": 32, "stride": 1, "n_in": 10.0,
        "n_out": 10.0, "n_pairs": 50.0, "vectors": 1, "widths_in": (8, 16), "widths_out": (8, 16, 32),
        "ms": ((1.0, 2.0, 6.0), (3.0, 4.0, 8.0)),
    }  # fmt: skip
    return LayerCost(**(fields | changes))


@pytest.mark.parametrize(
    ("size", "ms"), [((8, 8), 1.0), ((16, 32), 8.0), ((8, 24), 4.0), ((12, 16), 3.0), ((12, 24), 5.0)]
)
def test_times_between_measured_widths_lie_on_straight_lines(size, ms):
    assert _layer().milliseconds(*size) == pytest.approx(ms)


@pytest.mark.parametrize("size", [(7, 16), (16, 33), (24, 8), (8, 4)])
def test_times_outside_are_refused(size):
    with pytest.raises(RangeError, match="a was timed at widths"):
        _layer().milliseconds(*size)


def test_a_norm_has_one_width():
    norm = _layer(kind="norm", c_in=32, widths_in=(8, 32), widths_out=(8, 32), ms=((1.0, 4.0),), vectors=4)
    assert norm.milliseconds(8, 8) == 1.0
    assert norm.milliseconds(20, 20) == pytest.approx(2.5)
    assert norm.weight_bytes(20, 20, 4) == 4 * 4 * 20
    # a cat is as wide as what its reader reads
    assert CostTable.widths_of(_layer(kind="cat"), (24, 8)) == (24, 24)


def test_the_file_gives_the_table_back(table, tmp_path):
    path = tmp_path / "folder" / "cost.json"
    table.save(path)
    assert CostTable.load(path) == table
    assert [p.name for p in path.parent.iterdir()] == ["cost.json"]
    text = path.read_text()
    for broken in (
        text[: len(text) // 2],
        "[]",
        text.replace('"ms"', '"seconds"'),
        text.replace('"map_ms"', '"m"'),
    ):
        path.write_text(broken)
        with pytest.raises(FormatError, match="no cost table"):
            CostTable.load(path)
    other = json.loads(text) | {"format": 0}
    path.write_text(json.dumps(other))
    with pytest.raises(FormatError, match="has format 0"):
        CostTable.load(path)
    with pytest.raises(FormatError, match="measure the cost first"):
        CostTable.load(tmp_path / "nothing.json")


def test_times_of_another_machine_are_refused(table, tmp_path):
    path = tmp_path / "cost.json"
    replace(table, machine="another").save(path)
    with pytest.raises(FormatError, match=r"was measured on \[another\]"):
        CostTable.load(path)
    assert CostTable.load(path, any_machine=True).layers == table.layers


def test_times_of_a_busy_machine_say_so(table, tmp_path):
    busy, calm = replace(table, busy=True), replace(table, busy=False)
    assert "BUSY" in str(busy)
    assert "BUSY" not in str(calm)
    busy.save(tmp_path / "cost.json")
    assert CostTable.load(tmp_path / "cost.json").busy


def test_it_prints_every_layer_and_the_sums(table):
    text = str(table)
    assert all(layer.name in text for layer in table.layers)
    assert "multiply-adds a sweep" in text
    assert "maps" in text


@pytest.mark.parametrize("options", [{"runs": 0}, {"multiple": 0}, {"step": 0}])
def test_bad_settings_are_refused(options):
    with pytest.raises(RangeError, match="at least 1"):
        measure_cost(_unet(), _sweeps(), **options)
    with pytest.raises(RangeError, match="got 0 sweeps"):
        measure_cost(_unet(), [])


def test_the_graph_is_read_on_a_sweep():
    table = measure_cost(HeadFirst().eval(), _sweeps(2), runs=1)
    assert [layer.name for layer in table.layers] == ["conv", "head"]


def test_the_sweeps_stay_as_they_are():
    net = nn.Sequential(SparseConv3d(3, 4, 2, 2), BatchNormReLU(4), Linear(4, 2))
    sweeps = _sweeps()
    measure_cost(net, sweeps, runs=1)
    assert [len(x.cache) for x in sweeps] == [0, 0]
    assert net.training


@pytest.mark.parametrize(
    ("network", "least", "rest"),
    # layers take 8 ms, the narrowest 1
    [
        (10.0, None, (2.0, 0.0)),
        (10.0, 3.0, (2.0, 0.0)),
        (10.0, 1.6, (0.4, 0.2)),
        # a narrow network with no rest at all leaves nothing that stays
        (10.0, 0.9, (0.0, 0.25)),
        # all layers together are faster than alone, or narrow ones no faster
        (10.0, 9.0, (2.0 + 48 / 7, -6 / 7)),
        (7.0, 1.5, (-1.0 + 12 / 7, -1.5 / 7)),
        (7.0, None, (0.0, -1 / 8)),
        # narrow ones were timed slower, which only a busy machine does
        (10.0, 10.0, (0.0, 0.25)),
        (10.0, 30.0, (0.0, 0.25)),
    ],
)
def test_the_rest_lies_on_a_line_through_the_whole_and_the_narrowest_network(table, network, least, rest):
    given = replace(table, layers=(_layer(),), map_ms=5.0, network_ms=network, least_ms=least)
    assert given.rest == pytest.approx(rest)
    assert given.fixed("ms") == pytest.approx(5.0 + rest[0])
    assert given.total("ms") == pytest.approx(5.0 + network)
    narrow = given.total("ms", {"a": (8, 8)})
    assert narrow == pytest.approx(5.0 + rest[0] + (1.0 + rest[1]) * 1.0)


def test_the_narrowest_network_is_timed_where_it_can_be_built(table):
    assert table.least_ms is not None
    assert table.least_ms > 0
    net = nn.Sequential(SubmanifoldConv3d(3, 8, 3), Linear(8, 2)).eval()
    assert measure_cost(net, _sweeps(), runs=1).least_ms is None
