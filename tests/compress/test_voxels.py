"""Voxel pruning of networks: the Spec, the channels it ties, what it saves, and the sensitivity axis."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from pcsparse import SparseTensor
from pcsparse.compress.channels import mask_channels, slice_channels
from pcsparse.compress.cost import CostTable
from pcsparse.compress.cost_measure import Draw, layer_runner, measure_cost
from pcsparse.compress.cost_run import calls_of, runnable
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.reconstruction import reconstruct
from pcsparse.compress.sensitivity import scan
from pcsparse.compress.sensitivity_voxels import VoxelsAxis
from pcsparse.compress.voxel_importance import voxel_importance
from pcsparse.compress.voxels import prune_voxels, voxel_layers
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.hardware.trace_sparse import trace_sparse
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNorm, BatchNormReLU, SparseConv3d, SubmanifoldConv3d, fuse
from pcsparse.train.model_file import arch_of, build_arch
from tests.clouds import TWO_BATCHES, UNSORTED
from tests.tolerance import tolerance

# of a MinkUNet-14 of this width: the other 3^3 convolutions change the number of channels
WIDTH = 1 / 8
ABLE = (
    "stem.2", "encoder.0.0.conv1", "encoder.0.0.conv2", "encoder.1.0.conv2", "encoder.2.0.conv2",
    "encoder.3.0.conv2", "decoder.0.0.conv2", "decoder.1.0.conv2", "decoder.2.0.conv2", "decoder.3.0.conv2",
)  # fmt: skip


# where rows keep their centre their channels may change
CENTRED = (
    "stem.0", *ABLE[:3], "encoder.1.0.conv1", *ABLE[3:4], "encoder.2.0.conv1", *ABLE[4:5],
    "encoder.3.0.conv1", *ABLE[5:6],
    *(f"decoder.{i}.0.conv{j}" for i in range(4) for j in (1, 2)),
)  # fmt: skip
REST = ("pass", "centre")


def _network(dtype=torch.float64) -> MinkUNet:
    torch.manual_seed(0)
    network = MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=WIDTH)).to(dtype)
    for part in network.modules():
        if isinstance(part, BatchNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, 0.0, 0.5)
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return network.eval()


def _sweeps(channels: int = 3, dtype=torch.float64) -> list[SparseTensor]:
    rng = torch.Generator().manual_seed(4)
    return [
        SparseTensor(
            torch.randn(len(c.coords), channels, generator=rng, dtype=torch.float64).to(dtype),
            c.coords,
            batch_size=c.batch_size,
        )
        for c in (TWO_BATCHES, UNSORTED)
    ]


def _pairs(coords: torch.Tensor) -> torch.Tensor:
    """Of a submanifold 3^3 map by output row, by looking at every two voxels."""
    steps = (coords[:, None, 1:] - coords[None, :, 1:]).abs().amax(dim=2)
    return ((steps <= 1) & (coords[:, None, 0] == coords[None, :, 0])).sum(dim=1)


def _largest(x: SparseTensor, share: float) -> torch.Tensor:
    """Rows of the largest features, cloud by cloud."""
    chosen = torch.zeros(len(x), dtype=torch.bool)
    for cloud in x.coords[:, 0].unique().tolist():
        rows = torch.nonzero(x.coords[:, 0] == cloud).squeeze(1)
        count = math.ceil(share * len(rows) - 1e-9)
        chosen[rows[x.feats[rows].abs().mean(dim=1).topk(count).indices]] = True
    return chosen


@pytest.mark.parametrize("rest", REST)
def test_the_weights_stay_and_the_shares_stand_in_the_spec(rest):
    network = _network().train()
    network.classifier.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pruned = prune_voxels(network, {"stem.2": 0.5, "decoder.3.0.conv2": 0.25}, rest)

    assert pruned.spec == network.spec.with_voxels({"stem.2": 0.5, "decoder.3.0.conv2": 0.25}, rest)
    assert pruned.spec.with_voxels({"stem.2": None, "decoder.3.0.conv2": None}, rest) == network.spec
    assert pruned.stem[2].rest == pruned.decoder[3][0].conv2.rest == rest
    assert (pruned.stem[2].voxels, pruned.decoder[3][0].conv2.voxels) == (0.5, 0.25)
    assert pruned.training
    assert not pruned.classifier.bias.requires_grad
    assert network.stem[2].voxels is None
    x = _sweeps()[0]
    with torch.no_grad():
        assert not torch.allclose(pruned.eval()(x).feats, network.eval()(x).feats)
        # one share after the other, and back
        whole = prune_voxels(pruned, {"stem.2": 1.0, "decoder.3.0.conv2": 1.0}, rest)
        assert torch.equal(whole(x).feats, network(x).feats)
        for tensor in pruned.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("rest", "able"), [("pass", ABLE), ("centre", CENTRED)])
def test_one_number_is_for_all_layers_that_can_do_with_some_rows(rest, able):
    pruned = prune_voxels(_network(), 0.5, rest)
    assert tuple(voxel_layers(pruned, rest)) == able
    shares = {name: part.voxels for name, part in pruned.named_modules() if hasattr(part, "voxels")}
    assert {name for name, share in shares.items() if share is not None} == set(able)
    arch = json.loads(json.dumps(arch_of(pruned, 5)))
    again = build_arch(arch).double()
    again.load_state_dict(pruned.state_dict())
    x = _sweeps()[0]
    with torch.no_grad():
        assert torch.equal(again.eval()(x).feats, pruned(x).feats)


def test_a_file_from_before_there_was_a_choice_is_of_rows_that_pass():
    pruned = prune_voxels(_network(), {"stem.2": 0.5}, "pass")
    text = json.dumps(arch_of(pruned, 5))
    old = text.replace(', "rest": "pass"', "")
    assert '"rest"' not in old
    again = build_arch(json.loads(old))
    assert again.spec == pruned.spec
    assert (again.stem[2].voxels, again.stem[2].rest) == (0.5, "pass")
    with pytest.raises(
        FormatError, match=r"stem\.0 of the Spec has rest='drop'; it must be 'pass' or 'centre'"
    ):
        build_arch(json.loads(text.replace('"rest": "pass"', '"rest": "drop"')))


def test_a_layer_that_cannot_says_why():
    network = _network()
    for name, why in (
        ("stem.0", "reads 3 channels and writes 4"),
        ("down.0.0", "none dilates"),
        ("stem.1", "it is a BatchNormReLU"),
        ("encoder.1.0.shortcut.0", "reads 4 channels and writes 8"),
    ):
        with pytest.raises(UnsupportedError, match=rf"{name} must convolve all rows: .*{why}.* can pass"):
            prune_voxels(network, {name: 0.5}, "pass")
    with pytest.raises(UnsupportedError, match=r"shortcut\.0 must .* one pair a row; .* left out of stem"):
        prune_voxels(network, {"encoder.1.0.shortcut.0": 0.5}, "centre")
    with pytest.raises(RangeError, match=r"no layer 'nothing'; rows can pass stem\.2, encoder"):
        prune_voxels(network, {"nothing": 0.5}, "pass")
    with pytest.raises(RangeError, match=r"rest must be 'centre' or 'pass', got 'drop'"):
        prune_voxels(network, 0.5, "drop")
    dropped = MinkUNet(network.spec.with_offsets({"stem.2": (0, 26)})).double()
    assert "stem.2" not in voxel_layers(dropped, "centre")
    with pytest.raises(UnsupportedError, match=r"stem\.2 must .*: its kernel's centre was dropped"):
        prune_voxels(dropped, {"stem.2": 0.5}, "centre")
    for share in (0.0, 1.5):
        with pytest.raises(RangeError, match=r"must be in \(0, 1\]"):
            prune_voxels(network, share)
    with pytest.raises(UnsupportedError, match=r"folded into it.*prune before fuse"):
        prune_voxels(fuse(network), {"encoder.0.conv2": 0.5}, "pass")
    with pytest.raises(UnsupportedError, match="not those of its Spec; prune a network before fuse"):
        prune_voxels(fuse(network), 0.5)
    with pytest.raises(UnsupportedError, match="no Spec with a method with_voxels"):
        prune_voxels(nn.Sequential(SubmanifoldConv3d(2, 2)), 0.5)
    strided = nn.Sequential(SparseConv3d(2, 2, 3, 2))
    strided.spec = network.spec
    with pytest.raises(UnsupportedError, match=r"0 must convolve all rows: its outputs are.*SPRS-Conv"):
        prune_voxels(strided, {"0": 0.5})
    grouped = nn.Sequential(SubmanifoldConv3d(4, 4, groups=2), SubmanifoldConv3d(4, 4, 1))
    assert voxel_layers(grouped, "pass") == voxel_layers(grouped, "centre") == {}
    parametrizations.weight_norm(network.stem[2])
    with pytest.raises(UnsupportedError, match=r"weights of stem\.2 are made by a parametrisation"):
        prune_voxels(network, 0.5)


def test_what_passes_ties_input_and_output_channels():
    graph = ChannelGraph.of(prune_voxels(_network(), {"encoder.1.0.conv2": 0.5}, "pass"))
    # the channels between the two convolutions of the block are those of its sum now
    (group,) = [g for g in graph.groups if "encoder.1.0.conv2" in g.layers("in")]
    assert "encoder.1.0.conv1" in group.layers("out")
    assert "encoder.1.0.shortcut.0" in group.layers("out")
    assert "encoder.1.0.conv2" in group.layers("out")
    plain = ChannelGraph.of(_network())
    assert len(graph.groups) == len(plain.groups) - 1
    # what keeps its centre ties nothing
    assert len(ChannelGraph.of(prune_voxels(_network(), 0.5, "centre")).groups) == len(plain.groups)


@pytest.mark.parametrize("rest", REST)
def test_sliced_is_masked_where_rows_are_left_out(rest):
    network = prune_voxels(_network(), 0.4, rest)
    graph, x = ChannelGraph.of(network), _sweeps()[0]
    close = tolerance(torch.float64, terms=2000, factor=1000)
    with torch.no_grad():
        dense = network(x).feats
    masked = prune_voxels(network, {}, rest)
    for first in range(0, len(graph.free), 2):
        pair = graph.free[first : first + 2]
        chosen = {group.name: tuple(i for i in range(group.width) if i % 3 != 1) for group in pair}
        sliced = slice_channels(network, graph, chosen)
        masked.load_state_dict(network.state_dict())
        mask_channels(masked, graph, chosen)
        with torch.no_grad():
            out, expected = sliced(x).feats, masked(x).feats
        torch.testing.assert_close(out, expected, **close, msg=lambda t, c=chosen: f"{list(c)}: {t}")
        assert not torch.allclose(out, dense, **close), f"{list(chosen)} did not matter"
        assert (sliced.spec.stem[1].voxels, sliced.spec.stem[1].rest) == (0.4, rest)


@pytest.mark.parametrize("rest", REST)
def test_importance_by_hand(rest):
    x, y = _sweeps(2)
    net = nn.Sequential(SubmanifoldConv3d(2, 2)).double().train()
    (found,) = voxel_importance(net, [x, y], rest)
    assert (found.name, net.training) == ("0", True)
    assert found.rows == (len(x) + len(y)) / 2
    assert found.pairs == float(sum(_pairs(s.coords).sum() for s in (x, y))) / 2
    for share in (0.0, 0.001, 0.3, 0.5, 1.0):
        kept = [(s, _largest(s, share)) for s in (x, y)]
        pairs = sum(float(_pairs(s.coords)[mask].sum()) for s, mask in kept)
        if rest == "centre":
            pairs += sum(float((~mask).sum()) for _, mask in kept)
        sizes = [sum(float(s.feats[mask].abs().sum()) for s, mask in kept)]
        sizes.append(sum(float(s.feats.abs().sum()) for s in (x, y)))
        assert found.pairs_at(share) == pytest.approx(pairs / (2 * found.pairs))
        assert found.magnitude_at(share) == pytest.approx(sizes[0] / sizes[1])
    assert found.magnitude_at(0.3) > 0.35


def test_importance_without_a_look_is_refused():
    with pytest.raises(RangeError, match="needs sweeps"):
        voxel_importance(_network(), [])
    conv = SubmanifoldConv3d(2, 2).double()
    with pytest.raises(RangeError, match="0 ran 2 times on 1 sweeps"):
        voxel_importance(nn.Sequential(conv, conv), _sweeps(2)[:1])


@pytest.fixture(scope="module", params=REST)
def pruned_table(one_thread, request) -> tuple[MinkUNet, CostTable]:
    network = prune_voxels(_network(torch.float32), {"stem.2": 0.3, "encoder.0.0.conv2": 0.5}, request.param)
    return network, measure_cost(network, _sweeps(dtype=torch.float32), multiple=2, step=1000, runs=1)


def test_pairs_are_those_of_the_rows_that_are_convolved(pruned_table):
    network, table = pruned_table
    layers = {layer.name: layer for layer in table.layers if layer.kind == "conv"}
    expected = 0.0
    for x in _sweeps(dtype=torch.float32):
        with torch.no_grad():
            # the stem's norm has statistics of its own, fused or not
            y = network.stem[1](network.stem[0](x))
        mask = _largest(y, 0.3)
        expected += float(_pairs(x.coords)[mask].sum()) / 2
        expected += float((~mask).sum()) / 2 if network.stem[2].rest == "centre" else 0.0
    whole = sum(float(_pairs(x.coords).sum()) for x in _sweeps()) / 2
    assert layers["stem.2"].n_pairs == pytest.approx(expected, rel=0.01)
    assert layers["stem.0"].n_pairs == whole
    assert 0.1 * whole < layers["stem.2"].n_pairs < 0.8 * whole
    if network.stem[2].rest == "centre":
        assert not any(layer.alike for layer in layers.values())
        return
    # one width each way: one row of times
    assert layers["stem.2"].alike
    assert len(layers["stem.2"].ms) == 1
    assert not layers["stem.0"].alike
    assert layers["stem.2"].milliseconds(4, 4) > 0
    with pytest.raises(RangeError, match="timed at widths"):
        layers["stem.2"].milliseconds(5, 5)


def test_the_table_of_a_pruned_network_comes_back_from_its_file(pruned_table, tmp_path):
    network, table = pruned_table
    table.save(tmp_path / "cost.json")
    assert CostTable.load(tmp_path / "cost.json") == table
    graph = ChannelGraph.of(network)
    widths = graph.widths({group.name: max(2, group.width // 2) for group in graph.free})
    assert 0 < table.total("MACs", widths) < table.total("MACs")
    assert table.total("ms", widths) > 0
    # files from before rows could pass have no word for it
    old = json.loads((tmp_path / "cost.json").read_text())
    for layer in old["layers"]:
        if not layer.pop("alike"):
            continue
        layer["kind"], layer["n_pairs"] = "norm", 0
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert not any(layer.alike for layer in CostTable.load(tmp_path / "old.json").layers)


@pytest.mark.parametrize("rest", REST)
def test_what_is_timed_chooses_filters_and_convolves(monkeypatch, rest):
    import pcsparse.compress.cost_measure as timing

    seen = []
    choose, convolve = timing.important_rows, timing.partial_sparse_conv
    monkeypatch.setattr(timing, "important_rows", lambda *a: seen.append("choose") or choose(*a))
    monkeypatch.setattr(
        timing, "partial_sparse_conv", lambda f, w, k, m, **o: seen.append(m) or convolve(f, w, k, m, **o)
    )
    expects = 13 if rest == "centre" else None
    x = _sweeps(4, torch.float32)[0]
    conv = SubmanifoldConv3d(4, 4, voxels=0.25, rest=rest)
    net = runnable(nn.Sequential(conv, BatchNormReLU(4)), fused=True)
    (call,), _ = calls_of(net, x)
    assert torch.equal(call.some.mask, _largest(x, 0.25))
    assert call.some.centre == expects
    run = timing.layer_runner(call, 2, 2, timing.Draw(torch.float32, torch.device("cpu")), None)
    for _ in range(2):
        run()
    assert seen[0::2] == ["choose", "choose"]
    # the rows of the sweep, though the features are random; and no filtered map is left from the first run
    assert all(torch.equal(mask, call.some.mask) for mask in seen[1::2])
    assert seen[1] is not seen[3]
    left = int((~call.some.mask).sum()) if rest == "centre" else 0
    assert call.n_pairs == int(_pairs(x.coords)[call.some.mask].sum()) + left
    assert call.n_rows == (len(x) if rest == "centre" else int(call.some.mask.sum()))


def test_what_a_timed_layer_leaves_out_is_what_the_layer_leaves_out():
    x = _sweeps(4, torch.float32)[0]
    net = runnable(nn.Sequential(SubmanifoldConv3d(4, 3, voxels=0.25, rest="centre")), fused=True)
    (call,), _ = calls_of(net, x)
    draw = Draw(torch.float32, torch.device("cpu"))
    got = layer_runner(call, 4, 3, draw, None)()
    weight, feats = draw(27, 4, 3), draw(len(x), 4)
    torch.testing.assert_close(got[~call.some.mask], (feats @ weight[13])[~call.some.mask])


@pytest.mark.parametrize("rest", REST)
def test_a_scan_of_voxels_falls_and_brings_the_network_back(rest):
    network, x = _network(), _sweeps()[0]
    with torch.no_grad():
        expected = network(x).feats
    seen = []

    def agreement(net: nn.Module) -> float:
        assert all(part.rest == rest for part in voxel_layers(net).values() if part.voxels)
        seen.append({name: part.voxels for name, part in voxel_layers(net).items() if part.voxels})
        with torch.no_grad():
            return 1.0 - float((net(x).feats - expected).abs().mean())

    axis = VoxelsAxis(network, rest=rest)
    assert axis.facts() == ({} if rest == "pass" else {"rest": "centre"})
    table = scan(network, agreement, axis=axis, ratios=(0.0, 0.5, 0.9), names=["stem.2"])
    assert [point.kept for point in table.points] == [1000, 500, 100]
    assert [point.size for point in table.points] == [1000] * 3
    values = [table.metric(point) for point in table.points]
    assert values[0] == 1.0
    assert values[0] > values[1] > values[2]
    # all rows are the whole network, which was evaluated first
    assert seen == [{}, {"stem.2": 0.5}, {"stem.2": 0.1}]
    assert all((part.voxels, part.rest) == (None, "pass") for part in voxel_layers(network).values())
    assert set(axis.sizes()) == set(ABLE if rest == "pass" else CENTRED)


@pytest.mark.parametrize("rest", REST)
def test_costs_stand_beside_the_metric(rest):
    torch.manual_seed(0)
    network = nn.Sequential(
        SubmanifoldConv3d(3, 4), BatchNormReLU(4), SubmanifoldConv3d(4, 4), BatchNormReLU(4),
        SubmanifoldConv3d(4, 4),
    ).eval()  # fmt: skip
    sweeps = _sweeps(dtype=torch.float32)
    options = {"multiple": 4, "step": 1000, "runs": 1}
    cost, importance = measure_cost(network, sweeps, **options), voxel_importance(network, sweeps, rest)
    axis = VoxelsAxis(network, cost=cost, importance=importance, rest=rest)
    (point,) = scan(network, lambda net: 1.0, axis=axis, ratios=(0.75,), names=["2"]).points
    # counted on the pruned network
    pruned = copy.deepcopy(network)
    pruned[2].voxels, pruned[2].rest = 0.25, rest
    assert point.macs == pytest.approx(measure_cost(pruned, sweeps, **options).total("MACs"), rel=1e-3)
    assert point.macs < 0.9 * cost.total("MACs")
    # timed alone on a busy machine a layer may take longer than the whole network with it
    layer = next(layer for layer in cost.layers if layer.name == "2")
    slow = replace(cost, network_ms=0.5 * layer.milliseconds(4, 4), least_ms=None, map_ms=0.0)
    told = VoxelsAxis(network, cost=slow, importance=importance, rest=rest).milliseconds("2", 250)
    assert 0 < told < slow.total("ms")
    assert 0 < point.ms < cost.total("ms")
    assert VoxelsAxis(network, cost=cost).macs("2", 250) is None
    missing = importance[0].name
    with pytest.raises(RangeError, match=f"{missing} was not measured"):
        VoxelsAxis(network, importance=importance[1:], rest=rest)
    with pytest.raises(RangeError, match=r"2 has voxels=0\.25 already"):
        VoxelsAxis(pruned, rest=rest)


@pytest.mark.parametrize("rest", REST)
def test_reconstruction_looks_at_what_rows_read(rest):
    net = prune_voxels(_network(), {"stem.2": 0.5}, rest)
    graph, sweeps = ChannelGraph.of(net), _sweeps()
    (group,) = [g for g in graph.free if "stem.2" in g.layers("in")]
    chosen = {group.name: (0, 1, 3)}
    sliced = slice_channels(net, graph, chosen)
    refits = {refit.layer: refit for refit in reconstruct(net, sliced, graph, chosen, sweeps, ridge=0.0)}
    # what it says is what is left, on all rows
    left = size = 0.0
    for x in sweeps:
        with torch.no_grad():
            dense, narrow = (n.stem[2](n.stem[1](n.stem[0](x))).feats for n in (net, sliced))
        if rest == "pass":
            # its outputs went with its inputs
            dense = dense[:, list(chosen[group.name])]
        left += float((dense - narrow).square().sum())
        size += float(dense.square().sum())
    assert refits["stem.2"].after == pytest.approx(left / size, rel=1e-6, abs=1e-12)
    assert refits["stem.2"].after < refits["stem.2"].before


def test_offsets_that_go_leave_the_shares():
    # `SharedMaps` refuses the other way round; the shares stay where offsets go
    net, x = prune_voxels(_network(), {"stem.2": 0.5}), _sweeps()[0]
    spec = net.spec.with_offsets({"stem.2": (12, 13, 14)})
    assert (spec.stem[1].voxels, spec.stem[1].offsets) == (0.5, (12, 13, 14))
    sparser = MinkUNet(spec).double()
    assert sparser(x).feats.isfinite().all()


def test_a_trace_of_hardware_refuses_shares_of_rows():
    net = nn.Sequential(SubmanifoldConv3d(3, 3, voxels=0.5)).double()
    with pytest.raises(UnsupportedError, match=r"0 convolves a share of its rows, voxels=0\.5"):
        trace_sparse(net, _sweeps()[0], "net")
