"""Offset pruning: sliced is masked, in one step or several, forward and backward; scores by hand."""

import json
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from pcsparse import SparseTensor
from pcsparse.compress.channels import prune_channels
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.cost_run import calls_of, runnable
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.offset_scores import offset_scores
from pcsparse.compress.offsets import (
    choose_offsets,
    counts_of,
    kept_counts,
    mask_offsets,
    prune_offsets,
    slice_offsets,
)
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.coords import cache as cache_module
from pcsparse.coords.build import build_kernel_map
from pcsparse.coords.relation import Relation
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec, PointNet2, PointNet2Spec
from pcsparse.nn import BatchNorm, BatchNormReLU, SparseConv3d, SubmanifoldConv3d, fuse, prepare
from pcsparse.nn.map_search import search_together
from pcsparse.train.model_file import ModelCard, arch_of, load_model, save_model
from tests.clouds import PLANE, TWO_BATCHES, UNSORTED

FINE = ("stem.0", "stem.2", "decoder.3.0.conv1", "decoder.3.0.conv2")


def _network(seed: int = 0, dtype: torch.dtype = torch.float32, **options) -> MinkUNet:
    """In evaluation mode; norms change what they are given and leave no channel dead."""
    torch.manual_seed(seed)
    sizes = {"in_channels": 3, "n_classes": 5, "width": 1 / 8, **options}
    network = MinkUNet(MinkUNetSpec.minkunet14(**sizes)).to(dtype)
    for part in network.modules():
        if isinstance(part, BatchNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, 0.0, 0.5)
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return network.eval()


def _input(cloud=TWO_BATCHES, channels: int = 3, dtype: torch.dtype = torch.float32) -> SparseTensor:
    draw = torch.Generator().manual_seed(1)
    feats = torch.randn(len(cloud.coords), channels, generator=draw).to(dtype)
    return SparseTensor(feats, cloud.coords, batch_size=cloud.batch_size)


@cache
def _maps(scope: str = "map") -> SharedMaps:
    """Of `_network()` on `_input()`, which its weights do not change."""
    return SharedMaps.of(_network(), [_input()], scope=scope)


def _masked(network: MinkUNet, maps: SharedMaps, chosen) -> MinkUNet:
    masked = MinkUNet(network.spec).to(next(network.parameters()).dtype).train(network.training)
    masked.load_state_dict(network.state_dict())
    mask_offsets(masked, maps, chosen)
    return masked


def _some(maps: SharedMaps, seed: int = 0) -> dict[str, tuple[int, ...]]:
    """About half of the units of every group, strided ones too."""
    draw = torch.Generator().manual_seed(seed)
    chosen = {}
    for group in maps.groups:
        kept = [unit for unit in group.units if torch.rand((), generator=draw) < 0.5] or [group.units[0]]
        centre = () if group.centre is None else (group.centre,)
        chosen[group.name] = tuple(sorted((*centre, *(k for unit in kept for k in unit))))
    return chosen


def test_groups_are_the_readers_of_one_map():
    maps = _maps()
    readers = {group.name: tuple(reader.name for reader in group.readers) for group in maps.groups}
    assert list(readers) == [
        "stem.0", "down.0.0", "encoder.0.0.conv1", "down.1.0", "encoder.1.0.conv1", "down.2.0",
        "encoder.2.0.conv1", "down.3.0", "encoder.3.0.conv1",
    ]  # fmt: skip
    assert readers["stem.0"] == FINE
    # the way up reads the map of the way down
    assert readers["down.1.0"] == ("down.1.0", "up.2.0")
    assert readers["encoder.3.0.conv1"] == ("encoder.3.0.conv1", "encoder.3.0.conv2")
    cubes = [group for group in maps.groups if group.free]
    assert [group.mirrored for group in maps.groups] == [group in cubes for group in maps.groups]
    assert all((group.centre, len(group.units)) == (13, 13) for group in cubes)
    assert maps.group("down.0.0").units == tuple((k,) for k in range(8))
    alone = _maps("layer")
    assert [group.name for group in alone.groups if group.map_name == "stem.0"] == list(FINE)
    assert "stem.0: 27 of 27 offsets (3x3x3, stride 1)" in str(maps)


