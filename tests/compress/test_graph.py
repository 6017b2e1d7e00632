"""The channel graph: what is tied, what shifts, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pcsparse import SparseTensor, cat
from pcsparse.compress.channels import slice_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.coords.pillars import PillarGrid
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.models import (
    SPVCNN,
    MinkUNet,
    MinkUNetSpec,
    PillarBEV,
    PillarBEVSpec,
    PointNet2,
    PointNet2Spec,
    SPVCNNSpec,
)
from pcsparse.nn import (
    BatchNorm,
    BatchNormReLU,
    GlobalMaxPool,
    Linear,
    MaxPool3d,
    ReLU,
    ResidualBlock,
    SubmanifoldConv3d,
    fuse,
)
from tests.compress.networks import BEVNet, HeadFirst, TwoHeads


def _unet(**options) -> MinkUNet:
    return MinkUNet(MinkUNetSpec.minkunet18(in_channels=3, n_classes=5, width=1 / 8, **options))


def _places(graph: ChannelGraph, name: str) -> list[str]:
    return [str(slot) for slot in graph.group(name).slots if slot.side != "norm"]


def test_a_residual_ties_what_it_adds():
    graph = ChannelGraph.of(_unet())
    # the identity block ties the strided convolution and both second convolutions of the stage
    assert graph.group("down.0.0").layers("out") == ("down.0.0", "encoder.0.0.conv2", "encoder.0.1.conv2")
    # the projected block ties its shortcut
    assert graph.group("encoder.1.0.conv2").layers("out") == (
        "encoder.1.0.conv2",
        "encoder.1.0.shortcut.0",
        "encoder.1.1.conv2",
    )
    # what is between two convolutions of a block is tied to nothing
    assert _places(graph, "encoder.0.0.conv1") == ["encoder.0.0.conv1 out 0-3", "encoder.0.0.conv2 in 0-3"]


def test_a_skip_is_read_behind_what_comes_from_below():
    graph = ChannelGraph.of(_unet())
    # the last decoder stage reads 12 channels from below, then the 4 of the stem
    assert _places(graph, "stem.2") == [
        "stem.2 out 0-3",
        "down.0.0 in 0-3",
        "decoder.3.0.conv1 in 12-15",
        "decoder.3.0.shortcut.0 in 12-15",
    ]
    assert _places(graph, "up.3.0")[1] == "decoder.3.0.conv1 in 0-11"


def test_every_norm_follows_the_layer_it_scales():
    graph = ChannelGraph.of(_unet())
    follows = {layer.name: layer.follows for layer in graph.layers if layer.kind == "norm"}
    assert follows["encoder.1.0.norm2"] == "encoder.1.0.conv2"
    assert follows["encoder.1.0.shortcut.1"] == "encoder.1.0.shortcut.0"
    assert follows["stem.1"] == "stem.0"
    assert None not in follows.values()


def test_input_and_output_stay():
    graph = ChannelGraph.of(_unet())
    fixed = {group.name: (group.width, group.fixed) for group in graph.groups if group.fixed}
    assert fixed == {"input": (3, "the network's input"), "classifier": (5, "the network's output")}


@pytest.mark.parametrize("make", ["minkunet14", "minkunet18", "minkunet34"])
def test_every_channel_of_every_layer_is_in_one_group(make):
    model = MinkUNet(getattr(MinkUNetSpec, make)(width=1 / 8))
    graph = ChannelGraph.of(model)
    seen: dict[tuple[str, str], list[int]] = {}
    for group in graph.groups:
        assert all(len(slot.channels) == group.width for slot in group.slots)
        for slot in group.slots:
            seen.setdefault((slot.layer, slot.side), []).extend(slot.channels)
    for layer in graph.layers:
        sides = {"norm": layer.c_out} if layer.kind == "norm" else {"in": layer.c_in, "out": layer.c_out}
        for side, width in sides.items():
            assert sorted(seen.pop((layer.name, side))) == list(range(width))
    assert not seen
    weighty = {
        name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith("weight")
    }
    assert {layer.name for layer in graph.layers} == weighty


def test_widths_are_those_of_the_sliced_layers():
    graph = ChannelGraph.of(_unet())
    widths = graph.widths({"stem.2": 1, "up.3.0": 5})
    assert widths["stem.2"] == (4, 1)
    assert widths["stem.3"] == (1, 1)
    assert widths["down.0.0"] == (1, 4)
    assert widths["decoder.3.0.conv1"] == widths["decoder.3.0.shortcut.0"] == (6, 12)
    assert widths["classifier"] == (12, 5)
    with pytest.raises(RangeError, match="it cannot keep 5"):
        graph.widths({"stem.2": 5})
    with pytest.raises(RangeError, match="the network's output"):
        graph.widths({"classifier": 4})
    with pytest.raises(RangeError, match=r"no group 'stem'.*stem\.0"):
        graph.widths({"stem": 4})


def test_a_fused_network_has_the_same_groups():
    # a fused convolution takes the residual itself
    wide, fused = ChannelGraph.of(_unet()), ChannelGraph.of(fuse(_unet()))
    assert [group.width for group in fused.groups] == [group.width for group in wide.groups]
    assert len(fused.group("down.0").layers("out")) == 3


class _Halves(nn.Module):
    """Adds the two halves of a concatenation to what one convolution writes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.both = (SubmanifoldConv3d(2, c, 1) for c in (3, 4, 7))
        self.head = Linear(7, 2)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.head(cat([self.a(x), self.b(x)]) + self.both(x))


