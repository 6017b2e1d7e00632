"""What shares of rows cost, and a space of them."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
import torch

from pcsparse.compress.finetune import Rounds
from pcsparse.compress.measured import count_macs, measure_layers
from pcsparse.compress.pruning_voxels import VoxelPruning
from pcsparse.compress.voxel_cost import VoxelCost
from pcsparse.compress.voxel_importance import PARTS
from pcsparse.compress.voxels import prune_voxels, voxel_layers
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.nn import SubmanifoldConv3d
from pcsparse.sparse_tensor import SparseTensor
from tests.programs.compress_case import tiny_network

LAYER = "decoder.3.0.conv2"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_network().eval()


@pytest.fixture(scope="module")
def sweeps():
    generator = torch.Generator().manual_seed(1)
    made = []
    for n in (300, 200):
        coords = torch.randint(0, 12, (n, 4), generator=generator, dtype=torch.int32)
        coords[:, 0] = 0
        coords = torch.unique(coords, dim=0)
        made.append(SparseTensor(torch.randn(len(coords), 4, generator=generator), coords))
    return made


@pytest.fixture(scope="module", params=["pass", "centre"])
def prunable(model, sweeps, request):
    found = VoxelPruning((0.5, 0.75), request.param).of(model, None)
    found.measure(sweeps, step=1000, runs=2)
    return found


def rest_of(prunable):
    return prunable.cost.layers[0].rest


def with_cost(prunable, cost):
    """The same layers at another cost, of which the network takes what they take together, and 5 ms."""
    other = copy.copy(prunable)
    other._cost = replace(cost, network=replace(cost.network, at=(1.0, 9.0), ms=(6.0, 14.0)))
    return other


def test_the_table_counts_what_the_network_multiplies(model, sweeps, prunable):
    cost, rest = prunable.cost, rest_of(prunable)
    assert [layer.name for layer in cost.layers] == list(voxel_layers(model, rest))
    assert ("stem.0" in voxel_layers(model, rest)) == (rest == "centre")
    assert cost.total("MACs") == pytest.approx(count_macs(model, sweeps))
    # one layer alone, whose input no other layer's rows have changed
    for kept in (250, 500):
        pruned = prune_voxels(model, {LAYER: kept / PARTS}, rest)
        assert cost.total("MACs", {LAYER: kept}) == pytest.approx(count_macs(pruned, sweeps))
    assert cost.total("bytes", {LAYER: 250}) == sum(w.nbytes for w in model.parameters())
    with pytest.raises(RangeError, match=r"'down.0.0' must convolve all rows"):
        cost.total("ms", {"down.0.0": 500})


def test_milliseconds_are_of_choosing_filtering_and_convolving(prunable):
    layer = next(one for one in prunable.cost.layers if one.name == LAYER)
    assert (layer.c_in, layer.c_out) == (8, 8)
    made = replace(
        layer, rows=40.0, pairs=400.0, kept=(250, 500), pairs_kept=(0.3, 0.6), ms=(4.0, 6.0), whole_ms=7.0
    )
    assert [made.milliseconds(kept) for kept in (250, 375, 500, 750, PARTS)] == [4.0, 5.0, 6.0, 8.0, 7.0]
    assert made.of_pairs(0.45) == 5.0
    assert made.macs(250) == 0.3 * made.pairs * 64
    assert made.macs(750) == pytest.approx(0.8 * made.pairs * 64)
    assert replace(made, c_in=16).macs(250) == 2 * made.macs(250)
    # no row is convolved: each keeps one pair of ten, or none
    least = 0.0 if rest_of(prunable) == "pass" else 0.1
    assert made.macs(125) == pytest.approx((least + 0.3) / 2 * made.pairs * 64)
    cost = replace(prunable.cost, layers=(made,), map_ms=2.0,
                   network=replace(prunable.cost.network, at=(4.0, 7.0), ms=(14.0, 20.0)))  # fmt: skip
    # a line of slope 2 through (7, 20): 6 stay
    assert cost.total("ms") == 2.0 + 20.0
    assert cost.total("ms", {LAYER: 500}) == 2.0 + 6.0 + 2 * 6.0


@pytest.mark.parametrize("unit", ["ms", "MACs"])
def test_a_space_costs_what_the_table_says(prunable, unit):
    # all layers as one that gains by each row that passes
    layers = [replace(layer, ms=(1.0, 2.0), whole_ms=3.0) for layer in prunable.cost.layers]
    prunable = with_cost(prunable, replace(prunable.cost, layers=tuple(layers)))
    space = prunable.space(unit)
    assert space.steps[0].widths == (250, 500, PARTS)
    mixed = tuple((250, 500, PARTS)[i % 3] for i in range(len(space.steps)))
    kept = {step.name: width for step, width in zip(space.steps, mixed, strict=True)}
    assert space.cost(mixed) == pytest.approx(prunable.cost.total(unit, kept))
    assert space.cost(space.largest) == pytest.approx(prunable.cost.total(unit))


def test_no_share_is_offered_at_which_choosing_rows_costs_more_than_it_saves(prunable):
    slow, fast, *others = prunable.cost.layers
    layers = (
        # half the rows take longer than all, a quarter of them longer than half
        replace(slow, ms=(5.0, 4.0), whole_ms=3.0),
        # a quarter as long as half
        replace(fast, ms=(2.0, 2.0), whole_ms=3.0),
        *others,
    )
    space = with_cost(prunable, replace(prunable.cost, layers=layers)).space("ms")
    assert [step.widths for step in space.steps[:2]] == [(PARTS,), (500, PARTS)]
    # of bytes nothing can be saved
    nothing = prunable.space("bytes")
    assert {step.widths for step in nothing.steps} == {(PARTS,)}
    assert nothing.cost(nothing.largest) == prunable.cost.total("bytes")


def test_a_network_of_the_space_has_these_shares_and_weights_of_its_own(model, prunable):
    space, rest = prunable.space("MACs"), rest_of(prunable)
    small = prunable.networks(space)((250, 500, *[PARTS] * (len(space.steps) - 2)))
    shares = {name: part.voxels for name, part in voxel_layers(small, rest).items()}
    assert {part.rest for part in voxel_layers(small).values() if part.voxels} == {rest}
    assert list(shares.values()) == [0.25, 0.5, *[None] * (len(space.steps) - 2)]
    assert list(shares) == [step.name for step in space.steps]
    assert all(part.voxels is None for part in voxel_layers(model).values())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        next(small.parameters()).zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_makes_networks_and_cuts_them_reaches_other_processes(model, prunable):
    space, axis = prunable.space("MACs"), prunable.scan_axis()
    widths = (500,) * len(space.steps)
    there = pickle.loads(pickle.dumps(prunable.networks(space)))(widths)
    assert {part.voxels for part in voxel_layers(there, rest_of(prunable)).values()} == {0.5}
    again = pickle.loads(pickle.dumps(axis))
    for known in (axis, again):
        assert known.macs(LAYER, 250) == prunable.cost.total("MACs", {LAYER: 250})
        assert known.milliseconds(LAYER, 250) == prunable.cost.total("ms", {LAYER: 250})
    again.cut(there, LAYER, 100)
    assert voxel_layers(there)[LAYER].voxels == 0.1
    assert all(part.voxels is None for part in voxel_layers(model).values())


def test_what_was_measured_comes_back_from_its_file_and_other_files_do_not(prunable, model, sweeps, tmp_path):
    path = tmp_path / "cost.json"
    prunable.save_cost(path)
    rest = rest_of(prunable)
    again = VoxelPruning((0.5, 0.75), rest).of(model, None)
    with pytest.raises(RangeError, match="measure it first"):
        again.summary()
    again.load_cost(path, sweeps)
    assert again.cost == prunable.cost
    other = VoxelPruning((0.5, 0.75), "pass" if rest == "centre" else "centre").of(model, None)
    with pytest.raises(FormatError, match="no cost of this network"):
        other.load_cost(path, sweeps)
    content = json.loads(path.read_text())
    content["layers"] = content["layers"][1:]
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="no cost of this network"):
        again.load_cost(path, sweeps)
    path.write_text("{}")
    with pytest.raises(FormatError, match=r"no cost of voxels.*measure it anew"):
        VoxelCost.load(path)


def test_rounds_let_more_rows_pass_each_time(prunable):
    seen, space = [], prunable.space("MACs")

    def fit(network, rate):
        seen.append((rate, voxel_layers(network)[LAYER].voxels, voxel_layers(network)["stem.2"].voxels))

    kept = tuple(500 if step.name == LAYER else PARTS for step in space.steps)
    last = prunable.tune(space, kept, fit, Rounds(lr=1.0, n=2, lr_factor=0.1), None)
    assert voxel_layers(last)[LAYER].voxels == 0.5
    assert [rate for rate, _, _ in seen] == [0.1, 0.1]
    assert seen[0][1] > seen[1][1] == 0.5
    assert {stem for _, _, stem in seen} == {None}


def test_a_report_foresees_a_layer_by_its_pairs(model, sweeps, prunable):
    small = prune_voxels(model, {LAYER: 0.5}, rest_of(prunable))
    layers = {layer.name: layer for layer in measure_layers(model, small, sweeps[:1], runs=1)}
    known = {layer.name: layer for layer in prunable.cost.layers}
    found = prunable.predicted(layers[LAYER])
    share = layers[LAYER].after.macs / layers[LAYER].before.macs
    assert 0.0 < share < 1.0
    assert found == known[LAYER].of_pairs(share)
    assert prunable.predicted(layers["stem.2"]) == known["stem.2"].whole_ms
    assert (prunable.predicted(layers["stem.0"]) is None) == (rest_of(prunable) == "pass")
    assert prunable.predicted(layers["down.0.0"]) is None


def test_a_cost_from_before_there_was_a_choice_is_of_rows_that_pass(prunable, model, sweeps, tmp_path):
    if rest_of(prunable) != "pass":
        pytest.skip("files of format 1 are of rows that pass")
    path = tmp_path / "cost.json"
    prunable.save_cost(path)
    content = json.loads(path.read_text())
    content["format"] = 1
    for layer in content["layers"]:
        assert (layer.pop("c_out"), layer.pop("rest")) == (layer["c_in"], "pass")
        layer["channels"] = layer.pop("c_in")
    path.write_text(json.dumps(content))
    assert VoxelCost.load(path) == prunable.cost
    # and so are the settings of a run that is gone on with
    assert VoxelPruning((0.5,), "pass").facts() == {"axis": "voxels", "ratios": [0.5]}
    assert VoxelPruning((0.5,)).facts("scan") == {"axis": "voxels", "rest": "centre"}


def test_networks_without_such_layers_or_with_rows_left_out_are_refused(model):
    with pytest.raises(UnsupportedError, match=r"no layer that need not .* as many channels out as in"):
        VoxelPruning(rest="pass").of(torch.nn.Sequential(SubmanifoldConv3d(3, 4)), None)
    with pytest.raises(UnsupportedError, match="no layer that need not convolve all rows"):
        VoxelPruning().of(torch.nn.Sequential(SubmanifoldConv3d(3, 4, 1)), None)
    with pytest.raises(RangeError, match=r"rest must be 'centre' or 'pass', got 'drop'"):
        VoxelPruning(rest="drop")
    with pytest.raises(RangeError, match=r"voxels=0.5 already"):
        VoxelPruning().of(prune_voxels(model, 0.5), None)
    with pytest.raises(UnsupportedError, match="with_voxels"):
        VoxelPruning().of(torch.nn.Sequential(SubmanifoldConv3d(4, 4)), None)


@pytest.mark.parametrize("ratios", [(), (1.0,), (-0.1,), (float("nan"),)])
def test_ratios_outside_are_refused(ratios):
    with pytest.raises(RangeError, match=r"compress.ratios"):
        VoxelPruning(ratios)


def test_rows_that_are_left_out_are_not_made_up_for(prunable, model, sweeps):
    space = prunable.space("MACs")
    with pytest.raises(UnsupportedError, match="set reconstruct=false"):
        prunable.refit(model, space, space.smallest, sweeps)
