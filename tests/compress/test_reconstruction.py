"""Least-squares reconstruction: against a plain solver on an explicit matrix, and where it is exact."""

import pytest
import torch
from torch import nn

from pcsparse import SparseTensor
from pcsparse.compress.channels import slice_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.reconstruction import reconstruct
from pcsparse.errors import RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNorm
from tests.clouds import PLANE, TWO_BATCHES


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


def test_bad_settings_are_refused():
    network = _network()
    graph = ChannelGraph.of(network)
    chosen = {"stem.0": (0, 1)}
    sliced = slice_channels(network, graph, chosen)
    with pytest.raises(RangeError, match="needs sweeps"):
        reconstruct(network, sliced, graph, chosen, [])
    with pytest.raises(RangeError, match="ridge of at least 0"):
        reconstruct(network, sliced, graph, chosen, _sweeps(), ridge=-1.0)
