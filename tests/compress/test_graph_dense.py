"""The channel graph of dense networks: folded maps, layouts of weights, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pcsparse.compress.channel_scores import channel_scores
from pcsparse.compress.channels import mask_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.space_of import _places
from pcsparse.errors import UnsupportedError
from pcsparse.models import PlainCNN, PlainCNNSpec
from tests.compress.networks import FlatCNN, UpCNN


def _slots(graph: ChannelGraph, name: str) -> list[str]:
    return [str(slot) for slot in graph.group(name).slots]


def test_a_residual_network_ties_its_stages():
    graph = ChannelGraph.of(PlainCNN(PlainCNNSpec.resnet20()))
    assert graph.group("stem.0").layers("out") == ("stem.0", *(f"blocks.{i}.conv2" for i in range(3)))
    assert graph.group("blocks.3.conv2").layers("out") == (
        "blocks.3.conv2", "blocks.3.shortcut.0", "blocks.4.conv2", "blocks.5.conv2",
    )  # fmt: skip
    assert graph.group("blocks.8.conv1").layers("in") == ("blocks.8.conv2",)
    follows = {layer.name: layer.follows for layer in graph.layers if layer.kind == "norm"}
    assert follows["blocks.3.shortcut.1"] == "blocks.3.shortcut.0"
    fixed = {group.name: group.fixed for group in graph.groups if group.fixed}
    assert fixed == {"input": "the network's input", "classifier": "the network's output"}


def test_a_plain_network_ties_nothing():
    graph = ChannelGraph.of(PlainCNN(PlainCNNSpec.plain20()))
    assert len(graph.free) == 19
    assert all(len(group.layers("out")) == 1 for group in graph.free)


def test_a_flattened_map_takes_all_its_places_along():
    graph = ChannelGraph.of(FlatCNN())
    assert _slots(graph, "second") == [
        "second out 0-3", "norm2 norm 0-35, 9 a channel", "hidden in 0-35, 9 a channel",
    ]  # fmt: skip
    assert _slots(graph, "beside") == ["beside out 0-1", "norm2 norm 36-37", "hidden in 36-37"]
    slot = graph.group("second").slots[2]
    assert (slot.channels, slot.fold) == ((0, 9, 18, 27), 9)
    assert slot.positions([1, 3]) == [*range(9, 18), *range(27, 36)]
    kept = graph.widths({"second": 3, "beside": 1})
    assert (kept["hidden"], kept["norm2"], kept["second"]) == ((28, 8), (28, 28), (6, 3))
    assert _places("hidden", "in", graph) == {"second": 9, "beside": 1}


def test_a_concatenation_of_maps_shifts_offsets():
    graph = ChannelGraph.of(UpCNN())
    assert _slots(graph, "up") == ["up out 0-4", "norm norm 0-4", "beside out 0-4", "head in 0-4"]
    assert _slots(graph, "stem")[-2:] == ["beside out 5-10", "head in 5-10"]
    assert _slots(graph, "side") == ["side out 0-2", "beside out 11-13", "head in 11-13"]


def test_folded_rows_and_folded_places_differ():
    class Order(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 3, 1), nn.Linear(12, 2)

        def forward(self, x):
            x = self.conv(x)
            return self.last(x.permute(0, 2, 3, 1).reshape(len(x), -1))

    # channels last: each channel is every third input
    graph = ChannelGraph.of(Order(), torch.zeros(2, 1, 2, 2))
    assert _slots(graph, "conv") == ["conv out 0-2", *(f"last in {i}-{i + 2}" for i in range(0, 12, 3))]
    assert graph.widths({"conv": 2})["last"] == (8, 2)


def test_scores_of_dense_layers_by_hand():
    net = FlatCNN().double()
    up = UpCNN().double()
    flat = channel_scores(net, ChannelGraph.of(net), "max_response")["second"]
    into = net.hidden.weight.detach()
    expected = [float(into[:, 9 * c : 9 * c + 9].abs().sum()) for c in range(4)]
    assert flat.tolist() == pytest.approx(expected)
    # one norm of all nine inputs of a channel, not nine norms
    made = net.second.weight.detach()
    expected = [float(made[c].norm() + into[:, 9 * c : 9 * c + 9].norm()) for c in range(4)]
    assert channel_scores(net, ChannelGraph.of(net))["second"].tolist() == pytest.approx(expected)
    normed = nn.Sequential(net.second, nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2)).double()
    nn.init.normal_(normed[2].weight)
    expected = normed[2].weight.detach().abs().view(4, 4).sum(dim=1).tolist()
    graph = ChannelGraph.of(normed, torch.zeros(1, 6, 2, 2))
    assert channel_scores(normed, graph, "batchnorm")["0"].tolist() == pytest.approx(expected)

    # a transposed convolution has its inputs first
    found = channel_scores(up, ChannelGraph.of(up), "max_response")["down"]
    expected = up.up.weight.abs().sum(dim=(1, 2, 3)) + up.side.weight.abs().sum(dim=(0, 2, 3))
    assert found.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("make", [FlatCNN, UpCNN])
def test_taylor_is_the_change_of_the_loss(rng, make):
    torch.manual_seed(0)
    net = make().double().eval()
    graph = ChannelGraph.of(net)
    x = torch.randn(2, *net.example_input().shape[1:], generator=rng, dtype=torch.float64)

    def loss(model):
        return model(x).square().mean()

    name = {FlatCNN: "second", UpCNN: "up"}[make]
    found = channel_scores(net, graph, "taylor", lambda model: [loss(model)])[name]
    # the tensor behind the gates, by hooks: sum of value times gradient
    seen = []
    gate = {FlatCNN: net.norm2 if make is FlatCNN else None, UpCNN: net.norm if make is UpCNN else None}[make]
    handle = gate.register_forward_hook(lambda part, given, out: seen.append(out) or out.retain_grad())
    loss(net).backward()
    handle.remove()
    terms = (seen[0] * seen[0].grad).detach()
    sums = terms.sum(dim=0)[:36].view(4, 9).sum(dim=1) if make is FlatCNN else terms.sum(dim=(0, 2, 3))
    torch.testing.assert_close(found, sums.square())


class _Odd(nn.Module):
    """Does something to maps of four channels that the graph was not taught."""

    def __init__(self, odd) -> None:
        super().__init__()
        self.conv, self.odd, self.head = nn.Conv2d(2, 4, 3), odd, nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.odd(self.conv(x)))


class _Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (_Shuffle(), r"aten\.view\.default in odd \(_Shuffle\)"),
        (nn.Softmax(dim=1), r"aten\._softmax\.default in odd \(Softmax\)"),
        (nn.Sigmoid(), r"aten\.sigmoid\.default in odd \(Sigmoid\)"),
        (nn.GroupNorm(2, 4), r"in odd \(GroupNorm\)"),
        (nn.Conv2d(4, 4, 3, groups=4), r"odd is a Conv2d of 4 groups"),
        (nn.PReLU(4), r"in odd \(PReLU\)"),
        (lambda x: x.flip(1), r"aten\.flip\.default in the network \(_Odd\)"),
        (lambda x: x + 1.0, r"aten\.add\.Tensor in the network"),
        (lambda x: x + torch.ones(4, 1, 1, device="meta"), r"aten\.add\.Tensor"),
        (lambda x: x * torch.ones(4, 1, 1, device="meta"), r"aten\.mul\.Tensor"),
        (lambda x: 1.0 / x, r"aten\.reciprocal\.default"),
        (lambda x: x / x, r"aten\.div\.Tensor"),
        (lambda x: torch.cat([x[:, :2], x[:, 2:]], dim=1), r"aten\.slice"),
        (lambda x: torch.cat([x[:, :3], torch.ones_like(x[:, :1])], dim=1), r"aten\.slice"),
        (lambda x: x - x.mean(dim=1, keepdim=True), r"aten\.mean\.dim"),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 1, -1)), r"aten\.constant_pad_nd"),
        (lambda x: functional.pad(x, (1, 1), value=1.0), r"aten\.constant_pad_nd"),
        (lambda x: functional.hardtanh(x, 0.5, 1.0), r"aten\.hardtanh"),
        (lambda x: torch.zeros_like(x).fill_(1.0).index_copy(
            0, torch.zeros(1, dtype=torch.int64, device="meta"), x), r"aten\.index_copy"),
        (lambda x: x[:, :, :4].transpose(1, 2), r"what head reads is a tensor .* along dimension 2, not 1"),
        (lambda x: functional.conv2d(x, torch.ones(4, 4, 1, 1, device="meta")), r"aten\.convolution"),
    ],
)  # fmt: skip
def test_an_unknown_operator_is_named_with_its_place(odd, named):
    with pytest.raises(UnsupportedError, match=named):
        ChannelGraph.of(_Odd(odd), torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize(
    "harmless",
    [
        lambda x: functional.relu6(x).mul(0.5) / 3.0,
        lambda x: x * torch.ones(8, 1, device="meta")[:6],
        lambda x: torch.cat([x[:, :, :3], x[:, :, 3:]], dim=2),
        lambda x: functional.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).flatten(1, 2).unflatten(1, (8, 8))
        .permute(0, 3, 1, 2).contiguous(),
        lambda x: torch.zeros_like(x).index_copy(0, torch.zeros(1, dtype=torch.int64, device="meta"), x),
        lambda x: functional.interpolate(functional.max_pool2d(x, 2), size=(6, 6), mode="bilinear"),
        lambda x: x.amax(dim=(2, 3), keepdim=True).expand(-1, -1, 3, 3),
    ],
)  # fmt: skip
def test_what_treats_every_channel_alike_passes(harmless):
    graph = ChannelGraph.of(_Odd(harmless), torch.zeros(1, 2, 8, 8))
    assert _slots(graph, "conv") == ["conv out 0-3", "head in 0-3"]


def test_anything_may_be_done_to_the_input():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(7, 2, 1)

        def forward(self, x):
            x = torch.cat([x.softmax(dim=1)[:, :2] + 1.0, x[:, 2:]], dim=1)
            return self.head(torch.cat([self.conv(x), x], dim=1))

    graph = ChannelGraph.of(Scaled(), torch.zeros(1, 3, 2, 2))
    assert [group.name for group in graph.free] == ["conv"]
    assert {g.fixed for g in graph.groups if g.fixed} == {"the network's input", "the network's output"}
    assert _slots(graph, "conv") == ["conv out 0-3", "head in 0-3"]


def test_a_sum_with_the_input_must_stay():
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.head(self.conv(x) + x)

    graph = ChannelGraph.of(Added(), torch.zeros(1, 3, 2, 2))
    assert not graph.free
    assert graph.group("input").layers("out") == ("conv",)


def test_a_mask_of_a_transposed_convolution_zeros_its_outputs(rng):
    net = UpCNN().double().eval()
    mask_channels(net, ChannelGraph.of(net), {"up": (0, 2, 3, 4)})
    x = torch.randn(1, 8, 2, 2, generator=rng, dtype=torch.float64)
    out = net.norm(net.up(x))
    assert [bool(out[:, c].any()) for c in range(5)] == [True, False, True, True, True]


def test_networks_that_do_not_run_are_refused():
    with pytest.raises(
        UnsupportedError, match="PlainCNN does not run on a Tensor of features without values"
    ):
        ChannelGraph.of(PlainCNN(PlainCNNSpec.plain20()), torch.zeros(1, 5, 8, 8))
    with pytest.raises(UnsupportedError, match="PlainCNN does not run on a str, so its channels"):
        ChannelGraph.of(PlainCNN(PlainCNNSpec.plain20()), ("image",))