def test_a_sum_with_a_concatenation_splits_the_group():
    graph = ChannelGraph.of(_Halves())
    assert _places(graph, "a") == ["a out 0-2", "both out 0-2", "head in 0-2"]
    assert _places(graph, "b") == ["b out 0-3", "both out 3-6", "head in 3-6"]


class _Twice(nn.Module):
    """One convolution at two places, and a channel that is read twice by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = SubmanifoldConv3d(4, 4, 1), SubmanifoldConv3d(4, 4, 3)
        self.head = Linear(8, 2)

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.again(self.again(self.first(x)))
        return self.head(cat([y, y]))


def test_weights_at_two_places_tie_what_they_meet():
    graph = ChannelGraph.of(_Twice())
    assert _places(graph, "first") == [
        "first out 0-3", "again in 0-3", "again out 0-3", "head in 0-3", "head in 4-7",
    ]  # fmt: skip


def test_pools_activations_and_norms_pass_channels_on():
    net = nn.Sequential(
        SubmanifoldConv3d(2, 6, 3), BatchNorm(6), ReLU(), MaxPool3d(2), ResidualBlock(6, 3, 6)
    )
    graph = ChannelGraph.of(nn.Sequential(net, GlobalMaxPool(), nn.Linear(6, 2)))
    assert graph.group("0.0").layers("out") == ("0.0", "0.4.conv2")
    assert graph.group("0.0").layers("in") == ("0.4.conv1", "2")


class _Odd(nn.Module):
    """Does something to features that the graph was not taught."""

    def __init__(self, odd) -> None:
        super().__init__()
        self.conv, self.norm, self.odd = SubmanifoldConv3d(2, 4, 3), BatchNormReLU(4), odd
        self.head = Linear(4, 2)

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.norm(self.conv(x))
        return self.head(y.replace(self.odd(y.feats)))


class _Flip(nn.Module):
    def forward(self, feats):
        return feats.flip(1)


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (
            lambda feats: feats.roll(1, dims=1),
            r"aten\.roll\.default in the network \(_Odd\)",
        ),
        (_Flip(), r"aten\.flip\.default in odd \(_Flip\)"),
        (lambda feats: feats + 1.0, r"aten\.add\.Tensor"),
        (lambda feats: feats * torch.ones(4, device="meta"), r"aten\.mul\.Tensor"),
        (lambda feats: torch.cat([feats[:, :2], feats[:, 2:]], dim=1), r"aten\.slice"),
        (lambda feats: feats.softmax(dim=1), r"aten\._softmax"),
    ],
    ids=["roll", "module", "constant", "scale", "slice", "softmax"],
)
def test_an_unknown_operator_is_named_with_its_place(odd, named):
    with pytest.raises(UnsupportedError, match=named):
        ChannelGraph.of(_Odd(odd))


def test_a_tensor_from_nowhere_is_refused():
    with pytest.raises(UnsupportedError, match="what head reads is a tensor"):
        ChannelGraph.of(_Odd(lambda feats: torch.ones(feats.shape, device="meta")))


def test_grouped_convolutions_are_refused():
    with pytest.raises(UnsupportedError, match=r"0 is a SubmanifoldConv3d of 2 groups.*instead"):
        ChannelGraph.of(nn.Sequential(SubmanifoldConv3d(4, 4, 3, groups=2)))


def test_a_network_on_other_input_is_refused():
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = Linear(3, 3)

        def forward(self, points):
            return points.unsqueeze(0)

    with pytest.raises(UnsupportedError, match="Dense does not run on a SparseTensor"):
        ChannelGraph.of(Dense())
    with pytest.raises(UnsupportedError, match="Sequential has no sparse convolution"):
        ChannelGraph.of(nn.Sequential(nn.ReLU()))


def test_an_input_that_was_guessed_is_told():
    x = SparseTensor(torch.zeros(1, 2), torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(
        UnsupportedError,
        match=r"ShapeError.*one voxel of 6 channels, as head reads, .*graph=ChannelGraph\.of\(model, x\)",
    ):
        ChannelGraph.of(HeadFirst())
    assert ChannelGraph.of(HeadFirst(), x).group("conv").layers("in") == ("head",)
    # of an input that was given, the error of the layer tells all
    with pytest.raises(ShapeError):
        ChannelGraph.of(HeadFirst(), x.replace(torch.zeros(1, 6)))
    with pytest.raises(UnsupportedError, match=r"TypeError.*one voxel of 6 channels, as 1 reads"):
        ChannelGraph.of(nn.Sequential(nn.Linear(3, 6), Linear(6, 2)))
    with pytest.raises(UnsupportedError, match=r"graph=ChannelGraph\.of\(model, x\)"):
        ChannelGraph.of(nn.Sequential(nn.Conv2d(3, 4, 1)))


def test_point_sets_keep_their_coordinates():
    with torch.device("meta"):
        network = PointNet2(PointNet2Spec.classification_msg(in_channels=2))
    graph = ChannelGraph.of(network)
    # each group reads places first, then what is known of the points; both scales side by side come next
    assert _places(graph, "abstractions.0.layers.0.2.0")[1:] == [
        f"abstractions.1.layers.{scale}.0.0 in 3-66" for scale in range(3)
    ]
    assert "abstractions.1.layers.2.0.0 in 195-322" in _places(graph, "abstractions.0.layers.2.2.0")
    fixed = {name: [str(slot) for slot in graph.group(name).slots] for name in ("input", "input#2")}
    assert fixed["input#2"] == [f"abstractions.0.layers.{scale}.0.0 in 3-4" for scale in range(3)]
    assert "abstractions.1.layers.1.0.0 in 0-2" in fixed["input"]
    assert "pooled.layers.0.0 in 0-2" in fixed["input"]
    assert len(graph.free) == 18 + 3 + 2


def test_features_that_come_back_to_points_stand_before_what_was_there():
    with torch.device("meta"):
        network = PointNet2(PointNet2Spec.segmentation(in_channels=2))
    graph = ChannelGraph.of(network)
    assert _places(graph, "abstractions.0.layers.0.2.0") == [
        "abstractions.0.layers.0.2.0 out 0-63", "abstractions.1.layers.0.0.0 in 3-66",
        "propagations.2.layers.0.0 in 256-319",
    ]  # fmt: skip
    assert "propagations.3.layers.0.0 in 128-129" in [str(s) for s in graph.group("input#2").slots]
    assert _places(graph, "abstractions.3.layers.0.2.0")[1] == "propagations.0.layers.0.0 in 0-511"


class _Attention(nn.Module):
    """Weighs neighbours by what was learnt of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, points):
        y = self.linear(points[:, None] - points[None])
        return self.head((y.softmax(dim=1) * y).sum(dim=1))