def test_pairs_are_means_over_the_sweeps_by_looking_at_every_two_voxels():
    inputs = [_input(PLANE), _input(UNSORTED)]
    maps = SharedMaps.of(_network(), inputs)
    counts = torch.zeros(27, dtype=torch.int64)
    for x in inputs:
        # in = out + offset
        steps = (x.coords[:, None] - x.coords[None]).long()
        near = (steps[..., 0] == 0) & (steps.abs().amax(dim=2) <= 1)
        place = ((steps[..., 1:] + 1) * torch.tensor([9, 3, 1])).sum(dim=2)
        counts += torch.bincount(place[near], minlength=27)
    group = maps.group("stem.0")
    assert group.pairs == tuple((counts / 2).tolist())
    assert group.pairs_of((0, 13)) == float(counts[0] + counts[13]) / 2
    coarse = [x.cache.coarser(x.coords, Relation.of(2, 2)) for x in (_input(PLANE), _input(UNSORTED))]
    assert (maps.group("stem.0").n_out, maps.group("down.0.0").n_out) == (
        sum(len(x) for x in inputs) / 2,
        sum(len(coords) for coords in coarse) / 2,
    )
    # every fine voxel has one pair of a kernel that halves
    assert sum(maps.group("down.0.0").pairs) == sum(len(x) for x in inputs) / 2
    calls = [calls_of(runnable(_network(), fused=True), _input(cloud))[0] for cloud in (PLANE, UNSORTED)]
    macs = sum(call.n_pairs * call.c_in * call.c_out for run in calls for call in run)
    assert maps.macs() == macs / 2
    # their caches stay as they are
    assert all(len(x.cache) == 0 for x in inputs)


