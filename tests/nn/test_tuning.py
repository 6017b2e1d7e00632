"""A tuned network: every convolution is found, and the table reaches its plans."""

import copy

import pytest
import torch

from pcsparse.coords.relation import Relation
from pcsparse.coords.watched_map import TRANSPOSED
from pcsparse.engine.autotune import table_of, tune
from pcsparse.engine.choice import DATAFLOWS, Choice
from pcsparse.engine.conv_call import groups_of
from pcsparse.engine.output_stationary import OutputStationaryConfig
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import Bucket, TuneTable
from pcsparse.errors import ShapeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import SparseConv3d, SparseConvTranspose3d, SparseInverseConv3d, SubmanifoldConv3d
from pcsparse.nn import tuning as tuning_module
from pcsparse.nn.tuning import conv_calls, use_tuning
from pcsparse.ops import conv as conv_module
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like


@pytest.fixture
def net() -> MinkUNet:
    return MinkUNet(MinkUNetSpec.minkunet14(width=0.25)).eval()


@pytest.fixture
def x(rng) -> SparseTensor:
    coords = lidar_like(700)
    return SparseTensor(torch.randn(len(coords), 4, generator=rng), coords)


def _seen(monkeypatch) -> list[tuple[ConvProblem, str]]:
    """Problems and plans of the operators that run from now on."""
    real, seen = conv_module.plan_for, []

    def spy(problem, *args):
        plan = real(problem, *args)
        seen.append((problem, plan.encode()))
        return plan

    monkeypatch.setattr(conv_module, "plan_for", spy)
    return seen


def test_the_calls_are_what_the_network_runs(net, x, monkeypatch):
    state = copy.deepcopy(net.state_dict())
    calls = conv_calls(net, x)
    seen = _seen(monkeypatch)
    net.train()
    net(x)

    assert {Bucket.of(call.problem) for call in calls} == {Bucket.of(problem) for problem, _ in seen}
    assert sum(len(call.names) for call in calls) == len(seen)
    names = [name for call in calls for name in call.names]
    assert set(names) < {name for name, _ in net.named_modules()}
    for call in calls:
        kmap, problem = call.kmap, call.problem
        assert (kmap.n_in, kmap.n_out, kmap.n_pairs) == (problem.n_in, problem.n_out, problem.n_pairs)
    assert not any(module._forward_hooks for module in net.modules())
    # nothing ran: running statistics are as they were before the call
    fresh = MinkUNet(net.spec)
    fresh.load_state_dict(state)
    conv_calls(fresh.eval(), x)
    assert not fresh.training
    assert all(torch.equal(a, state[name]) for name, a in fresh.state_dict().items())


def test_the_dtype_of_the_calls(net, x):
    calls = conv_calls(net, x, torch.bfloat16)
    assert {call.problem.dtype for call in calls} == {torch.bfloat16}


def test_a_transposed_convolution_gets_its_own_map(x):
    coarse = SparseTensor(x.feats, x.coords * torch.tensor([1, 2, 2, 2], dtype=torch.int32), stride=(2, 2, 2))
    [call] = conv_calls(SparseConvTranspose3d(4, 6), coarse)
    assert call.kmap.n_in == len(coarse)
    assert call.problem.n_out == 8 * len(coarse)


def test_a_table_reaches_every_convolution_and_leaves_again(net, x, monkeypatch):
    calls = conv_calls(net, x)
    odd = Choice("output_stationary", OutputStationaryConfig(tile=96))
    table = TuneTable.here("cpu", {(Bucket.of(call.problem), "forward"): odd for call in calls})
    keys = set(net.state_dict())
    with torch.no_grad():
        before = net(x).feats
        assert use_tuning(net, table) is net
        seen = _seen(monkeypatch)
        tuned = net(x).feats
        assert seen
        assert all(plan.startswith(odd.encode() + "|") for _, plan in seen)
        assert set(net.state_dict()) == keys
        # a copy, as of averaged weights, keeps it
        assert torch.equal(copy.deepcopy(net)(x).feats, tuned)

        use_tuning(net, None)
        del seen[:]
        assert torch.equal(net(x).feats, before)
    assert seen
    assert not any(odd.encode() in plan for _, plan in seen)


def test_a_stored_tuning_gives_stored_bits(x, rng):
    layer = SubmanifoldConv3d(4, 40)
    [call] = conv_calls(layer, x)
    table = table_of([tune([call], runs=1)], "cpu")
    odd = Choice("gather_scatter", tuple(DATAFLOWS["gather_scatter"].configs(call.problem))[3])
    table = table.merged(TuneTable.here("cpu", {(Bucket.of(call.problem), "forward"): odd}))
    use_tuning(layer, table)
    out = layer(x).feats.detach()
    by_hand = DATAFLOWS["gather_scatter"].forward(x.feats, layer.weight.detach(), call.kmap, odd.config)
    assert torch.equal(out, by_hand)