def test_an_unknown_operator_on_points_is_named_with_its_place():
    with pytest.raises(UnsupportedError, match=r"aten\._softmax\.default in the network \(_Attention\)"):
        ChannelGraph.of(_Attention(), (torch.zeros(5, 3),))


def test_heights_that_become_channels_go_together():
    graph = ChannelGraph.of(BEVNet())
    assert _places(graph, "down.0") == ["down.0 out 0-4", "first in 0-14, 3 a channel"]
    assert graph.widths({"down.0": 2})["first"] == (6, 6)
    # removing channel 1 removes the three columns of its heights
    net = BEVNet().double()
    sliced = slice_channels(net, graph, {"down.0": (0, 2, 3, 4)})
    kept = [0, 1, 2, *range(6, 15)]
    assert torch.equal(sliced.first.weight, net.first.weight[:, kept])


def test_pillars_are_followed_from_points_to_the_map():
    grid = PillarGrid((0.0, 4.0), (0.0, 4.0), (0.0, 1.0), 0.5)
    graph = ChannelGraph.of(PillarBEV(PillarBEVSpec.of(grid, 3, channels=4, convs=(1, 1))))
    assert _places(graph, "pillars.linear") == ["pillars.linear out 0-3", "blocks.0.0 in 0-3"]
    assert _places(graph, "up.1.0") == ["up.1.0 out 0-7", "head.0 in 8-15"]
    assert _places(graph, "blocks.0.0") == ["blocks.0.0 out 0-3", "up.0.0 in 0-3", "blocks.1.0 in 0-3"]
    # all that describes a point must stay
    inputs = [i for g in graph.groups if g.fixed for s in g.slots if s.side == "in" for i in s.positions()]
    assert sorted(inputs) == list(range(9))


