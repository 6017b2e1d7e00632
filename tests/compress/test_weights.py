"""Fine-grained pruning: the smallest weights, and masks that no optimiser breaks."""

import copy

import pytest
import torch
from torch.nn.utils import parametrizations

from pcsparse import SparseTensor
from pcsparse.compress.nm_pattern import NM
from pcsparse.compress.sensitivity import WeightsAxis
from pcsparse.compress.two_four import two_four_mask
from pcsparse.compress.weight_penalty import WeightPenalty
from pcsparse.compress.weights import WeightMasks, magnitude_masks, prune_weights, weight_layers
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import SubmanifoldConv3d
from tests.clouds import LINE


def _network() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 16))


def test_the_smallest_weights_of_each_layer_go():
    network = _network()
    before = copy.deepcopy(network)
    masks = prune_weights(network, {"stem.0": 0.75, "classifier": 0.5})
    for name, share in (("stem.0", 0.75), ("classifier", 0.5)):
        old, new = weight_layers(before)[name].detach(), weight_layers(network)[name].detach()
        gone = new == 0
        assert int(gone.sum()) == round(share * old.numel())
        assert float(old[gone].abs().max()) <= float(old[~gone].abs().min())
        assert torch.equal(new[~gone], old[~gone])
        assert torch.equal(masks.kept[name], ~gone)
    untouched = dict(before.named_parameters())
    for name, parameter in network.named_parameters():
        if name not in ("stem.0.weight", "classifier.weight"):
            assert torch.equal(parameter, untouched[name])


def test_one_ratio_is_for_every_layer_and_norms_stay():
    network = _network()
    masks = prune_weights(network, 0.5)
    names = {name.removesuffix(".weight") for name, p in network.named_parameters() if p.dim() > 1}
    assert masks.kept.keys() == names
    assert masks.density == pytest.approx(0.5, abs=0.01)
    assert all(bool((p != 0).all()) for name, p in network.named_parameters() if "norm1.weight" in name)
    again = WeightMasks.of_zeros(network)
    assert all(torch.equal(again.kept[name], masks.kept[name]) for name in names)


@pytest.mark.parametrize("make", ["adamw", "sgd"])
def test_masks_hold_whatever_the_optimiser_does(rng, make):
    network = _network()
    feats = torch.randn(len(LINE.coords), 3, generator=rng)
    x = SparseTensor(feats, LINE.coords)
    if make == "adamw":
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.05, weight_decay=0.1)
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)

    seen: list[torch.Tensor] = []

    def step() -> None:
        optimizer.zero_grad()
        network(x).feats.square().mean().backward()
        seen.append(network.stem[0].weight.detach().clone())
        optimizer.step()

    # moments of before the pruning would move the zeros
    step()
    masks = magnitude_masks(network, 0.6)
    start = copy.deepcopy(network)
    with masks.held(network):
        for _ in range(3):
            step()
        assert not bool(network.stem[0].weight.grad[~masks.kept["stem.0"]].any())
    # also while it trains, where momentum from before moves them at every step
    assert not any(bool(weight[~masks.kept["stem.0"]].any()) for weight in seen[1:])
    moved = 0
    for name, weight in weight_layers(network).items():
        assert not bool(weight[~masks.kept[name]].any()), name
        moved += int((weight != weight_layers(start)[name]).sum())
    assert moved > 1000
    # afterwards nothing is held any more
    assert not network._forward_pre_hooks
    step()
    assert any(bool(w[~masks.kept[name]].any()) for name, w in weight_layers(network).items())


def test_a_mask_wins_over_nan():
    network = _network()
    masks = magnitude_masks(network, {"stem.0": 0.5})
    with torch.no_grad():
        network.stem[0].weight[~masks.kept["stem.0"]] = float("nan")
    masks.apply(network)
    assert bool(network.stem[0].weight.isfinite().all())


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_ratios_outside_are_refused_before_anything_changes(ratio):
    network = _network()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(RangeError, match=r"must be in \[0, 1\)"):
        prune_weights(network, {"stem.0": 0.5, "stem.2": ratio})
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_unknown_layers_and_other_shapes_are_refused():
    network = _network()
    with pytest.raises(RangeError, match=r"no layer 'stem' with weights; there are stem\.0"):
        prune_weights(network, {"stem": 0.5})
    wider = MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8))
    masks = magnitude_masks(network, 0.5)
    with pytest.raises(ShapeError, match=r"the mask of stem\.0 has shape"):
        masks.apply(wider)
    with pytest.raises(RangeError, match="no layer 'x'"):
        WeightMasks({"x": torch.ones(1)}).apply(network)