# groups, c_in, c_out and the channels of the convolutions that run: two bundles of one size, a remainder, one
GROUPED = {
    "depthwise": (32, 32, 32, [(16, 16), (16, 16)]),
    "remainder": (20, 20, 40, [(8, 16), (8, 16), (4, 8)]),
    "wide": (2, 40, 34, [(20, 17), (20, 17)]),
}


@pytest.mark.parametrize(("groups", "c_in", "c_out", "channels"), GROUPED.values(), ids=GROUPED.keys())
def test_a_grouped_layer_is_the_convolutions_of_its_bundles(rng, monkeypatch, groups, c_in, c_out, channels):
    coords = lidar_like(300)
    x = SparseTensor(torch.randn(len(coords), c_in, generator=rng), coords)
    layer = torch.nn.Sequential(SubmanifoldConv3d(c_in, c_out, groups=groups))
    calls = conv_calls(layer, x)
    assert sorted((c.problem.c_in, c.problem.c_out) for c in calls) == sorted(set(channels))
    for call in calls:
        assert call.names == ("0",) * channels.count((call.problem.c_in, call.problem.c_out))

    odd = Choice("output_stationary", OutputStationaryConfig(tile=96))
    use_tuning(layer, TuneTable.here("cpu", {(Bucket.of(call.problem), "forward"): odd for call in calls}))
    seen = _seen(monkeypatch)
    layer(x)
    assert [(problem.c_in, problem.c_out) for problem, _ in seen] == channels
    assert {problem for problem, _ in seen} == {call.problem for call in calls}
    assert all(plan.startswith(odd.encode() + "|") for _, plan in seen)


def test_the_problem_of_a_call_is_checked_and_whole(x, monkeypatch):
    known = x.cache.kernel_map(x.coords, x.coords, Relation.of(3))
    kmap = known._like(known.born, symmetric=False, distinct=False)
    monkeypatch.setattr(tuning_module, "_built", lambda *args: (kmap, False))
    [call] = conv_calls(SubmanifoldConv3d(4, 6), x)
    assert call.problem == ConvProblem.of(x.feats, torch.zeros(27, 4, 6), kmap)
    assert not call.problem.distinct
    # the layer's map has another number of offsets
    monkeypatch.setattr(
        tuning_module, "_built", lambda *args: (kmap.keep_offsets(torch.arange(27) < 5), False)
    )
    with pytest.raises(ShapeError, match="5 offsets"):
        conv_calls(SubmanifoldConv3d(4, 6), x)


def test_a_layer_that_reads_the_cloud_and_one_that_goes_back(net, x):
    calls = conv_calls(net, x)
    [first] = [call for call in calls if call.first]
    assert (first.problem.c_in, first.first) == (4, 1)
    assert first.times("grad_feats") == len(first.names) - 1
    turned = [call for call in calls if call.turned]
    assert turned
    built = {id(kmap) for kmap in x.cache.maps().values()}
    assert {id(call.built) for call in calls} <= built
    # down and up again on one map
    assert all(any(c.built is call.built and not c.turned for c in calls) for call in turned)


def test_features_that_want_a_gradient_get_it_from_the_first_layer(x):
    layer = SubmanifoldConv3d(4, 8)
    y = SparseTensor(x.feats.clone().requires_grad_(), x.coords)
    for cloud, times in ((x, 0), (y, 1)):
        [call] = conv_calls(layer, cloud)
        assert call.times("grad_feats") == times
        passes = {found.of for found in tune([call], runs=1).passes}
        # what is tuned is what a step computes
        layer(cloud).feats.sum().backward()
        assert ("grad_feats" in passes) == (cloud.feats.grad is not None) == bool(times)


def test_a_step_derives_of_its_maps_what_the_tuning_has_counted(x):
    net = torch.nn.Sequential(
        SubmanifoldConv3d(4, 8),
        SubmanifoldConv3d(8, 8),
        SparseConv3d(8, 8, 2, 2),
        SparseInverseConv3d(8, 4, 2, 2),
    )
    groups = [tune(group, runs=1) for group in groups_of(conv_calls(net, x))]
    use_tuning(net, table_of(groups, "cpu"))
    # a new cloud
    y = SparseTensor(x.feats, x.coords)
    net(y).feats.square().sum().backward()
    counted, derived = set(), set()
    for group in groups:
        kmap = group.calls[0].built
        assert all(call.built is kmap for call in group.calls)
        parts = [part for _, part in group.parts("best") if part.name != TRANSPOSED]
        counted |= {(kmap.n_out, kmap.volume, part.turned, part.name) for part in parts}
    for kmap in y.cache.maps().values():
        for turned, seen in ((False, kmap), (True, kmap.transposed())):
            names = seen._derived.keys() - {"header", "problems", "lasting", TRANSPOSED}
            derived |= {(kmap.n_out, kmap.volume, turned, name) for name in names}
    assert derived == counted
    assert len(derived) >= 4
