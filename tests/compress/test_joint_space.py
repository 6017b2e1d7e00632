"""Channels and kernel offsets in one space: its costs, its networks, and every search over it."""

import copy
from dataclasses import replace

import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.compress.channels import choose_channels, mask_channels
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.finetune import Rounds
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.joint_cost import JointCost
from pcsparse.compress.joint_space import (
    CHANNELS,
    OFFSETS,
    axis_of_step,
    joint_choice,
    joint_offsets,
    joint_space,
)
from pcsparse.compress.measured import count_macs, measure_layers
from pcsparse.compress.offset_cost import search_of
from pcsparse.compress.offsets import mask_offsets
from pcsparse.compress.pruning_channels import ChannelPruning
from pcsparse.compress.pruning_joint import OFFSETS_FILE, JointPruning
from pcsparse.compress.pruning_offsets import OffsetPruning
from pcsparse.compress.search.amc_settings import AMCSettings
from pcsparse.compress.search.amc_state import StateMaker
from pcsparse.compress.search.interface import search
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec, SecondBackbone, SecondSpec
from tests.clouds import SHELL, UNSORTED
from tests.compress.networks import RecurrentNet
from tests.compress.search.spaces import additive
from tests.compress.search.test_interface import METHODS

SETTINGS = JointPruning(ChannelPruning((0.25, 0.5, 0.75), 2), OffsetPruning((0.3, 0.6, 0.9)))
UNITS = ("ms", "MACs", "bytes")


def measured(model, sweeps, settings=SETTINGS):
    found = settings.of(model, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pcsparse.timing._BUSY_SECONDS", 0.01)
        found.measure(sweeps, step=1000, runs=1)
    return found


@pytest.fixture(scope="module")
def parts(one_thread):
    torch.manual_seed(0)
    model = MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 4)).eval()
    sweeps = [SparseTensor(torch.randn(len(c.coords), 3), c.coords) for c in (UNSORTED, SHELL)]
    return model, sweeps, measured(model, sweeps)


def drawn(space, n):
    """Some assignments."""
    rng = torch.Generator().manual_seed(1)
    sizes = torch.tensor(space.sizes)
    picks = [(torch.rand(len(sizes), generator=rng) * sizes).int().tolist() for _ in range(n)]
    return [space.assignment(pick) for pick in picks]


def test_steps_carry_their_axis_and_offsets_come_before_what_their_layers_write(parts):
    _, _, prunable = parts
    space = prunable.space("ms")
    names = [step.name for step in space.steps]
    assert names[:3] == ["offsets of stem.0", "channels of stem.0", "channels of stem.2"]
    groups = [group.name for group in prunable.channels.graph.free]
    assert [name.removeprefix(CHANNELS) for name in names if name.startswith(CHANNELS)] == groups
    maps = [group.name for group in prunable.cost.maps.groups if group.free]
    assert [name.removeprefix(OFFSETS) for name in names if name.startswith(OFFSETS)] == maps
    for name in maps:
        written = next((i for i, n in enumerate(names) if n == CHANNELS + name), len(names))
        assert names.index(OFFSETS + name) < written
    first, second = space.steps[:2]
    assert (first.widths, second.widths) == ((3, 11, 19, 27), (2, 4, 6, 8))
    assert (first.kind, second.kind, first.kernel) == (2, 0, 27)
    term = next(term for term in space.terms if term.name == "decoder.3.0.conv1 (conv)")
    assert set(term.groups) == {
        "channels of up.3.0", "channels of stem.2", "channels of decoder.3.0.conv1", "offsets of stem.0",
    }  # fmt: skip


