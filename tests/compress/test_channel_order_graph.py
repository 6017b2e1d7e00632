"""Orders of channels through a network: the same function, more kept, everything that meets moved alike."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pcsparse.compress.channel_order_graph import _in_whole_groups, permute_network
from pcsparse.compress.graph import ChannelGraph, Slot
from pcsparse.compress.two_four import attach_sr_ste, two_four_mask
from pcsparse.coords.pillars import PillarGrid
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.models import PillarBEV, PillarBEVSpec
from pcsparse.models.pointnet2 import PointNet2, PointNet2Spec
from pcsparse.nn.linear_conv2d import reduction_order
from tests.tolerance import tolerance


class Branches(nn.Module):
    """A sum, a concatenation, a layer that runs twice, and a map that is flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.other = nn.Conv2d(4, 8, 1)
        self.joined = nn.Conv2d(24, 12, 1, bias=False)
        self.flat = nn.Linear(12 * 4, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.first(x)))
        y = y + torch.relu(self.twice(y))
        y = y + torch.relu(self.twice(y))
        y = self.joined(torch.cat([y, self.other(x)], dim=1))
        return self.last(torch.relu(self.flat(y.flatten(1))))

    def example_input(self) -> Tensor:
        return torch.rand(2, 4, 2, 2, generator=torch.Generator().manual_seed(2))


def settled(model: nn.Module) -> nn.Module:
    """Weights of unlike sizes, and norms whose channels differ."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=rng) ** 3 + 0.05)
                if tensor.dim() > 1:
                    tensor.div_(tensor[0].numel())
    return model.eval()


def kept(weight: Tensor) -> float:
    matrix = reduction_order(weight) if weight.dim() == 4 else weight
    return float(matrix[two_four_mask(matrix)].abs().sum())


def test_a_network_computes_what_it_did_and_keeps_more():
    model = settled(Branches())
    before, x = copy.deepcopy(model), model.example_input()
    found = permute_network(model)
    # the input keeps its order, and the flattened map's channels are not read in groups of four of their own
    assert list(found) == ["first", "other", "flat"]
    for layer in ("twice", "joined", "last"):
        old, new = (getattr(net, layer).weight.detach() for net in (before, model))
        assert kept(new) > 1.01 * kept(old)
    # the first group is read by two layers, by the second as half of a concatenation
    assert found["first"].after == pytest.approx(
        kept(model.twice.weight.detach()) + kept(model.joined.weight.detach()[:, :16]), rel=1e-5
    )
    with torch.no_grad():
        torch.testing.assert_close(model(x), before(x), **tolerance(torch.float32, 144))
    assert torch.equal(model.last.bias, before.last.bias)
    assert not torch.equal(model.norm.running_var, before.norm.running_var)


def test_a_layer_that_did_not_run_is_refused():
    model = settled(Branches())
    model.aux = nn.Linear(16, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedError, match=r"^aux did not run"):
        permute_network(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    permute_network(model, graph=ChannelGraph.of(model, unused=["aux"]))
    assert not torch.equal(before["norm.running_var"], model.norm.running_var)


def test_channels_that_are_not_side_by_side_have_no_say():
    assert _in_whole_groups(Slot("layer", "in", (4, 5, 6, 7)))
    for channels, fold in (((4, 6, 8, 10), 1), ((2, 3, 4, 5), 1), ((4, 5, 6), 1), ((0, 4, 8, 12), 4)):
        assert not _in_whole_groups(Slot("layer", "in", channels, fold))


def test_only_named_layers_are_searched_for():
    model = settled(Branches())
    before = copy.deepcopy(model)
    assert list(permute_network(model, ["last"])) == ["flat"]
    assert torch.equal(model.joined.weight, before.joined.weight)
    assert kept(model.last.weight.detach()) > kept(before.last.weight.detach())


def test_a_birds_eye_view_and_a_head_behind_points_keep_their_function():
    grid = PillarGrid((-3.2, 3.2), (-3.2, 3.2), (-3.2, 3.2), 0.4)
    bev = settled(PillarBEV(PillarBEVSpec.of(grid, 3, channels=8, convs=(1, 1, 1), head=(16,))))
    cloud = settled(PointNet2(PointNet2Spec.classification(n_classes=5)))
    for model, pruned in ((bev, "head.0"), (cloud, "head.0")):
        before = copy.deepcopy(model)
        found = permute_network(model, [pruned], rounds=4)
        assert found
        old, new = (net.get_submodule(pruned).weight.detach() for net in (before, model))
        assert kept(new) > kept(old)
        with torch.no_grad():
            x = model.example_input()
            torch.testing.assert_close(model(*x), before(*x), **tolerance(torch.float32, 1024))


def test_what_cannot_be_ordered_is_refused_before_anything_changes():
    shared, trained = settled(Branches()), settled(Branches())
    shared.joined = nn.Conv2d(24, 16, 1)
    shared.flat, shared.last = nn.Linear(64, 16), nn.Linear(16, 16)
    shared.more = nn.Linear(16, 16)
    shared.more.weight = shared.last.weight
    attach_sr_ste(trained.last)
    for model, error, text in (
        (shared, UnsupportedError, "last and more share a parameter"),
        (trained, UnsupportedError, "last are made by a parametrisation"),
    ):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(error, match=text):
            permute_network(model)
        assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    with pytest.raises(
        RangeError, match=r"norm cannot be pruned 2:4.* first, twice, other, joined, flat, last"
    ):
        permute_network(settled(Branches()), ["norm"])