@pytest.mark.parametrize("scope", ["map", "layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sliced_is_masked_bit_for_bit(scope, dtype):
    # the engine adds an offset's products to a row's sum in the order of offsets: zeros change no bit of it
    network = _network(dtype=dtype)
    maps = _maps(scope)
    chosen = _some(maps)
    sliced, masked = slice_offsets(network, maps, chosen), _masked(network, maps, chosen)
    with torch.no_grad():
        out, expected, dense = (net(_input(dtype=dtype)).feats for net in (sliced, masked, network))
    assert out.dtype == dtype
    assert torch.equal(out, expected)
    assert not torch.allclose(out, dense)
    assert sliced.stem[0].weight.shape[0] == len(chosen["stem.0"])
    if scope == "map":
        assert sliced.decoder[3][0].conv2.offsets == chosen["stem.0"]
        assert sliced.up[3][0].offsets == sliced.down[0][0].offsets == chosen["down.0.0"]
    else:
        assert sliced.decoder[3][0].conv2.offsets == chosen["decoder.3.0.conv2"] != chosen["stem.0"]


def test_sliced_is_masked_in_training():
    network = _network().train()
    maps = _maps()
    chosen = _some(maps)
    sliced, masked = slice_offsets(network, maps, chosen), _masked(network, maps, chosen)
    assert sliced.training
    for net in (sliced, masked):
        net(_input()).feats.square().mean().backward()
    for name, parameter in sliced.named_parameters():
        full = dict(masked.named_parameters())[name].grad
        layer = sliced.get_submodule(name.rpartition(".")[0])
        kept = getattr(layer, "offsets", None)
        # a reduction over pairs is split by how many there are
        torch.testing.assert_close(
            parameter.grad, full if kept is None else full[list(kept)], rtol=1e-4, atol=1e-7
        )
    before = sliced.stem[0].weight.detach().clone()
    torch.optim.SGD(sliced.parameters(), lr=0.1).step()
    assert not torch.equal(sliced.stem[0].weight, before)


def test_pruning_twice_is_pruning_once_to_what_both_keep():
    network, x = _network(), _input()
    maps = _maps()
    first, second = {"stem.0": (0, 1, 4, 12, 13, 14, 22, 25, 26)}, {"stem.0": (1, 12, 13, 14, 25)}
    once = slice_offsets(network, maps, first)
    again = SharedMaps.of(once, [x])
    # positions are of the whole kernel, and pairs did not move
    assert again.group("stem.0").offsets == first["stem.0"]
    assert again.group("stem.0").pairs == tuple(maps.group("stem.0").pairs[k] for k in first["stem.0"])
    twice, direct = slice_offsets(once, again, second), slice_offsets(network, maps, second)
    assert twice.spec == direct.spec
    for name, tensor in direct.state_dict().items():
        assert torch.equal(twice.state_dict()[name], tensor), name
    with pytest.raises(RangeError, match=r"offsets of 'stem\.0' must ascend, each one of \(0, 1, 4"):
        slice_offsets(once, again, {"stem.0": (2, 13, 24)})


def test_channels_before_and_after_offsets_come_to_the_same():
    network, x = _network(width=1 / 4), _input()
    keep = {"stem.0": 4, "encoder.0.0.conv1": 6, "up.3.0": 20}
    chosen = _some(SharedMaps.of(network, [x], scope="layer"))

    def drop(net):
        return slice_offsets(net, SharedMaps.of(net, [x], scope="layer"), chosen)

    # by the wide network's scores, which offsets change
    def narrow(net):
        graph = ChannelGraph.of(net)
        return prune_channels(net, keep, graph=graph, score="batchnorm", multiple=1)

    a, b = narrow(drop(network)), drop(narrow(network))
    assert a.spec == b.spec
    assert a.stem[0].weight.shape == (len(chosen["stem.0"]), 3, 4)
    with torch.no_grad():
        assert torch.equal(a(_input()).feats, b(_input()).feats)
        assert all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def test_what_was_dropped_is_not_in_any_map_and_fusing_keeps_it_so():
    network, maps = _network(), _maps()
    kept = {"stem.0": (0, 4, 13, 22, 26), "down.0.0": (1, 2, 3, 5, 6, 7)}
    sliced = slice_offsets(network, maps, kept)
    fused, y = fuse(sliced), _input()
    prepare(fused, y)
    cubes = [m for key, m in y.cache.maps().items() if key.offsets == kept["stem.0"]]
    (halving,) = (m for key, m in y.cache.maps().items() if key.offsets == kept["down.0.0"])
    (cube,) = cubes
    assert cube.symmetric
    assert cube.n_pairs == maps.group("stem.0").pairs_of(kept["stem.0"])
    assert halving.n_pairs == maps.group("down.0.0").pairs_of(kept["down.0.0"])
    with torch.no_grad():
        torch.testing.assert_close(fused(y).feats, sliced(_input()).feats, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scope", ["map", "layer"])
def test_a_network_searches_each_map_once_and_only_for_what_its_layers_keep(scope, monkeypatch):
    network, maps = _network(), _maps(scope)
    chosen = _some(maps)
    sliced = slice_offsets(network, maps, chosen)
    seen = []

    def build(fine, coarse, relation, offsets=None, **options):
        seen.append(offsets)
        return build_kernel_map(fine, coarse, relation, offsets, **options)

    monkeypatch.setattr(cache_module, "build_kernel_map", build)
    prepare(fuse(sliced), _input())
    union: dict[str, set[int]] = {}
    for group in maps.groups:
        # maps that halve come with their levels
        if group.free:
            union.setdefault(group.map_name, set()).update(chosen[group.name])
    assert seen == [tuple(sorted(kept)) for kept in union.values()]
    assert len(seen) == 5
    seen.clear()
    prepare(network, _input())
    assert seen == [None] * 5


def test_readers_of_one_map_have_one_geometry():
    convs = [SubmanifoldConv3d(1, 1, 3, offsets=(0, 13)), SubmanifoldConv3d(1, 1, 3, offsets=(13, 26))]
    search_together(convs)
    assert [conv.searched for conv in convs] == [(0, 13, 26)] * 2
    search_together([*convs, SubmanifoldConv3d(1, 1, 3)])
    assert [conv.searched for conv in convs] == [None] * 2
    with pytest.raises(ShapeError, match="readers of one map have one geometry"):
        search_together([*convs, SubmanifoldConv3d(1, 1, 3, dilation=2)])


def test_a_measured_cost_has_the_pairs_that_are_left():
    network, x = _network(), _input()
    maps = _maps()
    chosen = _some(maps)
    cost = measure_cost(slice_offsets(network, maps, chosen), [x], step=1000, multiple=1000, runs=1)
    assert cost.total("MACs") == maps.macs(chosen) < maps.macs()
    layers = {layer.name: layer for layer in cost.layers if layer.kind == "conv"}
    assert layers["decoder.3.0.conv2"].k == len(chosen["stem.0"])
    assert layers["decoder.3.0.conv2"].n_pairs == maps.group("stem.0").pairs_of(chosen["stem.0"])
    dropped = sum(
        (len(group.offsets) - len(chosen[group.name])) * reader.weights
        for group in maps.groups
        for reader in group.readers
    )
    whole = sum(parameter.nbytes for parameter in network.parameters())
    assert whole - cost.total("bytes") == 4 * dropped


def test_a_checkpoint_keeps_offsets(tmp_path):
    network = _network(n_classes=19, in_channels=4)
    x = _input(channels=4)
    sliced = prune_offsets(network, 0.4, sweeps=[x])
    card = ModelCard(
        arch=arch_of(sliced, 19),
        labels=LabelMap.load("semantickitti"),
        voxels=VoxelSettings(0.2, [-50.0, -50.0, -4.0, 50.0, 50.0, 3.0]),
        input_spec=InputSpec(-1.73, 20.0, 60.0, 0.9, 120_000),
        metrics={},
        provenance={},
    )
    save_model(tmp_path / "model.safetensors", sliced, card)
    whole = tmp_path / "whole.safetensors"
    save_model(whole, network, card)
    loaded, _ = load_model(tmp_path / "model.safetensors")
    assert loaded.spec == sliced.spec
    assert loaded.stem[0].offsets == sliced.stem[0].offsets
    with torch.no_grad():
        assert torch.equal(loaded(x).feats, sliced(_input(channels=4)).feats)
    # weights that are gone are not in the file
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * whole.stat().st_size


def test_what_is_sliced_shares_nothing_with_the_original():
    network = _network()
    network.classifier.bias.requires_grad_(False)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    sliced = prune_offsets(network, {"stem.0": 9}, sweeps=[_input()])
    assert not sliced.classifier.bias.requires_grad
    assert sliced.stem[0].weight.requires_grad
    with torch.no_grad():
        for tensor in sliced.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_a_row_without_a_pair_gets_the_bias_or_nothing():
    torch.manual_seed(0)
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 2, 2, 2]], dtype=torch.int32)
    x = SparseTensor(torch.ones(3, 2), coords)
    for bias in (True, False):
        conv = SparseConv3d(2, 4, 2, 2, bias=bias)
        maps = SharedMaps.of(nn.Sequential(conv), [x])
        # the second offset alone: the voxel at (2, 2, 2) has the first
        mask_offsets(nn.Sequential(conv), maps, {"0": (1,)})
        with torch.no_grad():
            out = conv(x)
        assert out.coords.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
        assert torch.equal(out.feats[1], conv.bias if bias else torch.zeros(4))
        assert bool((out.feats[0] != out.feats[1]).any())


