"""Cost of dense networks: counts by hand, the widths of slices, and a search space of it."""

import pytest
import torch
from torch import nn

from pcsparse import SparseTensor, timing
from pcsparse.compress import cost_dense
from pcsparse.compress.channel_scores import channel_scores
from pcsparse.compress.channels import slice_channels
from pcsparse.compress.cost import CostTable
from pcsparse.compress.cost_dense import measure_dense_cost
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.uniform import Uniform
from pcsparse.compress.space_of import kept_of, network_of, space_of
from pcsparse.coords.pillars import PillarGrid
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.models import PillarBEV, PillarBEVSpec, PlainCNN, PlainCNNSpec
from tests.compress.networks import FlatCNN, UpCNN


@pytest.fixture(scope="module")
def environment():
    return timing.environment()


@pytest.fixture(autouse=True)
def one_look_at_the_machine(monkeypatch, environment):
    monkeypatch.setattr(cost_dense, "environment", lambda: environment)


def _table(model: nn.Module, x: torch.Tensor, multiple: int = 1) -> CostTable:
    return measure_dense_cost(model, x, multiple=multiple, step=1000, runs=1)


def test_multiply_adds_by_hand():
    table = _table(FlatCNN(), torch.zeros(3, 3, 12, 12))
    macs = {layer.name: layer.macs(layer.c_in, layer.c_out) for layer in table.layers}
    # three images; 3 x 3 kernels on 144 places, the second behind no pool
    assert macs["first"] == 3 * 144 * 9 * 3 * 6
    assert macs["second"] == 3 * 144 * 9 * 6 * 4
    assert (macs["beside"], macs["hidden"], macs["last"]) == (3 * 6 * 2, 3 * 38 * 8, 3 * 8 * 5)
    assert macs["norm1"] == macs["norm2"] == 0
    up = {layer.name: layer for layer in _table(UpCNN(), torch.zeros(1, 2, 8, 4)).layers}
    assert up["down"].macs(6, 8) == 8 * 4 * 6 * 8
    # each of the 8 places that it reads is written to 4
    assert up["up"].macs(8, 5) == 8 * 4 * 8 * 5
    assert (up["up"].n_in, up["up"].n_out, up["up"].k) == (8, 32, 4)
    assert (up["down"].stride, up["up"].stride) == (2, 1)


def test_published_multiply_adds():
    # by hand: 3 x 3 kernels on 32^2, 16^2 and 8^2 places
    model = PlainCNN(PlainCNNSpec.plain20())
    table = _table(model, model.example_input(), multiple=16)
    stages = 6 * 1024 * 16 * 16 + 256 * (16 * 32 + 5 * 32 * 32) + 64 * (32 * 64 + 5 * 64 * 64)
    assert table.total("MACs") == 9 * (1024 * 3 * 16 + stages) + 64 * 10
    assert table.total("bytes") == 4 * sum(p.numel() for p in model.parameters())


def test_networks_on_points_are_counted_too(rng):
    grid = PillarGrid((-4.0, 4.0), (-2.0, 2.0), (-2.0, 2.0), 0.5)
    model = PillarBEV(PillarBEVSpec.of(grid, 3, channels=4, convs=(1, 1), head=(6,)))
    points = (2 * torch.rand(50, 3, generator=rng) - 1) * torch.tensor([4.0, 2.0, 2.0])
    x = points, torch.rand(50, generator=rng), torch.zeros(50, dtype=torch.int64), 1
    table = measure_dense_cost(model, x, multiple=2, step=1000, runs=1)
    macs = {layer.name: layer.macs(layer.c_in, layer.c_out) for layer in table.layers}
    assert macs["pillars.linear"] == 50 * 9 * 4
    # 16 by 8 pillars, 8 by 4 cells
    assert (macs["blocks.0.0"], macs["blocks.1.0"]) == (32 * 9 * 4 * 4, 8 * 9 * 4 * 8)
    assert (macs["up.1.0"], macs["head.3"]) == (8 * 4 * 8 * 8, 32 * 6 * 3)
    norms = [layer for layer in table.layers if layer.kind == "norm"]
    assert [(layer.name, layer.n_out) for layer in norms[:2]] == [("pillars.norm", 50), ("blocks.0.1", 32)]


