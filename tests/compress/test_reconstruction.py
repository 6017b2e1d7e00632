"""Least-squares reconstruction: against a plain solver on an explicit matrix, and where it is exact."""

import pytest
import torch
from torch import nn

from pcsparse import SparseTensor
from pcsparse.compress.channels import slice_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.layer_rows import inputs_of, matrix_of, outputs_of, set_matrix
from pcsparse.compress.offsets import slice_offsets
from pcsparse.compress.reconstruction import reconstruct
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.coords.pillars import PillarGrid
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec, PillarBEV, PillarBEVSpec
from pcsparse.nn import BatchNorm
from tests.clouds import PLANE, TWO_BATCHES
from tests.compress.networks import FlatCNN, HeadFirst, UpCNN


def _network(width: float = 1 / 8) -> MinkUNet:
    torch.manual_seed(0)
    network = MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=width)).double().eval()
    for part in network.modules():
        if isinstance(part, BatchNorm):
            nn.init.uniform_(part.bias, 0.0, 0.5)
    return network


def _sweeps() -> list[SparseTensor]:
    rng = torch.Generator().manual_seed(4)
    return [
        SparseTensor(
            torch.randn(len(c.coords), 3, generator=rng, dtype=torch.float64),
            c.coords,
            batch_size=c.batch_size,
        )
        for c in (TWO_BATCHES, PLANE)
    ]


def test_a_channel_that_another_one_repeats_is_made_up_for():
    network = _network()
    graph = ChannelGraph.of(network)
    # channel 2 of the first convolution becomes twice channel 0, through norm and ReLU
    with torch.no_grad():
        network.stem[0].weight[:, :, 2] = network.stem[0].weight[:, :, 0]
        network.stem[1].weight[2] = 2 * network.stem[1].weight[0]
        network.stem[1].bias[2] = 2 * network.stem[1].bias[0]
    chosen = {"stem.0": (0, 1, 3)}
    sliced = slice_channels(network, graph, chosen)
    x = _sweeps()[0]
    with torch.no_grad():
        expected, before = network(x).feats, sliced(x).feats
    assert not torch.allclose(expected, before, atol=1e-3)
    (refit,) = reconstruct(network, sliced, graph, chosen, _sweeps(), ridge=0.0)
    assert refit.layer == "stem.2"
    assert refit.before > 1e-3
    assert refit.after < 1e-12
    with torch.no_grad():
        torch.testing.assert_close(sliced(x).feats, expected, rtol=1e-5, atol=1e-6)


def test_a_layer_that_gets_its_input_by_name_is_refitted():
    class Named(HeadFirst):
        def forward(self, x: SparseTensor) -> SparseTensor:
            return self.head(x=self.conv(x=x))

    torch.manual_seed(0)
    network = Named().double().eval()
    sweeps = [x.replace(x.feats[:, :2]) for x in _sweeps()]
    graph, chosen = ChannelGraph.of(network, sweeps[0]), {"conv": (0, 2, 3, 5)}
    sliced = slice_channels(network, graph, chosen)
    (refit,) = reconstruct(network, sliced, graph, chosen, sweeps)
    assert refit.layer == "head"
    assert refit.after < refit.before