def test_numbers_are_rounded_up_to_whole_pairs():
    maps = _maps()
    cube, halving = maps.group("stem.0"), maps.group("down.0.0")
    assert counts_of(cube) == tuple(range(1, 28, 2))
    assert counts_of(halving) == tuple(range(1, 9))
    found = kept_counts(maps, {"stem.0": 0.5, "down.0.0": 0.5, "encoder.0.0.conv1": 10, "down.1.0": 3})
    assert found == {"stem.0": 15, "down.0.0": 4, "encoder.0.0.conv1": 11, "down.1.0": 3}
    # a share of all is one of the kernels that keep the stride
    assert kept_counts(maps, 0.1) == {group.name: 3 for group in maps.groups if group.free}
    assert kept_counts(maps, 1.0)["stem.0"] == 27
    # 0.28 of 25 is a little more than 7 in floating point
    fewer = slice_offsets(_network(), maps, {"stem.0": tuple(k for k in range(27) if k not in (3, 23))})
    assert kept_counts(SharedMaps.of(fewer, [_input()]), {"stem.0": 0.28})["stem.0"] == 7


def test_a_whole_kernel_has_no_list_of_offsets():
    network = _network()
    same = prune_offsets(network, 1.0, sweeps=[_input()])
    assert same.spec == network.spec
    assert same.stem[0].offsets is None