def test_weights_that_a_parametrisation_makes_are_not_left_out_silently():
    network = _network()
    parametrizations.weight_norm(network.stem[2])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for ratio in (0.5, {"stem.0": 0.5, "stem.2": 0.5}):
        with pytest.raises(UnsupportedError, match=r"weights of stem\.2 are made by a parametrisation"):
            prune_weights(network, ratio)
    with pytest.raises(UnsupportedError, match=r"weights of stem\.2 are made"):
        WeightMasks({"stem.2": torch.ones(1)}).apply(network)
    with pytest.raises(UnsupportedError, match=r"weights of stem\.2 are made"):
        WeightPenalty(l2=1.0)(network)
    with pytest.raises(UnsupportedError, match=r"weights of stem\.2 are made"):
        WeightsAxis(network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    # the others can be named
    assert prune_weights(network, {"stem.0": 0.5}).kept.keys() == {"stem.0"}


def test_transposed_convolutions_have_weights_too():
    network = torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 4, 2), torch.nn.Conv2d(4, 2, 1))
    assert prune_weights(network, 0.5).kept.keys() == {"0", "1"}


def _pattern_by_hand(weight, axis, n, m):
    """Group by group, weight by weight."""
    rows = weight.movedim(axis, -1).reshape(-1, weight.shape[axis]).abs().tolist()
    kept = []
    for row in rows:
        line = []
        for start in range(0, len(row), m):
            group = row[start : start + m]
            order = sorted(range(m), key=lambda i: (-group[i], i))
            line += [i in order[:n] for i in range(m)]
        kept.append(line)
    return torch.tensor(kept).reshape(weight.movedim(axis, -1).shape).movedim(-1, axis)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 4), (4, 8)])
def test_n_of_each_m_weights_stay(rng, n, m):
    layers = {
        "sparse": (SubmanifoldConv3d(8, 6, 3), 1),
        "linear": (torch.nn.Linear(16, 5), 1),
        "dense": (torch.nn.Conv2d(8, 6, 3), 1),
        "transposed": (torch.nn.ConvTranspose2d(8, 6, 3), 0),
    }
    network = torch.nn.ModuleDict({name: layer for name, (layer, _) in layers.items()})
    with torch.no_grad():
        # ties, too
        network["linear"].weight.copy_(torch.randint(-2, 3, (5, 16), generator=rng))
    before = copy.deepcopy(network)
    masks = prune_weights(network, NM(n, m))
    assert masks.density == n / m
    for name, (_, axis) in layers.items():
        expected = _pattern_by_hand(before[name].weight.detach(), axis, n, m)
        assert torch.equal(masks.kept[name], expected)
        assert torch.equal(network[name].weight, before[name].weight * expected)
    if (n, m) == (2, 4):
        assert torch.equal(masks.kept["linear"], two_four_mask(before["linear"].weight))


def test_a_pattern_is_for_the_layers_that_are_named_and_refuses_what_it_does_not_divide():
    network = _network()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ShapeError, match=r"^layer 'stem\.0' reads 3 channels, .* groups of 4; name"):
        prune_weights(network, NM(2, 4))
    with pytest.raises(RangeError, match="there is no layer 'nowhere'"):
        prune_weights(network, NM(1, 2, layers=("classifier", "nowhere")))
    with pytest.raises(RangeError, match="0 < n < m, got 4:4"):
        NM(4, 4)
    network.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(RangeError, match="layer 'classifier' has weights that are not finite"):
        prune_weights(network, NM(1, 2, layers=("stem.2", "classifier")))
    network.load_state_dict(before)
    masks = prune_weights(network, NM(1, 2, layers=("stem.2",)))
    assert masks.kept.keys() == {"stem.2"}
    changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["stem.2.weight"]