def test_the_weights_are_those_of_a_plain_solver():
    network, sweeps = _network(), _sweeps()
    graph = ChannelGraph.of(network)
    # the strided convolution loses inputs, and outputs besides: 8 offsets of 2 channels
    chosen = {"stem.2": (0, 3), "down.0.0": (1, 2, 3)}
    sliced = slice_channels(network, graph, chosen)
    ridge = 0.02
    start = sliced.down[0][0].weight.detach().clone()
    rows, wanted = [], []
    with torch.no_grad():
        for x in sweeps:
            y = sliced.stem(x)
            z, whole = sliced.down[0][0](y), network.down[0][0](network.stem(x))
            # every coarse voxel looks for its eight children by their coordinates
            children = {tuple(c): i for i, c in enumerate(y.coords.tolist())}
            matrix = torch.zeros(len(z), 8, 2, dtype=torch.float64)
            for j, (b, cx, cy, cz) in enumerate(z.coords.tolist()):
                for k in range(8):
                    child = children.get((b, 2 * cx + k // 4, 2 * cy + k // 2 % 2, 2 * cz + k % 2))
                    if child is not None:
                        matrix[j, k] = y.feats[child]
            rows.append(matrix.flatten(1))
            wanted.append(whole.feats[:, [1, 2, 3]])
    x, y = torch.cat(rows), torch.cat(wanted)
    held = ridge * float(x.square().sum(dim=0).mean())
    # the ridge as rows of its own
    stacked = torch.cat([x, held**0.5 * torch.eye(16, dtype=torch.float64)])
    target = torch.cat([y, held**0.5 * start.flatten(0, 1)])
    expected = torch.linalg.lstsq(stacked, target).solution

    refits = reconstruct(network, sliced, graph, chosen, sweeps, ridge=ridge)
    assert [refit.layer for refit in refits][:2] == ["down.0.0", "encoder.0.0.conv1"]
    found = sliced.down[0][0].weight.detach()
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-7, atol=1e-9)
    error = float((x @ expected - y).square().sum() / y.square().sum())
    assert refits[0].after == pytest.approx(error, rel=1e-6)
    assert refits[0].before == pytest.approx(
        float((x @ start.flatten(0, 1) - y).square().sum() / y.square().sum()), rel=1e-6
    )


def test_layers_that_lost_offsets_have_the_weights_of_a_plain_solver():
    network, sweeps, ridge, kept = _network(), _sweeps(), 0.02, (0, 4, 13, 22, 26)
    maps = SharedMaps.of(network, sweeps)
    sliced = slice_offsets(network, maps, {"stem.0": kept})
    start = sliced.stem[0].weight.detach().clone().flatten(0, 1)
    rows, missing = [], []
    with torch.no_grad():
        for x in sweeps:
            place = {tuple(c): i for i, c in enumerate(x.coords.tolist())}
            matrix = torch.zeros(len(x), len(kept), 3, dtype=torch.float64)
            for j, (b, *at) in enumerate(x.coords.tolist()):
                for k, offset in enumerate(kept):
                    step = (offset // 9 - 1, offset // 3 % 3 - 1, offset % 3 - 1)
                    i = place.get((b, *(c + d for c, d in zip(at, step, strict=True))))
                    if i is not None:
                        matrix[j, k] = x.feats[i]
            rows.append(matrix.flatten(1))
            missing.append(network.stem[0](x).feats - sliced.stem[0](x).feats)
    a, lost = torch.cat(rows), torch.cat(missing)
    held = ridge * float(a.square().sum(dim=0).mean())
    # the ridge as rows of its own
    stacked = torch.cat([a, held**0.5 * torch.eye(a.shape[1], dtype=torch.float64)])
    target = torch.cat([lost, torch.zeros(a.shape[1], lost.shape[1], dtype=torch.float64)])
    expected = start + torch.linalg.lstsq(stacked, target).solution

    refits = reconstruct(network, sliced, ChannelGraph.of(network), {}, sweeps, ridge=ridge)
    assert {refit.layer for refit in refits} == {reader.name for reader in maps.group("stem.0").readers}
    assert refits[0].layer == "stem.0"
    assert refits[0].after < 0.9 * refits[0].before
    found = sliced.stem[0].weight.detach().flatten(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scope", ["map", "layer"])
def test_layers_that_change_the_stride_are_refitted_where_they_lost_offsets(scope):
    network, sweeps = _network(), _sweeps()
    maps = SharedMaps.of(network, sweeps, scope=scope)
    group = next(g for g in maps.groups if g.readers[0].name == "down.1.0")
    sliced = slice_offsets(network, maps, {group.name: (0, 3, 5, 6, 7)})
    readers = {reader.name for reader in group.readers}
    # on the way down and, in the same map, on the way up
    assert readers == ({"down.1.0", "up.2.0"} if scope == "map" else {"down.1.0"})
    refits = reconstruct(network, sliced, ChannelGraph.of(network), {}, sweeps)
    assert {refit.layer for refit in refits} == readers
    assert all(refit.after <= refit.before for refit in refits)
    assert refits[0].after < 0.9 * refits[0].before


def test_channels_that_are_not_those_of_the_sliced_network_are_refused():
    network, sweeps = _network(), _sweeps()
    graph = ChannelGraph.of(network)
    sliced = slice_channels(network, graph, {"stem.0": (0, 1), "stem.2": (0, 3)})
    with pytest.raises(RangeError, match=r"stem\.2 writes 2 channels where chosen leaves 4 of the whole"):
        reconstruct(network, sliced, graph, {"stem.0": (0, 1)}, sweeps)
    with pytest.raises(RangeError, match=r"there is no group 'stem\.7'"):
        reconstruct(network, sliced, graph, {"stem.7": (0, 1)}, sweeps)


def test_channels_and_offsets_that_are_gone_are_made_up_for_together():
    network, sweeps = _network(), _sweeps()
    graph, maps = ChannelGraph.of(network), SharedMaps.of(network, sweeps)
    chosen = {"stem.0": (0, 1, 3)}
    narrow = slice_channels(network, graph, chosen)
    sliced = slice_offsets(narrow, maps, {"encoder.3.0.conv1": (4, 13, 22)})
    with torch.no_grad():
        expected, before = network(sweeps[0]).feats, sliced(sweeps[0]).feats
    refits = reconstruct(network, sliced, graph, chosen, sweeps)
    readers = {reader.name for reader in maps.group("encoder.3.0.conv1").readers}
    assert {refit.layer for refit in refits} == {"stem.2", *readers}
    assert all(refit.after <= refit.before for refit in refits)
    with torch.no_grad():
        after = sliced(sweeps[0]).feats
    assert (after - expected).square().mean() < 0.5 * (before - expected).square().mean()


def test_a_whole_network_comes_nearer_and_only_readers_change():
    network, sweeps = _network(), _sweeps()
    graph = ChannelGraph.of(network)
    chosen = {g.name: tuple(range(0, g.width, 2)) for g in graph.free if "conv1" in g.name}
    sliced = slice_channels(network, graph, chosen).train()
    before = {name: p.clone() for name, p in sliced.named_parameters()}
    with torch.no_grad():
        expected = network(sweeps[0]).feats
        first = (sliced.eval()(sweeps[0]).feats - expected).square().mean()
    sliced.train()
    refits = reconstruct(network, sliced, graph, chosen, sweeps)
    assert sliced.training
    assert all(refit.after <= refit.before for refit in refits)
    readers = {f"{layer}.weight" for name in chosen for layer in graph.group(name).layers("in")}
    assert {f"{refit.layer}.weight" for refit in refits} == readers
    assert {n for n, p in sliced.named_parameters() if not torch.equal(p, before[n])} == readers
    with torch.no_grad():
        last = (sliced.eval()(sweeps[0]).feats - expected).square().mean()
    assert last < 0.5 * first


def _dense(name: str):
    torch.manual_seed(0)
    if name == "pillars":
        grid = PillarGrid((-4.0, 4.0), (-2.0, 2.0), (-2.0, 2.0), 0.5)
        points = (2 * torch.rand(60, 3) - 1) * torch.tensor([4.0, 2.0, 2.0])
        network = PillarBEV(PillarBEVSpec.of(grid, 3, channels=4, convs=(2, 1), head=(6,)))
        return network.eval(), (points, torch.rand(60), torch.arange(60) % 2, 2)
    if name == "odd":
        layers = [
            nn.Conv2d(2, 3, 3, padding="same", dilation=2, padding_mode="reflect"),
            nn.Conv2d(3, 2, (3, 1), stride=(1, 2), padding=(2, 0)),
        ]
        return nn.Sequential(*layers).double(), torch.randn(2, 2, 6, 5, dtype=torch.float64)
    network = (FlatCNN if name == "flat" else UpCNN)().double().eval()
    return network, torch.randn(3, *network.example_input().shape[1:], dtype=torch.float64)


@pytest.mark.parametrize("name", ["flat", "up", "pillars", "odd"])
def test_rows_of_dense_layers_times_weights_are_what_they_write(name):
    network, x = _dense(name)
    calls = []
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            part.register_forward_hook(lambda layer, given, out: calls.append((layer, given[0], out)))
    with torch.no_grad():
        network(*(x if isinstance(x, tuple) else (x,)))
        for layer, given, out in calls:
            rows = torch.cat(list(inputs_of(layer, given, out)))
            wanted = outputs_of(layer, out)
            # a transposed convolution writes its bias at each offset
            bias = (
                0 if layer.bias is None else layer.bias.repeat_interleave(wanted.shape[1] // len(layer.bias))
            )
            torch.testing.assert_close(rows @ matrix_of(layer) + bias, wanted)
            before = layer.weight.clone()
            set_matrix(layer, matrix_of(layer))
            assert torch.equal(layer.weight, before)
    assert len(calls) > 1


@pytest.mark.parametrize("name", ["flat", "up", "pillars"])
def test_dense_networks_come_nearer(name):
    network, x = _dense(name)
    graph = ChannelGraph.of(network)
    chosen = {group.name: tuple(range(0, group.width, 2)) for group in graph.free}
    sliced = slice_channels(network, graph, chosen)
    refits = reconstruct(network, sliced, graph, chosen, [x], ridge=1e-6)
    readers = {layer for name in chosen for layer in graph.group(name).layers("in")}
    assert {refit.layer for refit in refits} == readers
    assert all(refit.after <= refit.before for refit in refits)
    assert any(refit.after < 0.7 * refit.before for refit in refits)
    # what is told of the last layer is what the network does
    arguments = x if isinstance(x, tuple) else (x,)
    with torch.no_grad():
        expected, out = network(*arguments), sliced(*arguments)
    left = float((out - expected).square().sum() / expected.square().sum())
    assert refits[-1].after == pytest.approx(left, rel=1e-3)


def test_a_dense_channel_that_another_one_repeats_is_made_up_for():
    network, x = _dense("flat")
    graph = ChannelGraph.of(network)
    with torch.no_grad():
        network.second.weight[2], network.second.bias[2] = network.second.weight[0], network.second.bias[0]
    chosen = {"second": (0, 1, 3)}
    sliced = slice_channels(network, graph, chosen)
    # more images than a linear layer of 29 inputs has unknowns
    images = torch.randn(60, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (refit,) = reconstruct(network, sliced, graph, chosen, [images], ridge=0.0)
    assert refit.layer == "hidden"
    assert refit.after < 1e-12 < refit.before
    with torch.no_grad():
        torch.testing.assert_close(sliced(x), network(x), rtol=1e-5, atol=1e-6)


def test_a_transposed_convolution_that_overlaps_is_refused():
    class Net(UpCNN):
        def __init__(self, spec=UpCNN.SPEC) -> None:
            super().__init__(spec)
            self.up = nn.ConvTranspose2d(*spec["up"], 4, 2, padding=1)

    network = Net().double().eval()
    graph = ChannelGraph.of(network)
    chosen = {"down": (0, 1, 2)}
    sliced = slice_channels(network, graph, chosen)
    with pytest.raises(UnsupportedError, match=r"kernel \(4, 4\) and stride \(2, 2\) overlap"):
        reconstruct(network, sliced, graph, chosen, [network.example_input().double()])


def test_bad_settings_are_refused():
    network = _network()
    graph = ChannelGraph.of(network)
    chosen = {"stem.0": (0, 1)}
    sliced = slice_channels(network, graph, chosen)
    with pytest.raises(RangeError, match="needs sweeps"):
        reconstruct(network, sliced, graph, chosen, [])
    with pytest.raises(RangeError, match="ridge of at least 0"):
        reconstruct(network, sliced, graph, chosen, _sweeps(), ridge=-1.0)


class _Twice(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.last(self.again(self.again(self.first(x))))


def test_a_layer_that_runs_twice_is_refused():
    wide, x = _Twice(8), torch.randn(5, 3)
    graph = ChannelGraph.of(wide, x)
    chosen = {group.name: range(4) for group in graph.free}
    with pytest.raises(RangeError, match="again runs more than once in the network"):
        reconstruct(wide, _Twice(4), graph, chosen, [x])