@pytest.mark.parametrize(
    "keep", [0.0, -0.5, 1.5, float("nan"), {"stem.0": 0}, {"stem.0": 28}, {"stem.0": 0.0}]
)
def test_shares_and_numbers_out_of_range_are_refused(keep):
    with pytest.raises(RangeError, match=r"must be in \(0, 1\]|it cannot keep"):
        kept_counts(_maps(), keep)


def test_choices_that_break_a_kernel_are_refused_before_anything_is_changed():
    network, x = _network(), _input()
    maps = _maps()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    wrong = {
        r"offset 13 of 'stem\.0' is its centre": {"stem.0": (0, 26)},
        r"offsets \(1, 25\) of 'stem\.0' mirror each other": {"stem.0": (0, 1, 13, 26)},
        r"must ascend, each one of": {"stem.0": (13, 0, 26)},
        r"of 'down\.0\.0' must ascend": {"down.0.0": ()},
        r"no kernel map is called 'stem\.2'; by their first readers they are stem\.0, down": {
            "stem.2": (13,)
        },
    }
    for text, chosen in wrong.items():
        for change in (slice_offsets, mask_offsets):
            with pytest.raises(RangeError, match=text):
                change(network, maps, chosen)
    with pytest.raises(RangeError, match=r"no kernel map is called 'nothing'"):
        prune_offsets(network, {"nothing": 0.5}, sweeps=[x])
    with pytest.raises(RangeError, match="need sweeps to count pairs on"):
        prune_offsets(network, 0.5, sweeps=[])
    with pytest.raises(RangeError, match="scope='kernel'"):
        prune_offsets(network, 0.5, sweeps=[x], scope="kernel")
    parametrizations.weight_norm(network.stem[2])
    for change in (slice_offsets, mask_offsets):
        with pytest.raises(UnsupportedError, match=r"weights of stem\.2 are made by a parametrisation"):
            change(network, maps, {"stem.0": (13,)})
    now = network.state_dict()
    assert all(torch.equal(before[name], now[name]) for name in before if name in now)


def test_networks_that_cannot_be_built_anew_are_refused():
    net = nn.Sequential(SubmanifoldConv3d(3, 4, 3))
    with pytest.raises(UnsupportedError, match="has no Spec with a method with_offsets"):
        prune_offsets(net, 0.5, sweeps=[_input()])
    with pytest.raises(UnsupportedError, match="PointNet2 has no Spec with a method with_offsets"):
        prune_offsets(PointNet2(PointNet2Spec.segmentation(4, 5)), 0.5, sweeps=[_input()])
    fused = fuse(_network())
    with pytest.raises(UnsupportedError, match=r"before fuse"):
        prune_offsets(fused, 0.5, sweeps=[_input()])
    # weights at two places, on two maps
    conv = SubmanifoldConv3d(3, 3, 3)
    with pytest.raises(UnsupportedError, match=r"0 reads several kernel maps with the same weights"):
        SharedMaps.of(nn.Sequential(conv, SparseConv3d(3, 3, 2, 2), conv), [_input()])