def test_weights_of_a_layer_that_is_called_again_count_once():
    conv, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    net = nn.Sequential(nn.Conv2d(2, 4, 1), conv, norm, conv, norm, nn.Conv2d(4, 1, 1)).eval()
    x = torch.zeros(1, 2, 6, 6)
    table = measure_dense_cost(net, x, graph=ChannelGraph.of(net, x), runs=1)
    assert table.total("bytes") == 4 * sum(p.numel() for p in net.parameters())
    assert table.total("MACs") == 36 * (2 * 4 + 2 * 9 * 4 * 4 + 4)


def test_layers_that_get_their_input_by_name_are_counted():
    class Named(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[1](input=self[0](input=x))

    net = Named(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 1, 1)).eval()
    assert _table(net, torch.zeros(1, 2, 6, 6)).total("MACs") == 36 * (2 * 9 * 4 + 4)


def test_what_lives_at_once_by_hand():
    net = nn.Sequential(nn.Conv2d(2, 5, 1), nn.Conv2d(5, 1, 1)).eval()
    # the graph is read on the input that is there
    table = measure_dense_cost(net, torch.zeros(1, 2, 4, 4), runs=1)
    assert table.peak_bytes == 4 * 16 * (2 + 5 + 1)
    assert table.least_ms is None


@pytest.mark.parametrize("make", [FlatCNN, UpCNN])
def test_widths_of_a_slice_cost_what_the_slice_costs(make):
    net = make().eval()
    graph, x = ChannelGraph.of(net), net.example_input()
    table = _table(net, x)
    kept = {group.name: range(1, 1 + group.width // 2) for group in graph.free}
    widths = graph.widths({name: len(channels) for name, channels in kept.items()})
    sliced = _table(slice_channels(net, graph, kept), x)
    for unit in ("MACs", "bytes"):
        assert table.total(unit, widths) == sliced.total(unit)
    # all widths that a group may have were timed
    assert table.total("ms", graph.widths({group.name: 1 for group in graph.free})) > 0
    assert table.least_ms > 0


def test_a_search_finds_half_of_the_multiply_adds(rng):
    torch.manual_seed(0)
    model = PlainCNN(PlainCNNSpec.of(3, 4, width=0.5, blocks=(1, 1, 1), residual=True)).eval()
    graph, x = ChannelGraph.of(model), torch.randn(2, 3, 8, 8, generator=rng)
    table = measure_dense_cost(model, x, graph=graph, multiple=2, step=1000, runs=1)
    space = space_of(graph, table, "MACs", ratios=(0.25, 0.5, 0.75), multiple=2)
    scores = channel_scores(model, graph)
    with torch.no_grad():
        expected = model(x)

    def evaluate(assignment) -> float:
        with torch.no_grad():
            found = network_of(model, graph, scores, space, assignment)(x)
        return float(1.0 / (1.0 + (found - expected).abs().mean()))

    result = search(space, evaluate, 0.5 * space.cost(space.largest), 4, method=Uniform())
    slim = network_of(model, graph, scores, space, result.best.widths)
    assert _table(slim, x).total("MACs") == result.best.cost <= 0.5 * table.total("MACs")
    assert {g.name: g.width for g in ChannelGraph.of(slim).free} == kept_of(space, result.best.widths)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(RangeError, match="must be at least 1, got multiple=0"):
        measure_dense_cost(UpCNN(), torch.zeros(1, 2, 4, 4), multiple=0)
    x = SparseTensor(torch.zeros(1, 2), torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(UnsupportedError, match=r"use compress\.cost_measure"):
        measure_dense_cost(UpCNN(), x)
