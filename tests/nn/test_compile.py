"""A module with a prepared cache under torch.compile: one graph, no break, any cloud size."""

import pytest
import torch
from torch import nn as torch_nn
from torch._dynamo.testing import CompileCounterWithBackend

from pcsparse import SparseTensor, nn
from pcsparse.models import MinkUNet, MinkUNetSpec
from tests.clouds import CLUMPED, TWO_BATCHES, lidar_like
from tests.tolerance import tolerance


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _unet() -> torch_nn.Module:
    return torch_nn.Sequential(
        nn.SubmanifoldConv3d(4, 6, bias=True), nn.BatchNorm(6), nn.ReLU(),
        nn.SparseConv3d(6, 6, 2, 2), nn.ResidualBlock(6, 6, 5), nn.SparseInverseConv3d(5, 3),
    )  # fmt: skip


def _tensors(network) -> list[SparseTensor]:
    # sorted, as voxelize gives them; a cloud in another row order takes a graph of its own
    tensors = []
    for coords in (CLUMPED.coords, TWO_BATCHES.coords, lidar_like(300), lidar_like(200, seed=1)):
        rng = torch.Generator().manual_seed(len(coords))
        x = SparseTensor(torch.randn(len(coords), 4, generator=rng), coords, batch_size=2)
        tensors.append(nn.prepare(network, x))
    return tensors


class _Pools(torch_nn.Module):
    """Each pooling: a local one that another follows, and the pools of whole clouds."""

    def __init__(self) -> None:
        super().__init__()
        self.local = torch_nn.Sequential(nn.MaxPool3d(2), nn.AvgPool3d(3, 1))
        self.mean, self.most = nn.GlobalAvgPool(), nn.GlobalMaxPool()

    def forward(self, x: SparseTensor) -> torch.Tensor:
        y = self.local(x)
        return torch.cat([self.mean(y), self.most(y), self.mean(x)], dim=1)


def test_pools_of_a_prepared_cloud_are_one_graph():
    network = _Pools()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for x in _tensors(network):
        assert torch.equal(compiled(x), network(x))
        graphs.append(counter.frame_count)
    assert graphs == [1] * 4


@pytest.mark.parametrize("training", [False, True])
def test_one_graph_serves_clouds_of_every_size(training):
    torch.manual_seed(0)
    network = _unet().train(training)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for x in _tensors(network):
        maps = len(x.cache)
        torch.testing.assert_close(compiled(x).feats, network(x).feats, **tolerance(torch.float32, 27 * 6))
        assert len(x.cache) == maps
        graphs.append(counter.frame_count)

    # the first cloud may be traced twice, as torch turns momentum and eps into tensors; then never again
    assert graphs[0] <= 2
    assert graphs == [graphs[0]] * 4


@pytest.mark.parametrize(
    "layer", [nn.SubmanifoldConv3d(4, 4, 3), nn.SparseConv3d(4, 4, 2, 2), nn.GlobalAvgPool()]
)
def test_a_cloud_that_was_not_prepared_is_told_so(layer):
    x = SparseTensor(torch.randn(len(CLUMPED.coords), 4), CLUMPED.coords, batch_size=1)
    with pytest.raises(Exception, match=r"call nn\.prepare\(model, x\) first"):
        torch.compile(layer, fullgraph=True, backend="eager")(x)


# torch asks each tensor between two graphs for a gradient
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("make", [_unet, _Pools])
def test_without_fullgraph_maps_are_built_between_graphs(make):
    torch.manual_seed(0)
    network = make().eval()
    feats = torch.randn(len(CLUMPED.coords), 4)
    fresh, known = (SparseTensor(feats, CLUMPED.coords, batch_size=1) for _ in range(2))
    found, expected = torch.compile(network, backend="eager")(fresh), network(known)
    if isinstance(expected, SparseTensor):
        found, expected = found.feats, expected.feats
    torch.testing.assert_close(found, expected, **tolerance(torch.float32, 27 * 6))
    assert len(fresh.cache) == len(known.cache)


def test_gradients_of_the_compiled_module():
    torch.manual_seed(0)
    network = _unet()
    (x, *_) = _tensors(network)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    wanted = torch.autograd.grad(network(x).feats.square().sum(), list(network.parameters()))
    got = torch.autograd.grad(compiled(x).feats.square().sum(), list(network.parameters()))

    for mine, theirs in zip(got, wanted, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        close = tolerance(torch.float32, len(x))
        torch.testing.assert_close(mine, theirs, rtol=close["rtol"], atol=close["atol"] * scale)


@pytest.mark.slow
def test_a_minkunet_is_one_graph():
    torch.manual_seed(0)
    network = MinkUNet(MinkUNetSpec.minkunet14(width=1 / 16)).eval()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for x in _tensors(network):
        torch.testing.assert_close(compiled(x).feats, network(x).feats, **tolerance(torch.float32, 1000))
        graphs.append(counter.frame_count)
    assert graphs == [graphs[0]] * 4