def test_a_reader_that_would_lose_all_is_named():
    # made by hand: the two layers of a map have no offset in common
    spec = _network().spec.with_offsets({"encoder.3.0.conv1": (0, 26), "encoder.3.0.conv2": (1, 13, 25)})
    maps = SharedMaps.of(MinkUNet(spec), [_input()])
    assert maps.group("encoder.3.0.conv1").offsets == (0, 1, 13, 25, 26)
    with pytest.raises(RangeError, match=r"encoder\.3\.0\.conv1 has the offsets \(0, 26\) only"):
        maps.by_layer({"encoder.3.0.conv1": (1, 13, 25)})


def test_a_kernel_without_its_centre_or_its_mirror_is_pruned_too():
    spec = _network().spec.with_offsets(dict.fromkeys(FINE, (0, 3, 5, 26)))
    maps = SharedMaps.of(MinkUNet(spec), [_input()])
    group = maps.group("stem.0")
    assert (group.centre, group.units, counts_of(group)) == (None, ((0, 26), (3,), (5,)), (1, 2, 3, 4))
    chosen = choose_offsets(maps, {"stem.0": torch.tensor([2.0, 3.0, 1.0])}, {"stem.0": 2})
    assert chosen == {"stem.0": (0, 3, 26)}


def _pair() -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(SubmanifoldConv3d(2, 3, 3), BatchNormReLU(3), SubmanifoldConv3d(3, 2, 3)).double()
    nn.init.uniform_(net[1].weight, -1.0, 1.0)
    nn.init.uniform_(net[1].bias, -0.5, 0.5)
    nn.init.uniform_(net[1].running_var, 0.5, 2.0)
    return net.eval()


def test_magnitude_by_hand():
    net, x = _pair(), _input(channels=2, dtype=torch.float64)
    maps = SharedMaps.of(net, [x])
    pairs = x.cache.kernel_map(x.coords, x.coords, Relation.of(3)).pairs.starts.diff().tolist()
    scale = net[1].weight / (net[1].running_var + net[1].eps).sqrt()
    scaled = ((net[0].weight * scale).detach(), net[2].weight.detach())
    expected = [0.0] * 13
    for weight in scaled:
        sizes = [float(w.square().sum()) * n for w, n in zip(weight, pairs, strict=True)]
        for i in range(13):
            expected[i] += ((sizes[i] + sizes[26 - i]) / sum(sizes)) ** 0.5
    assert offset_scores(net, maps)["0"].tolist() == pytest.approx(expected)


def test_taylor_is_the_derivative_by_a_factor_on_the_unit():
    net, inputs = _pair(), [_input(cloud, 2, torch.float64) for cloud in (PLANE, UNSORTED)]
    maps = SharedMaps.of(net, inputs)

    def losses(model):
        return (model(x).feats.square().mean() for x in inputs)

    found = offset_scores(net, maps, "taylor", losses)["0"]
    kept = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    for i in (0, 4, 12):
        expected = 0.0
        for x in inputs:
            values = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                with torch.no_grad():
                    for layer, weight in zip((net[0], net[2]), kept, strict=True):
                        layer.weight.copy_(weight)
                        layer.weight[[i, 26 - i]] *= factor
                    values.append(float(net(x).feats.square().mean()))
            expected += ((values[0] - values[1]) / 2e-5) ** 2
        assert float(found[i]) == pytest.approx(expected, rel=1e-5)