@pytest.mark.parametrize("scope", ["map", "layer"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_cost_of_an_assignment_is_that_of_its_widths_and_offsets(parts, unit, scope):
    model, sweeps, prunable = parts
    if scope == "layer":
        prunable = measured(model, sweeps[:1], replace(SETTINGS, offsets=OffsetPruning((0.6,), "layer")))
    space, cost, graph = prunable.space(unit), prunable.cost, prunable.channels.graph
    for assignment in drawn(space, 10):
        chosen = joint_offsets(space, assignment, cost.maps, prunable.scores)
        assert {OFFSETS + name: len(kept) for name, kept in chosen.items()} == {
            step.name: kept for step, kept in zip(space.steps, assignment, strict=True) if step.kind == 2
        }
        widths = graph.widths(joint_choice(space, assignment).widths)
        expected = cost.total(unit, widths, chosen)
        if scope == "layer" and unit == "ms":
            # the search of maps counts as that of the whole network
            expected += sum(cost.searches("ms").values()) - sum(cost.searches("ms", chosen).values())
        assert space.cost(assignment) == pytest.approx(expected, rel=1e-9)
        whole = {name: cost.maps.group(name).offsets for name in chosen}
        assert cost.total(unit, widths, whole) == pytest.approx(cost.whole.total(unit, widths), rel=1e-9)
    assert space.cost(space.largest) == pytest.approx(cost.whole.total(unit), rel=1e-9)


def test_counts_are_those_of_the_sliced_network(parts):
    _, sweeps, prunable = parts
    macs, size = prunable.space("MACs"), prunable.space("bytes")
    networks = prunable.networks(macs)
    for assignment in drawn(macs, 3):
        net = networks(assignment)
        assert macs.cost(assignment) == pytest.approx(count_macs(net, sweeps))
        assert size.cost(assignment) == 4 * sum(p.numel() for p in net.parameters())
        kept = joint_choice(macs, assignment)
        assert {group.name: group.width for group in ChannelGraph.of(net).free} == kept.widths
        maps = SharedMaps.of(net, sweeps)
        assert {name: len(maps.group(name).offsets) for name in kept.counts} == kept.counts


def test_weights_of_a_layer_that_is_called_again_count_once():
    net = RecurrentNet().eval()
    x = SparseTensor(torch.randn(len(SHELL.coords), 3), SHELL.coords)
    table, maps = measure_cost(net, [x], runs=1, step=1000), SharedMaps.of(net, [x])
    cost = JointCost(maps, table, table, {})
    chosen = {"first.0": (12, 13, 14)}
    # 24 offsets less in both convolutions, once each
    assert cost.total("bytes", None, chosen) == table.total("bytes") - 4 * 24 * (3 * 8 + 8 * 8)
    assert cost.total("MACs", None, chosen) == pytest.approx(maps.macs(chosen))


def test_sliced_is_masked(parts):
    model, sweeps, prunable = parts
    space = prunable.space("ms")
    maps, graph = prunable.cost.maps, prunable.channels.graph
    for assignment in drawn(space, 3):
        masked = copy.deepcopy(model)
        widths = joint_choice(space, assignment).widths
        mask_channels(masked, graph, choose_channels(prunable.channels.scores, widths))
        mask_offsets(masked, maps, joint_offsets(space, assignment, maps, prunable.scores))
        with torch.no_grad():
            found, expected = prunable.networks(space)(assignment)(sweeps[0]).feats, masked(sweeps[0]).feats
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_milliseconds_are_on_a_line_over_pairs_at_each_width_by_hand(parts):
    *_, prunable = parts
    name = "decoder.3.0.conv2"
    found = next(one for one in prunable.cost.whole.layers if one.name == name and one.kind == "conv")
    layer = replace(found, widths_in=(2, 8), widths_out=(2, 8), n_pairs=1000.0, ms=((1.0, 4.0), (4.0, 10.0)))

    def cost(ms, n_pairs=400.0):
        fewer = replace(layer, ms=ms, n_pairs=n_pairs)
        others = [one for one in prunable.cost.some.layers if one.name != name]
        return replace(prunable.cost, some=replace(prunable.cost.some, layers=(*others, fewer)))

    line = cost(((0.9, 3.4), (3.4, 7.0)))
    assert line.milliseconds(layer, 8, 8, 1.0) == 10.0
    assert line.milliseconds(layer, 8, 8, 0.4) == pytest.approx(7.0)
    assert line.milliseconds(layer, 8, 8, 0.7) == pytest.approx(8.5)
    # of the narrow one less is saved, and of a width between what its neighbours say
    assert line.milliseconds(layer, 2, 2, 0.7) == pytest.approx(0.95)
    assert line.milliseconds(layer, 5, 2, 0.4) == pytest.approx(2.15)
    # beyond what was timed the line goes on, not below nothing
    assert line.milliseconds(layer, 8, 8, 0.1) == pytest.approx(5.5)
    assert cost(((0.1, 0.1), (0.1, 0.1))).milliseconds(layer, 8, 8, 0.1) == 0.0
    # fewer offsets that took longer save nothing, nor do as many pairs
    assert cost(((2.0, 5.0), (5.0, 11.0))).milliseconds(layer, 8, 8, 0.4) == 10.0
    assert cost(((0.5, 0.5), (0.5, 0.5)), 1000.0).milliseconds(layer, 8, 8, 0.4) == 10.0


def test_the_search_of_a_map_falls_with_the_pairs_that_it_has_to_find(parts):
    *_, prunable = parts
    maps = prunable.cost.maps
    every, less = (sum(maps.searched_pairs(chosen).values()) for chosen in (None, prunable.cost.kept))

    def with_maps(whole, some):
        cost = prunable.cost
        return replace(cost, whole=replace(cost.whole, map_ms=whole), some=replace(cost.some, map_ms=some))

    cost = with_maps(10.0, 8.0)
    space = joint_space(cost, prunable.channels.graph, prunable.scores)
    term = next(term for term in space.terms if term.name == search_of("stem.0"))
    assert term.groups == (space.steps[0].name,) == ("offsets of stem.0",)
    pairs = maps.searched_pairs()["stem.0"]
    assert term.table[-1] == pytest.approx(2.0 / (every - less) * pairs)
    chosen = joint_offsets(space, space.smallest, maps, prunable.scores)
    left = maps.searched_pairs(chosen)["stem.0"]
    assert left < pairs
    assert term.table[0] == pytest.approx(term.table[-1] * left / pairs)
    assert sum(with_maps(10.0, 8.0).searches("ms", cost.kept).values()) == pytest.approx(
        2.0 / (every - less) * less
    )
    # maps that take longer with fewer offsets fall with none, and never below nothing
    assert set(with_maps(10.0, 11.0).searches("ms").values()) == {0.0}
    assert with_maps(10.0, 0.0).fixed("ms") == pytest.approx(cost.whole.rest[0])
    assert not any(term.name.startswith("search") for term in prunable.space("MACs").terms)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_search_meets_a_budget_of_both(parts, method):
    *_, prunable = parts
    space = prunable.space("MACs")
    budget = 0.3 * space.cost(space.largest)
    score = additive(space, [0.9 / len(space.steps)] * len(space.steps))
    result = search(space, score, budget, 34, method=method)
    assert result.best.cost <= budget
    assert all(trial.cost <= budget for trial in result.trials if not trial.probe)
    kept = joint_choice(space, result.best.widths)
    assert set(kept.widths) == {group.name for group in prunable.channels.graph.free}
    assert len(kept.widths) + len(kept.counts) == len(space.steps)


def test_a_state_of_the_agent_tells_the_axis(parts):
    *_, prunable = parts
    space = prunable.space("ms")
    settings = AMCSettings()
    states, place = StateMaker(space, settings), settings.features.index("kind")
    indices = space.indices(space.cheapest)
    told = [float(states.state(i, indices, 1.0)[place]) for i in range(len(space.steps))]
    of_offsets = {told[i] for i, step in enumerate(space.steps) if step.name.startswith(OFFSETS)}
    of_channels = {told[i] for i, step in enumerate(space.steps) if step.name.startswith(CHANNELS)}
    assert of_offsets == {1.0}
    assert not of_offsets & of_channels


def test_a_cost_that_was_written_is_read_as_it_was(parts, tmp_path):
    model, sweeps, prunable = parts
    prunable.save_cost(tmp_path / "cost.json")
    again = SETTINGS.of(model, None)
    with pytest.raises(RangeError, match="the cost is not known yet"):
        again.space("ms")
    again.load_cost(tmp_path / "cost.json", sweeps)
    for unit in UNITS:
        assert again.space(unit).fingerprint == prunable.space(unit).fingerprint
    assert again.summary() == prunable.summary()
    (tmp_path / OFFSETS_FILE).write_text("{}")
    with pytest.raises(FormatError, match=rf"{OFFSETS_FILE} is no cost table"):
        again.load_cost(tmp_path / "cost.json", sweeps)


def test_a_scan_of_both_cuts_each_step_alone(parts):
    model, sweeps, prunable = parts
    axis, space = prunable.scan_axis(), prunable.space("MACs")
    assert dict(axis.sizes()) == {step.name: step.full for step in space.steps}
    assert set(axis.facts()) == {"channels", "offsets"}
    assert axis.labels()["offsets of stem.0"] == "map of stem.0 and 3 more"
    assert not any(name.startswith("channels") for name in axis.labels())
    for name, ratio, kept in (("channels of stem.0", 0.5, 4), ("offsets of stem.0", 0.6, 11)):
        assert axis.kept(name, ratio) == kept
        i = [step.name for step in space.steps].index(name)
        alone = (*space.largest[:i], kept, *space.largest[i + 1 :])
        assert axis.macs(name, kept) == pytest.approx(space.cost(alone))
        assert axis.milliseconds(name, kept) == pytest.approx(prunable.space("ms").cost(alone))
        cut = copy.deepcopy(model)
        axis.cut(cut, name, kept)
        with torch.no_grad():
            torch.testing.assert_close(
                cut(sweeps[0]).feats, prunable.networks(space)(alone)(sweeps[0]).feats, rtol=1e-4, atol=1e-5
            )


def test_rounds_end_with_the_assignment(parts):
    _, sweeps, prunable = parts
    space = prunable.space("MACs")
    assignment, seen = drawn(space, 1)[0], []

    def fit(model, lr):
        seen.append(sum(parameter.numel() for parameter in model.parameters()))

    net = prunable.tune(space, assignment, fit, Rounds(lr=1e-3, n=2), None)
    # which offsets stay is asked anew of the narrower network, how many is not
    kept, maps = joint_choice(space, assignment), SharedMaps.of(net, sweeps)
    assert {group.name: group.width for group in ChannelGraph.of(net).free} == kept.widths
    assert {name: len(maps.group(name).offsets) for name in kept.counts} == kept.counts
    assert len(seen) == 2
    assert seen[0] > seen[1]


def test_what_is_predicted_of_a_layer_has_both_in_it(parts):
    model, sweeps, prunable = parts
    space = prunable.space("ms")
    small = prunable.networks(space)(space.smallest)
    layers = {(layer.name, layer.kind): layer for layer in measure_layers(model, small, sweeps[:1], runs=1)}
    both = layers["decoder.3.0.conv2", "conv"]
    table = next(one for one in prunable.cost.whole.layers if (one.name, one.kind) == (both.name, "conv"))
    part = both.after.macs / both.after.c_in / both.after.c_out
    part /= both.before.macs / both.before.c_in / both.before.c_out
    assert 0.0 < part < 1.0
    expected = prunable.cost.milliseconds(table, both.after.c_in, both.after.c_out, part)
    assert prunable.predicted(both) == pytest.approx(expected)
    linear = layers["classifier", "linear"]
    assert prunable.predicted(linear) == prunable.channels.predicted(linear)


def test_layers_that_lost_channels_or_offsets_are_refitted(parts):
    _, sweeps, prunable = parts
    space = prunable.space("ms")
    sliced = prunable.networks(space)(space.smallest)
    refits = prunable.refit(sliced, space, space.smallest, sweeps)
    assert {refit.layer for refit in refits} >= {"stem.0", "stem.2", "classifier"}
    assert all(refit.after <= refit.before for refit in refits)
    # beside what channels alone would give: its inputs are whole, its offsets are not
    (stem,) = [refit for refit in refits if refit.layer == "stem.0"]
    assert 0 < stem.after < stem.before


def test_what_does_not_go_together_is_refused(parts):
    _, _, prunable = parts
    with pytest.raises(RangeError, match=r"'stem\.0' is no step of a joint space"):
        axis_of_step("stem.0")
    assert prunable.places("offsets of stem.0").startswith("stem.0, stem.2")
    assert "→" in prunable.places("channels of stem.0")


def test_a_network_whose_spec_drops_no_offsets_is_refused_before_anything_is_measured():
    spec = SecondSpec.voxel(4, width=0.25)
    assert hasattr(spec, "with_channels")
    with pytest.raises(UnsupportedError, match="SecondBackbone has no Spec with a method with_offsets"):
        SETTINGS.of(SecondBackbone(spec), None)


def test_half_a_cost_says_what_to_remove(parts, tmp_path):
    model, sweeps, prunable = parts
    prunable.save_cost(tmp_path / "cost.json")
    (tmp_path / OFFSETS_FILE).unlink()
    with pytest.raises(FormatError, match=rf"{OFFSETS_FILE} is gone.*cost\.json; remove that too"):
        SETTINGS.of(model, None).load_cost(tmp_path / "cost.json", sweeps)


def test_which_offsets_were_timed_does_not_hang_on_the_scores_of_today(parts, monkeypatch):
    model, sweeps, prunable = parts
    again = SETTINGS.of(model, None)
    maps = again._look(sweeps)
    # as Taylor scores of other sweeps would be
    again.scores = {name: 1 - values for name, values in again.scores.items()}
    assert again._some(maps) == prunable._some(maps)
