"""Channel pruning: sliced is masked for every group, scores by hand, and what is refused."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from pcsparse import SparseTensor
from pcsparse.compress.channel_scores import channel_scores
from pcsparse.compress.channels import (
    choose_channels,
    kept_widths,
    mask_channels,
    prune_channels,
    slice_channels,
)
from pcsparse.compress.finetune import Rounds
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.pruning_channels import ChannelPruning, PrunableChannels
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNorm, BatchNormReLU, ReLU, SubmanifoldConv3d, fuse
from pcsparse.train.model_file import arch_of, build_arch
from tests.clouds import TWO_BATCHES
from tests.compress.networks import TwoHeads
from tests.tolerance import tolerance

SIZES = {"14": MinkUNetSpec.minkunet14, "18": MinkUNetSpec.minkunet18, "34": MinkUNetSpec.minkunet34}


def _network(make=MinkUNetSpec.minkunet14, width: float = 1 / 8) -> MinkUNet:
    """In float64 and evaluation mode; norms change what they are given and leave no channel dead."""
    torch.manual_seed(0)
    network = MinkUNet(make(in_channels=3, n_classes=5, width=width)).double()
    for part in network.modules():
        if isinstance(part, BatchNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, 0.0, 0.5)
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return network.eval()


def _input(rng) -> SparseTensor:
    feats = torch.randn(len(TWO_BATCHES.coords), 3, generator=rng, dtype=torch.float64)
    return SparseTensor(feats, TWO_BATCHES.coords, batch_size=TWO_BATCHES.batch_size)


def _masked(network: MinkUNet, graph: ChannelGraph, chosen) -> MinkUNet:
    masked = MinkUNet(network.spec).double().eval()
    masked.load_state_dict(network.state_dict())
    mask_channels(masked, graph, chosen)
    return masked


@pytest.mark.parametrize(("size", "at_once"), [("14", 1), ("18", 5), ("34", 9)])
def test_sliced_is_masked_for_every_group(rng, size, at_once):
    # each group alone in the smallest network; a few neighbours together in the others, which repeat it
    network, x = _network(SIZES[size]), _input(rng)
    graph = ChannelGraph.of(network)
    with torch.no_grad():
        dense = network(x).feats
    masked = MinkUNet(network.spec).double().eval()
    close = tolerance(torch.float64, terms=2000, factor=1000)
    assert close["atol"] < 1e-9
    for first in range(0, len(graph.free), at_once):
        # not the first channels: a slice by prefix would pass
        chosen = {
            group.name: tuple(i for i in range(group.width) if i % 3 != 1)
            for group in graph.free[first : first + at_once]
        }
        sliced = slice_channels(network, graph, chosen)
        masked.load_state_dict(network.state_dict())
        mask_channels(masked, graph, chosen)
        with torch.no_grad():
            out, expected = sliced(x).feats, masked(x).feats
        torch.testing.assert_close(out, expected, **close, msg=lambda t, c=chosen: f"{list(c)}: {t}")
        assert not torch.allclose(out, dense, **close), f"{list(chosen)} did not matter"
        widths = graph.widths({name: len(kept) for name, kept in chosen.items()})
        assert sliced.spec == network.spec.with_channels(
            {layer.name: widths[layer.name] for layer in graph.layers if layer.kind != "norm"}
        )


@pytest.mark.parametrize("make", SIZES.values(), ids=SIZES.keys())
def test_sliced_is_masked_for_all_groups_at_once(rng, make):
    network, x = _network(make, width=1 / 4), _input(rng)
    graph = ChannelGraph.of(network)
    chosen = {
        group.name: tuple(sorted(torch.randperm(group.width, generator=rng)[: 1 + group.width // 2].tolist()))
        for group in graph.free
    }
    sliced, masked = slice_channels(network, graph, chosen), _masked(network, graph, chosen)
    close = tolerance(torch.float64, terms=2000, factor=1000)
    torch.testing.assert_close(sliced(x).feats, masked(x).feats, **close)
    # another graph of the sliced network has the same groups
    again = ChannelGraph.of(sliced)
    assert {g.name: g.width for g in again.free} == {name: len(kept) for name, kept in chosen.items()}


def test_a_projected_block_that_becomes_square_keeps_its_convolution(rng):
    network = _network(width=1 / 4)
    graph = ChannelGraph.of(network)
    assert network.spec.encoder[1].blocks[0].projected is None
    # 8 -> 16 becomes 8 -> 8
    chosen = {"encoder.1.0.conv2": tuple(range(8))}
    sliced = slice_channels(network, graph, chosen)
    assert sliced.encoder[1][0].conv1.c_in == sliced.encoder[1][0].conv2.c_out == 8
    assert isinstance(sliced.encoder[1][0].shortcut, nn.Sequential)
    again = MinkUNetSpec.from_json(sliced.spec.to_json())
    MinkUNet(again).load_state_dict(sliced.state_dict())


def test_a_sliced_network_goes_through_a_model_card():
    sliced = prune_channels(_network(), 0.5, multiple=1)
    arch = json.loads(json.dumps(arch_of(sliced, 5)))
    build_arch(arch).load_state_dict(sliced.state_dict())
    assert sum(p.numel() for p in sliced.parameters()) < 0.4 * sum(p.numel() for p in _network().parameters())


def test_what_is_sliced_shares_nothing_with_the_original():
    network = _network().train()
    network.classifier.bias.requires_grad_(False)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    sliced = prune_channels(network, {"stem.0": 0.5}, multiple=1)
    assert sliced.training
    assert not sliced.classifier.bias.requires_grad
    assert sliced.classifier.weight.requires_grad
    with torch.no_grad():
        for tensor in sliced.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_widths_are_rounded_up_to_multiples():
    graph = ChannelGraph.of(MinkUNet(MinkUNetSpec.minkunet14(width=0.5)))
    widths = kept_widths(graph, {"stem.0": 0.01, "up.3.0": 0.7, "encoder.3.0.conv2": 50, "up.2.0": 1.0})
    assert (widths["stem.0"], widths["up.3.0"], widths["encoder.3.0.conv2"]) == (8, 40, 56)
    assert (widths["up.2.0"], widths["stem.2"]) == (48, 16)
    # 0.7 of 128 is 89.6
    assert kept_widths(graph, 0.7, 16)["encoder.3.0.conv2"] == 96
    assert kept_widths(graph, 0.75, 1)["stem.0"] == 12
    # a group narrower than the multiple stays
    assert set(kept_widths(graph, 0.1, 512).values()) == {group.width for group in graph.free}


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, float("nan"), {"stem.0": 0}, {"stem.0": 17}])
def test_shares_and_widths_out_of_range_are_refused(keep):
    graph = ChannelGraph.of(MinkUNet(MinkUNetSpec.minkunet14(width=0.5)))
    with pytest.raises(RangeError, match=r"must be in \(0, 1\]|it cannot keep"):
        kept_widths(graph, keep)


def test_groups_that_must_stay_are_refused():
    graph = ChannelGraph.of(_network())
    with pytest.raises(RangeError, match="'classifier' is the network's output"):
        kept_widths(graph, {"classifier": 0.5})
    with pytest.raises(RangeError, match="no group 'nothing'"):
        kept_widths(graph, {"nothing": 0.5})
    with pytest.raises(RangeError, match="'input' is the network's input"):
        mask_channels(_network(), graph, {"input": (0,)})
    with pytest.raises(RangeError, match=r"must ascend within 0 \.\.\. 3"):
        mask_channels(_network(), graph, {"stem.0": (1, 0)})


def test_a_network_without_a_spec_is_refused():
    net = nn.Sequential(SubmanifoldConv3d(2, 4, 3), SubmanifoldConv3d(4, 2, 3))
    with pytest.raises(UnsupportedError, match="has no Spec with a method with_channels"):
        prune_channels(net, 0.5, multiple=1)


def test_a_fused_network_is_refused():
    with pytest.raises(UnsupportedError, match=r"layers of MinkUNet are not those of its Spec.*before fuse"):
        prune_channels(fuse(_network()), 0.5, multiple=1)


def test_a_layer_that_did_not_run_is_refused_where_channels_go():
    net = TwoHeads().eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    graph = ChannelGraph.of(net)
    with pytest.raises(UnsupportedError, match=r"^aux\.1, pretrained\.0, pretrained\.1 did not run.*unused="):
        prune_channels(net, 0.5, multiple=1)
    for change in (slice_channels, mask_channels):
        with pytest.raises(UnsupportedError, match=r"did not run.*training=True"):
            change(net, graph, {"conv": (0, 3)})
        # nothing goes
        change(net, graph, {"conv": range(6)})
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_network_with_such_a_head_is_searched_and_tuned(rng):
    net, x = TwoHeads().eval(), _input(rng)
    x = x.replace(x.feats[:, :2].float())

    def graph_of(network):
        return ChannelGraph.of(network, x, training=True, unused=["pretrained"])

    prunable = PrunableChannels(net, ChannelPruning((0.0, 0.5), 1), graph_of=graph_of)
    prunable.measure([x], step=3, runs=1)
    space = prunable.space("MACs")
    assert prunable.networks(space)(space.smallest).aux[1].weight.shape == (4, 3)
    seen = []
    tuned = prunable.tune(
        space, space.smallest, lambda network, lr: seen.append(lr), Rounds(lr=0.1, n=2), None
    )
    assert len(seen) == 2
    assert tuned.aux[1].weight.shape == (4, 3)


def test_a_head_that_runs_in_training_only_is_sliced_too(rng):
    net = TwoHeads().double().eval()
    x = _input(rng)
    x = x.replace(x.feats[:, :2])
    graph = ChannelGraph.of(net, x, training=True, unused=["pretrained"])
    small, masked = slice_channels(net, graph, {"conv": (0, 3)}), TwoHeads().double().eval()
    masked.load_state_dict(net.state_dict())
    mask_channels(masked, graph, {"conv": (0, 3)})
    assert torch.equal(small.aux[1].weight, net.aux[1].weight[:, [0, 3]])
    assert torch.equal(small.pretrained[0].weight, net.pretrained[0].weight)
    for network in (small, masked):
        network.train().aux[0].eval()
    with torch.no_grad():
        ours, theirs = small(x), masked(x)
    close = tolerance(torch.float64, terms=60, factor=100)
    torch.testing.assert_close(ours["out"].feats, theirs["out"].feats, **close)
    torch.testing.assert_close(ours["aux"], theirs["aux"], **close)


def test_the_highest_scores_stay_and_of_equal_ones_the_first():
    scores = {"a": torch.tensor([1.0, 3.0, 2.0, 3.0]), "b": torch.ones(3)}
    assert choose_channels(scores, {"a": 2, "b": 2}) == {"a": (1, 3), "b": (0, 1)}


def test_a_mask_reaches_norms_without_scale_and_shift(rng):
    net = nn.Sequential(
        SubmanifoldConv3d(3, 4, 3), BatchNormReLU(4, affine=False), SubmanifoldConv3d(4, 2, 3)
    ).double()
    # a mean below zero would let a masked channel through the ReLU
    net[1].running_mean.fill_(-0.5)
    net.eval()
    mask_channels(net, ChannelGraph.of(net), {"0": (0, 3)})
    with torch.no_grad():
        between = net[:2](_input(rng)).feats
    assert not bool(between[:, [1, 2]].any())
    assert bool(between[:, [0, 3]].any())


def test_weights_made_by_a_parametrisation_are_refused():
    network = _network()
    graph = ChannelGraph.of(network)
    parametrizations.weight_norm(network.stem[2])
    before = {name: t.clone() for name, t in network.state_dict().items()}
    for change in (slice_channels, mask_channels):
        with pytest.raises(UnsupportedError, match=r"weights of stem\.2 are made by a parametrisation"):
            change(network, graph, {"stem.0": (0, 1), "stem.2": (0, 1)})
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def _pair() -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(SubmanifoldConv3d(2, 3, 3), BatchNormReLU(3), SubmanifoldConv3d(3, 2, 3)).double()
    nn.init.uniform_(net[1].weight, -1.0, 1.0)
    nn.init.uniform_(net[1].bias, -0.5, 0.5)
    nn.init.uniform_(net[1].running_var, 0.5, 2.0)
    return net.eval()


def test_magnitude_and_scale_by_hand():
    net = _pair()
    graph = ChannelGraph.of(net)
    made, scale = net[0].weight.detach(), net[1].weight.detach()
    into = net[2].weight.detach()
    expected = []
    for c in range(3):
        factor = abs(float(scale[c])) / (float(net[1].running_var[c]) + net[1].eps) ** 0.5
        expected.append(float(made[:, :, c].square().sum()) ** 0.5 * factor)
        expected[-1] += float(into[:, c].square().sum()) ** 0.5
    assert channel_scores(net, graph)["0"].tolist() == pytest.approx(expected)
    response = [float(into[:, c].abs().sum()) for c in range(3)]
    assert channel_scores(net, graph, "max_response")["0"].tolist() == pytest.approx(response)
    assert channel_scores(net, graph, "batchnorm")["0"].tolist() == pytest.approx(scale.abs().tolist())


@pytest.mark.parametrize("with_norm", [True, False], ids=["norm", "no-norm"])
def test_taylor_is_the_derivative_by_a_gate(rng, with_norm):
    net = _pair()
    if not with_norm:
        net = nn.Sequential(SubmanifoldConv3d(2, 3, 3, bias=True), ReLU(), net[2]).double()
    graph = ChannelGraph.of(net)
    inputs = [_input(rng).replace(_input(rng).feats[:, :2]) for _ in range(2)]
    net[0].weight.grad = torch.ones_like(net[0].weight)

    def losses(model):
        return (model(x).feats.square().mean() for x in inputs)

    found = channel_scores(net, graph, "taylor", losses)["0"]
    expected = torch.zeros(3, dtype=torch.float64)
    for x in inputs:
        for c in range(3):
            # a factor on the channel, between the norm and the ReLU, by central differences
            def loss(factor: float, x=x, c=c) -> float:
                gate = torch.ones(3, dtype=torch.float64)
                gate[c] = factor
                y = net[0](x)
                y = BatchNorm.forward(net[1], y) if with_norm else y
                with torch.no_grad():
                    return float(net[2](y.replace(torch.relu(y.feats * gate))).feats.square().mean())

            expected[c] += ((loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5) ** 2
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    # gradients of the caller come back
    assert bool((net[0].weight.grad == 1).all())


def test_gradients_that_frozen_parameters_had_do_not_count(rng):
    net, graph = _pair(), ChannelGraph.of(_pair())
    x = _input(rng)
    x = x.replace(x.feats[:, :2])

    def losses(model):
        return [model(x).feats.square().mean()]

    net[1].bias.requires_grad_(False)
    expected = channel_scores(net, graph, "taylor", losses)["0"]
    # as a training before it was frozen leaves it
    net[1].bias.grad = torch.full_like(net[1].bias, 100.0)
    assert torch.equal(channel_scores(net, graph, "taylor", losses)["0"], expected)
    assert bool((net[1].bias.grad == 100).all())
    net[1].requires_grad_(False)
    with pytest.raises(RangeError, match="of group '0' gets a gradient"):
        channel_scores(net, graph, "taylor", losses)


def test_a_norm_that_is_frozen_stays_so_when_losses_are_run(rng):
    net = _pair().train()
    net[1].eval()
    x = _input(rng)
    x = x.replace(x.feats[:, :2])
    channel_scores(net, ChannelGraph.of(net), "taylor", lambda model: [model(x).feats.square().mean()])
    assert [part.training for part in net] == [True, False, True]
    assert net.training


def test_scores_that_cannot_be_had_say_why():
    graph = ChannelGraph.of(_network())
    with pytest.raises(RangeError, match="needs losses="):
        channel_scores(_network(), graph, "taylor")
    with pytest.raises(RangeError, match="score must be one of magnitude, max_response, batchnorm, taylor"):
        channel_scores(_network(), graph, "size")
    net = nn.Sequential(SubmanifoldConv3d(2, 3, 3), SubmanifoldConv3d(3, 2, 3))
    with pytest.raises(RangeError, match="no batch norm with a scale"):
        channel_scores(net, ChannelGraph.of(net), "batchnorm")
    # a generator that is spent, and gates that are not trained, would make all channels equal
    pair = _pair()
    with pytest.raises(RangeError, match="losses= yielded nothing"):
        channel_scores(pair, ChannelGraph.of(pair), "taylor", lambda model: iter(()))
    pair[1].requires_grad_(False)
    x = _input(torch.Generator().manual_seed(0))
    x = x.replace(x.feats[:, :2])
    with pytest.raises(RangeError, match=r"of group '0' gets a gradient.*requires_grad"):
        channel_scores(pair, ChannelGraph.of(pair), "taylor", lambda model: [model(x).feats.sum()])
    pair.requires_grad_(False)
    with pytest.raises(RangeError, match="leads back to no parameter that requires a gradient"):
        channel_scores(pair, ChannelGraph.of(pair), "taylor", lambda model: [model(x).feats.sum()])
    broken = _network()
    with torch.no_grad():
        broken.stem[0].weight[0, 0, 0] = float("nan")
    with pytest.raises(RangeError, match=r"scores of group 'stem\.0' are not finite"):
        channel_scores(broken, graph)
