"""Traces: what a run of a network leaves, and layers that are none."""

import pytest
import torch

from pcsparse.coords.keys import pack
from pcsparse.errors import DtypeError, RangeError, UnsupportedError
from pcsparse.hardware.trace import CoarsenStep, LayerTrace, MapStep, NetworkTrace
from pcsparse.hardware.trace_sparse import trace_sparse
from pcsparse.models.minkunet import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNorm, Linear, SparseConv3d, SparseConvTranspose3d, SubmanifoldConv3d
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like


@pytest.fixture(scope="module")
def cloud():
    coords = lidar_like(800)
    return SparseTensor(torch.zeros(len(coords), 4), coords)


@pytest.fixture(scope="module")
def traced(cloud):
    net = MinkUNet(MinkUNetSpec.minkunet18(width=0.125)).eval()
    return net, trace_sparse(net, cloud, "unet", itemsize=4)


def test_layers_are_those_of_the_network(traced):
    net, trace = traced
    wanted = [m for m in net.modules() if hasattr(m, "weight") and m.weight.dim() in (2, 3)]
    assert len(trace.layers) == len(wanted) == 50
    by_name = {layer.name: layer for layer in trace.layers}
    for name, layer in by_name.items():
        weight = net.get_submodule(name).weight
        want = (layer.volume, layer.c_in, layer.c_out) if weight.dim() == 3 else (layer.c_out, layer.c_in)
        assert tuple(weight.shape) == want
        assert layer.itemsize == 4
        assert not layer.follows
    assert by_name["classifier"].is_linear
    assert by_name["encoder.1.0.shortcut.0"].is_linear
    assert by_name["classifier"].n_rows == by_name["stem.0"].n_rows
    down, up = by_name["down.2.0"], by_name["up.1.0"]
    assert (down.n_in, down.n_rows) == (up.n_rows, up.n_in)
    assert down.n_pairs == up.n_pairs == down.n_in
    assert down.macs == down.n_in * down.c_in * down.c_out
    # no hook is left behind
    assert not any(module._forward_hooks for module in net.modules())


def test_maps_are_searched_once_and_before_their_use(traced):
    _, trace = traced
    steps = trace.steps
    assert sum(isinstance(step, CoarsenStep) for step in steps) == 4
    # five levels, and four ways between them
    assert sum(isinstance(step, MapStep) for step in steps) == 9
    kinds = [type(step).__name__ for step in steps[:6]]
    assert kinds == ["MapStep", "LayerTrace", "LayerTrace", "CoarsenStep", "MapStep", "LayerTrace"]
    level, way = steps[3:5]
    assert torch.equal(way.queries, level.expected)
    assert torch.equal(way.inputs, level.keys)
    assert steps[0].inputs is steps[0].queries
    assert len(way.deltas) == 8


def test_kept_offsets_leave_the_others_out(cloud):
    net = SubmanifoldConv3d(4, 4, 3, offsets=(0, 13, 26))
    step, layer = trace_sparse(net, cloud, "conv").steps
    assert len(step.deltas) == layer.volume == 3
    assert torch.equal(step.inputs, pack(cloud.coords))


def test_a_layer_that_gets_its_input_by_name_is_traced(cloud):
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = SubmanifoldConv3d(4, 4, 3)

        def forward(self, x):
            return self.conv(x=x)

    assert [step.name for step in trace_sparse(Named(), cloud, "named").steps] == ["conv map", "conv"]


def test_a_module_that_runs_twice_is_two_layers(cloud):
    conv, way = SubmanifoldConv3d(4, 4, 3), SparseConv3d(4, 4, 2, 2)
    trace = trace_sparse(torch.nn.Sequential(conv, way, conv), cloud, "shared")
    assert [step.name for step in trace.steps] == [
        "0 map", "0", "1 level", "1 map", "1", "0 call 2 map", "0 call 2",
    ]  # fmt: skip
    assert trace.layers[0].n_rows > trace.layers[2].n_rows


