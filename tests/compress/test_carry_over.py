"""What neither Spec nor weights say stays with a network that is cut, along every axis."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm

from pcsparse import SparseTensor
from pcsparse.compress.channels import choose_channels, mask_channels, slice_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.offset_scores import offset_scores
from pcsparse.compress.offsets import choose_offsets, kept_counts, mask_offsets, slice_offsets
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.compress.voxels import prune_voxels
from pcsparse.compress.weights import prune_weights
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNorm, Linear, SubmanifoldConv3d
from tests.clouds import PLANE, TWO_BATCHES


def _channels(network, x):
    graph = ChannelGraph.of(network)
    scores = {group.name: torch.arange(float(group.width)) for group in graph.free}
    chosen = choose_channels(scores, {name: len(score) // 2 for name, score in scores.items()})
    masked = copy.deepcopy(network)
    mask_channels(masked, graph, chosen)
    return slice_channels(network, graph, chosen), masked


def _offsets(network, x):
    maps = SharedMaps.of(network, [x])
    chosen = choose_offsets(maps, offset_scores(network, maps), kept_counts(maps, 0.5))
    masked = copy.deepcopy(network)
    mask_offsets(masked, maps, chosen)
    return slice_offsets(network, maps, chosen), masked


def _voxels(network, x):
    return prune_voxels(network, 1.0), network


@pytest.mark.parametrize("cut", [_channels, _offsets, _voxels])
def test_norms_keep_what_they_were_set_to_and_frozen_weights_stay_frozen(cut):
    torch.manual_seed(0)
    network = MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)).double()
    for part in network.modules():
        if isinstance(part, BatchNorm):
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            part.eps, part.momentum = 0.1, 0.01
    network.eval().classifier.bias.requires_grad_(False)
    x = SparseTensor(torch.randn(len(TWO_BATCHES.coords), 3).double(), TWO_BATCHES.coords, batch_size=2)
    smaller, masked = cut(network, x)
    norms = [part for part in smaller.modules() if isinstance(part, BatchNorm)]
    assert norms
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.1, 0.01)}
    assert not smaller.classifier.bias.requires_grad
    assert smaller.classifier.weight.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(smaller(x).feats, masked(x).feats, rtol=1e-9, atol=1e-12)


@dataclass(frozen=True)
class _OwnSpec:
    """Of a user's network: channels, offsets and shares of rows by layer."""

    channels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    offsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    voxels: Mapping[str, float] = field(default_factory=dict)
    rest: str = "pass"

    def with_channels(self, channels):
        return replace(self, channels={**self.channels, **channels})

    def with_offsets(self, offsets):
        return replace(self, offsets={**self.offsets, **offsets})

    def with_voxels(self, shares, rest):
        return replace(self, voxels={**self.voxels, **shares}, rest=rest)

    def conv(self, name, c_in, c_out):
        sizes = self.channels.get(name, (c_in, c_out))
        options = {"offsets": self.offsets.get(name), "voxels": self.voxels.get(name), "rest": self.rest}
        return SubmanifoldConv3d(*sizes, 3, **options)


class _Own(nn.Module):
    """What a user's constructor makes besides weights."""

    def __init__(self, spec=_OwnSpec()):
        super().__init__()
        self.spec = spec
        self.a, self.b = spec.conv("a", 3, 16), spec.conv("b", 16, 16)
        self.norm = BatchNorm(self.a.c_out)
        self.register_buffer("gain", torch.tensor([2.0]), persistent=False)
        self.register_buffer("by_width", torch.arange(self.a.c_out, dtype=torch.float32), persistent=False)
        self.classifier = Linear(*spec.channels.get("classifier", (16, 5)))

    def forward(self, x):
        x = self.norm(self.a(x))
        return self.classifier(self.b(x.replace(x.feats * self.gain)))


class _OfNumbers(_Own):
    """A constructor that reads numbers of tensors, as those of drop paths do, and draws some."""

    def __init__(self, spec=_OwnSpec()):
        super().__init__(spec)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.5, 3)]
        self.drawn = torch.rand(3)

    def forward(self, x):
        return super().forward(x.replace(x.feats + self.drawn.to(x.feats)))