def test_points_and_voxels_are_tied_where_they_are_summed():
    graph = ChannelGraph.of(SPVCNN(SPVCNNSpec(MinkUNetSpec.minkunet14(3, 5, width=1 / 8))))
    assert graph.group("unet.encoder.3.0.conv2").layers("out") == (
        "unet.encoder.3.0.conv2", "unet.encoder.3.0.shortcut.0", "points.0.0",
    )  # fmt: skip
    # the coarsest voxels are read through the points that they were brought to
    assert graph.group("unet.encoder.3.0.conv2").layers("in") == ("unet.up.0.0", "points.1.0")
    assert graph.group("unet.stem.2").layers("in")[:2] == ("unet.down.0.0", "points.0.0")
    assert "points.2.0" in graph.group("unet.decoder.3.0.conv2").layers("out")


def test_layers_that_did_not_run_are_told():
    net = TwoHeads()
    assert ChannelGraph.of(net).unseen == ("aux.1", "pretrained.0", "pretrained.1")
    assert ChannelGraph.of(net, unused=["pretrained"]).unseen == ("aux.1",)
    assert ChannelGraph.of(net, unused=["pretrained.0", "aux"]).unseen == ("pretrained.1",)
    graph = ChannelGraph.of(net, training=True)
    assert graph.unseen == ("pretrained.0", "pretrained.1")
    # after what runs in evaluation mode, and an output too
    assert [layer.name for layer in graph.layers] == ["conv", "head", "aux.1"]
    assert graph.group("aux.1").fixed == "the network's output"
    for strange in ("aux.2", "conv", "pre"):
        with pytest.raises(RangeError, match=rf"= names {strange}, .*did not run are aux\.1, pretrained"):
            ChannelGraph.of(net, unused=["pretrained", strange])


@pytest.mark.parametrize("points", [False, True], ids=["voxels", "points"])
def test_dropout_by_a_function_passes_channels_on_in_training(points):
    class Dropping(TwoHeads):
        def forward(self, x):
            y = self.conv(x)
            kept = functional.dropout(input=y.feats, training=self.training)
            return self.head(y.replace(functional.dropout(kept, 0.5, self.training)))

    x = SparseTensor(torch.zeros(1, 2), torch.zeros(1, 4, dtype=torch.int32))
    graph = ChannelGraph.of(Dropping(), (x,) if points else x, training=True)
    assert _places(graph, "conv") == ["conv out 0-5", "head in 0-5"]


class _Loose(nn.Module):
    """Weights that are read though their module does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gates = SubmanifoldConv3d(2, 4, 1), nn.ParameterList([torch.ones(1)])
        self.block = nn.ModuleDict({"norm": BatchNorm(4), "head": Linear(4, 2)})
        self.block.register_parameter("gate", nn.Parameter(torch.ones(1)))
        self.spare = nn.PReLU()

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.conv(x)
        y = self.block["norm"](y.replace(y.feats * self.gates[0] * self.block.gate))
        return self.block["head"](y)


def test_weights_that_an_operator_read_are_seen():
    assert ChannelGraph.of(_Loose()).unseen == ("spare",)
    net = nn.Sequential(SubmanifoldConv3d(2, 4, 1), Linear(4, 2))
    nn.utils.parametrizations.weight_norm(net[1])
    assert ChannelGraph.of(net).unseen == ()


def test_the_network_is_left_as_it_is():
    model = _unet().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ChannelGraph.of(model)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class _Named(nn.Module):
    """Layers that are called by keywords, and outputs that have no channels beside one that has."""

    def __init__(self, **others) -> None:
        super().__init__()
        self.conv, self.again = SubmanifoldConv3d(2, 4, 3), SubmanifoldConv3d(4, 4, 3)
        self.head, self.others = nn.Linear(4, 3), others

    def forward(self, x: SparseTensor):
        y = self.conv(x=x)
        y = self.again(residual=y, x=y)
        return {"sem": self.head(input=y.feats), "coords": x.coords, **self.others}


def test_layers_may_be_called_by_keywords_and_integers_have_no_channels():
    graph = ChannelGraph.of(_Named())
    assert _places(graph, "conv") == ["conv out 0-3", "again in 0-3", "again out 0-3", "head in 0-3"]
    assert graph.group("head").fixed == "the network's output"
    # points are followed with layers that do nothing
    x = SparseTensor(torch.zeros(1, 2), torch.zeros(1, 4, dtype=torch.int32))
    assert ChannelGraph.of(_Named(), (x,)) == graph


@pytest.mark.parametrize("other", ["a word", 3], ids=str)
def test_an_output_that_is_no_tensor_is_refused(other):
    with pytest.raises(UnsupportedError, match=f"the network returns a {type(other).__name__}"):
        ChannelGraph.of(_Named(other=other))