def test_a_network_in_training_is_left_as_it_was(cloud):
    net = torch.nn.Sequential(SubmanifoldConv3d(4, 4, 3), BatchNorm(4), torch.nn.Sequential(BatchNorm(4)))
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trace_sparse(net, cloud.replace(torch.ones(len(cloud), 4)), "training")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == [True, True, True, False, False]


def test_names_in_a_trace_differ():
    layer = LayerTrace("rows", None, 4, 4, 2, 5)
    with pytest.raises(RangeError, match="two steps of 'twice' have the name 'rows'"):
        NetworkTrace("twice", (layer, layer))


def test_what_cannot_be_traced_is_refused(cloud):
    with pytest.raises(UnsupportedError, match="2 groups"):
        trace_sparse(SubmanifoldConv3d(4, 4, 3, groups=2), cloud, "grouped")
    with pytest.raises(UnsupportedError, match="low bits cleared"):
        trace_sparse(SparseConv3d(4, 4, 3, 2), cloud, "overlapping")
    with pytest.raises(UnsupportedError, match="0 is a SparseConvTranspose3d"):
        trace_sparse(torch.nn.Sequential(SparseConvTranspose3d(4, 4)), cloud, "generative")
    net = torch.nn.Sequential(Linear(4, 4), SubmanifoldConv3d(4, 4, 3, groups=2))
    ran = []
    net[0].register_forward_hook(lambda *given: ran.append(given))
    with pytest.raises(UnsupportedError):
        trace_sparse(net, cloud, "both")
    assert not ran
    net[0]._forward_hooks.clear()
    assert not any(module._forward_hooks for module in net.modules())


def test_spans_of_linear_and_gathered_rows():
    rows, spans = LayerTrace("rows", None, 4, 4, 2, 5).accesses(2)
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert spans[:, 0].tolist() == [0, 2, 4, 5]
    picked = torch.tensor([3, 0, 3], dtype=torch.int32)
    rows, spans = LayerTrace("picked", None, 4, 4, 2, 5, gather=picked).accesses(4)
    assert rows.tolist() == [3, 0, 3]
    assert spans[:, 0].tolist() == [0, 3]
    rows, spans = LayerTrace("up", None, 4, 4, 2, 5, gather=picked.repeat(3), summed=3).accesses(2)
    assert rows.tolist() == [3, 0, 3] * 3
    assert spans[:, 0].tolist() == [0, 6, 9]


def test_what_is_no_layer_is_refused(cloud, traced):
    kmap = traced[1].layers[0].map
    picked = torch.tensor([0, 5], dtype=torch.int32)
    with pytest.raises(RangeError, match="empty has no output row"):
        LayerTrace("empty", None, 4, 4, 2, 0)
    with pytest.raises(RangeError, match="c_out must be at least 1, got 0"):
        LayerTrace("layer", None, 4, 0, 2, 5)
    with pytest.raises(RangeError, match="gather has 0 to 5"):
        LayerTrace("layer", None, 4, 4, 2, 5, gather=picked)
    with pytest.raises(DtypeError, match="int32"):
        LayerTrace("layer", None, 4, 4, 2, 9, gather=picked.long())
    with pytest.raises(RangeError, match="leave out the map"):
        LayerTrace("layer", kmap, 4, 4, 2, gather=picked)
    with pytest.raises(RangeError, match="5 rows are no multiple of pooled=2"):
        LayerTrace("layer", None, 4, 4, 2, 5, pooled=2)
    with pytest.raises(RangeError, match="5 gathered rows are no multiple of summed=2"):
        LayerTrace("layer", None, 4, 4, 2, 9, gather=picked.repeat(3)[:5], summed=2)
    with pytest.raises(RangeError, match="summed=3 and beside=0 are of gathered rows"):
        LayerTrace("layer", None, 4, 4, 2, 9, summed=3)
    with pytest.raises(RangeError, match="leave some of 4 channels to gather, got 4"):
        LayerTrace("layer", None, 4, 4, 2, 9, gather=picked, beside=4)
    empty = SparseTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), batch_size=1)
    with pytest.raises(RangeError, match="no output row"):
        trace_sparse(SubmanifoldConv3d(4, 4, 3), empty, "empty")
    assert NetworkTrace("none", ()).layers == ()