class _OfArrays(_Own):
    """One that reads them by NumPy."""

    def __init__(self, spec=_OwnSpec()):
        super().__init__(spec)
        self.rates = torch.linspace(0, 0.5, 3).numpy().tolist()


class _Anchors:
    def __init__(self):
        self.sizes = [torch.rand(3), {"car": torch.rand(3)}]


class _InContainers(_Own):
    """Tensors that are neither buffers nor attributes."""

    def __init__(self, spec=_OwnSpec()):
        super().__init__(spec)
        self.anchors, self.scales = _Anchors(), {"x": (torch.rand(1), torch.rand(1))}
        # by the way to them
        self.anchors.network = [self]

    def forward(self, x):
        first, second = self.anchors.sizes
        shift = second["car"] * self.scales["x"][1]
        return super().forward(x.replace(x.feats * first.to(x.feats) + shift.to(x.feats)))


@pytest.mark.parametrize("kind", [_Own, _OfNumbers, _OfArrays, _InContainers])
@pytest.mark.parametrize("cut", [_channels, _offsets, _voxels])
def test_what_a_constructor_makes_besides_weights_is_there(cut, kind):
    torch.manual_seed(0)
    network = kind()
    network.gain.fill_(3.0)
    network.train().norm.eval()
    network.double()
    x = SparseTensor(torch.randn(len(TWO_BATCHES.coords), 3).double(), TWO_BATCHES.coords, batch_size=2)
    before = torch.get_rng_state()
    smaller, masked = cut(network, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert smaller.gain.tolist() == [3.0]
    assert smaller.gain is not network.gain
    assert smaller.by_width.tolist() == list(range(smaller.a.c_out))
    modes = {name: part.training for name, part in network.named_modules()}
    assert {name: part.training for name, part in smaller.named_modules()} == modes
    assert set(modes.values()) == {True, False}
    assert not any(tensor.is_meta for tensor in (*smaller.parameters(), *smaller.buffers()))
    assert getattr(smaller, "rates", None) == getattr(network, "rates", None)
    if kind is _InContainers:
        assert smaller.anchors.network[0] is smaller
    with torch.no_grad():
        torch.testing.assert_close(smaller(x).feats, masked(x).feats, rtol=1e-9, atol=1e-12)


class _Shared(nn.Module):
    """Two layers of one weight, or one layer in two places; and one of its own."""

    def __init__(self, spec=_OwnSpec(), how="weight"):
        super().__init__()
        self.spec = spec
        self.own, self.a = spec.conv("own", 3, 16), spec.conv("a", 16, 16)
        self.b = self.a if how == "layer" else spec.conv("b", 16, 16)
        self.b.weight = self.a.weight
        self.classifier = Linear(*spec.channels.get("classifier", (16, 5)))

    def forward(self, x):
        x = self.own(x)
        for conv in (self.a, self.b):
            x = conv(x)
            x = x.replace(x.feats.relu())
        return self.classifier(x)


class _InTwoPlaces(_Shared):
    def __init__(self, spec=_OwnSpec()):
        super().__init__(spec, "layer")


@pytest.mark.parametrize("cut", [_channels, _offsets, _voxels])
def test_a_layer_in_two_places_is_cut_in_both(cut):
    torch.manual_seed(0)
    network = _InTwoPlaces().double()
    x = SparseTensor(torch.randn(len(TWO_BATCHES.coords), 3).double(), TWO_BATCHES.coords, batch_size=2)
    smaller, masked = cut(network, x)
    assert smaller.a is smaller.b
    with torch.no_grad():
        torch.testing.assert_close(smaller(x).feats, masked(x).feats, rtol=1e-9, atol=1e-12)


def test_shared_weights_are_not_cut_apart():
    torch.manual_seed(0)
    network, x = _Shared(), SparseTensor(torch.randn(len(PLANE.coords), 3), PLANE.coords)
    before = copy.deepcopy(network.state_dict())
    graph, maps = ChannelGraph.of(network), SharedMaps.of(network, [x])
    chosen = {group.name: range(8) for group in graph.free if group.name in ("a", "b")}
    fewer = choose_offsets(maps, offset_scores(network, maps), kept_counts(maps, 0.5))
    for cut in (
        lambda: slice_channels(network, graph, chosen),
        lambda: mask_channels(network, graph, chosen),
        lambda: slice_offsets(network, maps, fewer),
        lambda: mask_offsets(network, maps, fewer),
    ):
        with pytest.raises(UnsupportedError, match="a and b share a parameter, and cannot be cut apart"):
            cut()
    with pytest.raises(
        RangeError, match=r"a and b share their weight: one ratio for both, not 0\.5 and 0\.25"
    ):
        prune_weights(network, {"a": 0.5, "b": 0.25})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    # one ratio for both is one for the weight
    assert prune_weights(network, {"a": 0.5, "b": 0.5}).density == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("layers", ["channels", "offsets", "voxels"])
def test_shared_weights_stay_shared_where_others_are_cut(layers):
    torch.manual_seed(0)
    network, x = _Shared(), SparseTensor(torch.randn(len(PLANE.coords), 3), PLANE.coords)
    if layers == "channels":
        # what `own` writes, `a` reads: no channel can go, but all may be named
        graph = ChannelGraph.of(network)
        smaller = slice_channels(network, graph, {"own": range(graph.group("own").width)})
    elif layers == "offsets":
        maps = SharedMaps.of(network, [x])
        smaller = slice_offsets(
            network, maps, {group.name: group.offsets for group in maps.groups if group.free}
        )
    else:
        smaller = prune_voxels(network, {"own": 0.5}, "centre")
    assert smaller.b.weight is smaller.a.weight
    assert smaller.a.weight is not network.a.weight
    # as an optimiser sees them
    assert len(list(smaller.parameters())) == len(list(network.parameters()))


def test_constants_that_were_changed_are_taken_over():
    torch.manual_seed(0)
    network = _OfNumbers()
    network.drawn.fill_(3.0)
    x = SparseTensor(torch.randn(len(PLANE.coords), 3), PLANE.coords)
    smaller = prune_voxels(network, 1.0)
    assert smaller.drawn.tolist() == [3.0] * 3
    assert smaller.drawn is not network.drawn
    assert torch.equal(smaller(x).feats, network(x).feats)


def test_buffers_that_go_by_the_widths_have_the_dtype_of_the_network():
    network = _Own().bfloat16()
    smaller = slice_channels(network, ChannelGraph.of(network), {"a": range(8)})
    assert (smaller.by_width.shape, smaller.by_width.dtype) == ((8,), torch.bfloat16)


class _Named(_Own):
    """A weight that has other names, of what is no layer."""

    def __init__(self, spec=_OwnSpec()):
        super().__init__(spec)
        self.listed = nn.ParameterList([self.b.weight])
        self.weight = self.b.weight


def test_other_names_of_a_weight_are_cut_along():
    torch.manual_seed(0)
    network = _Named()
    graph = ChannelGraph.of(network)
    chosen = {"a": range(4, 12)}
    smaller = slice_channels(network, graph, chosen)
    assert smaller.listed[0] is smaller.b.weight is smaller.weight
    assert smaller.weight.shape == (27, 8, 16)
    mask_channels(network, graph, chosen)
    x = SparseTensor(torch.randn(len(PLANE.coords), 3), PLANE.coords)
    with torch.no_grad():
        torch.testing.assert_close(smaller.eval()(x).feats, network.eval()(x).feats)


@pytest.mark.parametrize("made", [weight_norm, spectral_norm])
# torch has other ones now
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_a_hook_makes_are_refused(made):
    network = _Own()
    made(network.b)
    x = SparseTensor(torch.randn(len(PLANE.coords), 3), PLANE.coords)
    graph, maps = ChannelGraph.of(network), SharedMaps.of(network, [x])
    fewer = choose_offsets(
        maps, {g.name: torch.rand(len(g.units)) for g in maps.groups}, kept_counts(maps, 0.5)
    )
    for cut in (
        lambda: slice_channels(network, graph, {"a": range(8)}),
        lambda: slice_offsets(network, maps, fewer),
        lambda: mask_offsets(network, maps, fewer),
        lambda: prune_voxels(network, 0.5),
    ):
        with pytest.raises(UnsupportedError, match="the weight of b is made by a hook before each call"):
            cut()