def test_a_layer_that_is_frozen_stays_so_when_losses_are_run():
    net, x = _pair().train(), _input(channels=2, dtype=torch.float64)
    net[2].eval()
    offset_scores(net, SharedMaps.of(net, [x]), "taylor", lambda model: [model(x).feats.square().mean()])
    assert [part.training for part in net] == [True, True, False]
    assert net.training


def test_the_highest_scores_stay_with_their_opposites():
    maps = SharedMaps.of(_pair(), [_input(channels=2, dtype=torch.float64)])
    scores = torch.zeros(13)
    scores[[2, 7]] = torch.tensor([1.0, 2.0])
    assert choose_offsets(maps, {"0": scores}, {"0": 3})["0"] == (7, 13, 19)
    assert choose_offsets(maps, {"0": scores}, {"0": 5})["0"] == (2, 7, 13, 19, 24)
    # of equal ones the first
    assert choose_offsets(maps, {"0": scores}, {"0": 7})["0"] == (0, 2, 7, 13, 19, 24, 26)


def test_scores_that_cannot_be_had_say_why():
    net, x = _pair(), _input(channels=2, dtype=torch.float64)
    maps = SharedMaps.of(net, [x])
    with pytest.raises(RangeError, match="score must be one of magnitude, taylor, got 'size'"):
        offset_scores(net, maps, "size")
    with pytest.raises(RangeError, match="needs losses="):
        offset_scores(net, maps, "taylor")
    net[0].weight.requires_grad_(False)
    # what a training before it was frozen left is no gradient of this loss
    net[0].weight.grad = torch.ones_like(net[0].weight)
    with pytest.raises(RangeError, match="weights of 0 get no gradient"):
        offset_scores(net, maps, "taylor", lambda model: [model(x).feats.sum()])
    net.requires_grad_(False)
    with pytest.raises(RangeError, match="leads back to no parameter that requires a gradient"):
        offset_scores(net, maps, "taylor", lambda model: [model(x).feats.sum()])
    with torch.no_grad():
        net[0].weight[0, 0, 0] = float("nan")
    with pytest.raises(RangeError, match="scores of '0' are not finite"):
        offset_scores(net, maps)


def test_with_offsets_names_layers_as_the_network_does():
    spec = MinkUNetSpec.minkunet14(width=0.25)
    other = spec.with_offsets({"stem.2": [0, 13, 26], "down.1.0": (0, 7), "decoder.3.0.conv1": range(27)})
    assert other.stem[1].offsets == (0, 13, 26)
    assert other.encoder[1].resample.offsets == (0, 7)
    # all of them is none dropped
    assert other.decoder[3].blocks[0].conv1 == spec.decoder[3].blocks[0].conv1
    assert MinkUNetSpec.from_json(json.dumps(json.loads(other.to_json()))) == other
    assert other.with_channels({"stem.2": (8, 5)}).stem[1].offsets == (0, 13, 26)
    assert other.with_offsets({"stem.2": None, "down.1.0": None}) == spec
    with pytest.raises(RangeError, match=r"no convolution encoder\.1\.0\.shortcut\.0, stem\.1 of several"):
        spec.with_offsets({"stem.1": (0,), "encoder.1.0.shortcut.0": (0,)})
    for name, offsets in (("stem.0", (27,)), ("down.0.0", (8,)), ("up.0.0", ()), ("stem.0", (3, 3))):
        with pytest.raises(RangeError, match=rf"offsets of {name} must ascend within 0 \.\.\."):
            spec.with_offsets({name: offsets})
    assert all(a < b for a, b in pairwise(other.stem[1].offsets))


def test_offsets_of_a_share_of_the_rows_are_refused():
    net = nn.Sequential(SubmanifoldConv3d(4, 4, voxels=0.25)).eval()
    x = SparseTensor(torch.ones(len(UNSORTED.coords), 4), UNSORTED.coords)
    with pytest.raises(UnsupportedError, match="0 convolves a share of its rows"):
        SharedMaps.of(net, [x])
