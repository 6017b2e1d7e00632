"""Lack of memory names the layer, as the network calls it, on every way that a network goes."""

import gc
from collections import OrderedDict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from pcsparse import SparseTensor, nn
from pcsparse.coords import cache as cache_module
from pcsparse.coords.relation import Relation
from pcsparse.engine.plan import plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import OutOfMemoryError
from pcsparse.kernels import cpu
from pcsparse.nn.recording import explaining_waits
from tests.clouds import UNSORTED

N, C = len(UNSORTED.coords), 8
CONV = r"SubmanifoldConv3d\(8, 8, kernel_size=\(3, 3, 3\), stride=\(1, 1, 1\), bias=False\)"
ROWS = rf"{N} rows of 8 float32 channels \(0 MiB\)"
LOWER = "make the batch smaller, the voxels larger or the layers narrower, or compute in 16 bits"


class Encoder(torch.nn.Module):
    """Four layers that cannot be told apart by their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(
            OrderedDict((f"conv{n}", nn.SubmanifoldConv3d(C, C)) for n in range(1, 5))
        )

    def forward(self, x):
        return self.blocks(x)


class _Torch(TorchDispatchMode):
    """Somebody is looking, so that calls go through torch's dispatcher."""

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.fixture
def fails(monkeypatch):
    """Lets a kernel fail at its n-th call from now."""

    def fail_in(name: str, call: int = 1) -> None:
        kernel, calls = getattr(cpu, name), []

        def counted(*args, **options):
            calls.append(1)
            if len(calls) == call:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return kernel(*args, **options)

        monkeypatch.setattr(cpu, name, counted)

    return fail_in


def _cloud(rng, requires_grad: bool = False) -> SparseTensor:
    return SparseTensor(torch.randn(N, C, generator=rng, requires_grad=requires_grad), UNSORTED.coords)


WAYS = {"plain": torch.enable_grad, "operator": _Torch, "inference": torch.inference_mode}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_convolution_is_named_as_in_the_network(rng, fails, way, number):
    network = torch.nn.ModuleDict({"encoder": Encoder()})
    outer = torch.nn.Sequential(OrderedDict(net=network["encoder"]))
    fails("output_stationary", number)
    said = rf"^layer 'net\.blocks\.conv{number}', {CONV}: no memory for the forward pass of a convolution"
    with way(), pytest.raises(OutOfMemoryError, match=f"{said} of {ROWS} to .*; {LOWER} ") as error:
        outer(_cloud(rng))
    assert str(error.value).endswith("(CUDA out of memory.)")
    assert error.value.layer.startswith(f"'net.blocks.conv{number}', SubmanifoldConv3d(8, 8")


def test_a_layer_alone_has_no_name_but_its_sizes(rng, fails):
    fails("output_stationary")
    with pytest.raises(OutOfMemoryError, match=f"^layer {CONV}: no memory for the forward pass"):
        nn.SubmanifoldConv3d(C, C)(_cloud(rng))


@pytest.mark.parametrize("way", [torch.enable_grad, _Torch], ids=["plain", "operator"])
@pytest.mark.parametrize(
    ("kernel", "what"), [("output_stationary", "input"), ("output_stationary_grad_weight", "weight")]
)
def test_a_backward_pass_names_the_layer_of_its_weight(rng, fails, way, kernel, what):
    outer = torch.nn.Sequential(OrderedDict(net=Encoder()))
    with way():
        out = outer(_cloud(rng, requires_grad=True)).feats
        # from the last layer to the first
        fails(kernel, 2)
        said = rf"^layer 'net\.blocks\.conv3', {CONV}: no memory for the {what} gradient of a convolution"
        with pytest.raises(OutOfMemoryError, match=said):
            out.sum().backward()


def test_a_weight_under_autocast_is_found_too(rng, fails):
    outer = torch.nn.Sequential(OrderedDict(net=Encoder()))
    with torch.autocast("cpu", torch.bfloat16):
        out = outer(_cloud(rng)).feats
    fails("output_stationary_grad_weight", 4)
    with pytest.raises(OutOfMemoryError, match=rf"^layer 'net\.blocks\.conv1', {CONV}: no memory"):
        out.float().sum().backward()


def test_a_checkpoint_names_what_it_runs_again(rng, fails):
    network = Encoder()
    out = checkpoint(network, _cloud(rng, requires_grad=True), use_reentrant=False).feats
    fails("output_stationary", 2)
    with pytest.raises(OutOfMemoryError, match=rf"^layer 'blocks\.conv2', {CONV}: no memory for the forward"):
        out.sum().backward()


def test_who_goes_backward_is_not_the_layer(rng, fails):
    class Step(torch.nn.Module):
        def forward(self, loss):
            loss.backward()

    x = _cloud(rng, requires_grad=True)
    weight = torch.zeros(C, requires_grad=True)
    out = nn.MaxPool3d(2)(x.replace(x.feats * weight)).feats
    fails("segment_max_grad")
    with pytest.raises(
        OutOfMemoryError, match=r"^no memory for the gradient of maxima, \d+ rows of 8 float32"
    ):
        Step()(out.sum())


class _Odd(nn.SubmanifoldConv3d):
    """Not even its own text can be made."""

    def extra_repr(self):
        return self.nothing_here


class _Hidden(torch.nn.Module):
    """Does not say what its parameters are."""

    def named_parameters(self, *_, **__):
        raise ValueError("ask somebody else")


@pytest.mark.parametrize(
    ("kernel", "what"),
    [("output_stationary", "forward pass"), ("output_stationary_grad_weight", "weight gradient")],
)
def test_a_layer_that_cannot_be_named_does_not_hide_what_lacked(rng, fails, kernel, what):
    network, x = torch.nn.Sequential(_Odd(C, C)), _cloud(rng)
    out = network(x).feats
    fails(kernel)
    run = out.sum().backward if "gradient" in what else lambda: network(x)
    with pytest.raises(OutOfMemoryError, match=f"^no memory for the {what} of a convolution") as error:
        run()
    assert error.value.layer == ""


def test_a_module_elsewhere_does_not_hide_the_layer(rng, fails):
    outer, hidden = torch.nn.Sequential(OrderedDict(net=Encoder())), _Hidden()
    out = outer(_cloud(rng)).feats
    fails("output_stationary_grad_weight", 4)
    with pytest.raises(OutOfMemoryError, match=rf"^layer 'net\.blocks\.conv1', {CONV}: no memory"):
        out.sum().backward()
    del hidden


@pytest.fixture
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("made", [Encoder, lambda: Encoder().blocks], ids=["own", "sequential"])
@pytest.mark.parametrize("within", [False, True], ids=["outermost", "within"])
def test_a_graph_that_was_compiled_has_no_layer(rng, fails, backend, made, within):
    network = made()
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    outer = torch.nn.Sequential(compiled) if within else compiled
    x = nn.prepare(network, _cloud(rng))
    outer(x)
    fails("output_stationary", 2)
    said = f"^no memory for the forward pass of a convolution of {ROWS}"
    with pytest.raises(OutOfMemoryError, match=said) as error:
        outer(x)
    assert error.value.layer == ""


@pytest.mark.usefixtures("_fresh_dynamo")
def test_a_layer_that_a_compiled_network_calls_is_named(rng, fails):
    class Broken(Encoder):
        def forward(self, x):
            torch._dynamo.graph_break()
            return torch.compiler.disable(self.blocks)(x)

    x, compiled = _cloud(rng), torch.compile(Broken(), backend="eager")
    compiled(x)
    fails("output_stationary", 3)
    with pytest.raises(OutOfMemoryError, match=rf"^layer '.*blocks\.conv3', {CONV}: no memory"):
        compiled(x)


class _Operator(torch.nn.Module):
    """What can be traced: operators on tensors, the maps among them."""

    def __init__(self, plan: str) -> None:
        super().__init__()
        self.plan, self.weight = plan, torch.nn.Parameter(torch.ones(27, C, C))

    def forward(self, feats, kmap):
        return torch.ops.pcsparse.sparse_conv(feats, self.weight, None, kmap, N, self.plan, None, False)


@pytest.mark.parametrize("kernel", ["output_stationary", "output_stationary_grad_weight"])
def test_a_graph_that_was_traced_is_no_layer(rng, fails, kernel):
    x = _cloud(rng)
    kmap = x.cache.kernel_map(x.coords, x.coords, Relation.of(3))
    plan = plan_for(ConvProblem.of(x.feats, torch.ones(27, C, C), kmap))
    # which nobody has any more, but for its weight
    traced = torch.fx.symbolic_trace(_Operator(plan.encode()))
    gc.collect()
    out = traced(x.feats, kmap.tensors())
    fails(kernel)
    run = out.sum().backward if "grad" in kernel else lambda: traced(x.feats, kmap.tensors())
    with pytest.raises(OutOfMemoryError, match=r"^no memory for the .* of a convolution") as error:
        run()
    assert error.value.layer == ""


NORM = r"BatchNorm\(8, .*\)"
NORMS = {
    "training": (True, "batch_norm", f"the batch norm of {ROWS}"),
    "evaluation": (False, "norm_by_moments", f"the norm by known moments of {ROWS}"),
}
NORM_GRADIENTS = {
    "training": (True, "batch_norm_grad", f"the gradients of a batch norm of {ROWS}"),
    "evaluation": (False, "scale_shift_grad", f"the gradient of {ROWS} by scale and shift"),
    "evaluation-sums": (False, "scale_shift_sums", f"the gradients of scale and shift of {ROWS}"),
}


def _norms(training: bool) -> torch.nn.Module:
    return torch.nn.Sequential(OrderedDict(first=nn.BatchNorm(C), second=nn.BatchNorm(C))).train(training)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("case", NORMS)
def test_a_batch_norm_names_itself(rng, fails, case, way):
    training, kernel, text = NORMS[case]
    fails(kernel, 2)
    said = f"^layer 'second', {NORM}: no memory for {text}; {LOWER}"
    with way(), pytest.raises(OutOfMemoryError, match=said):
        _norms(training)(_cloud(rng))


@pytest.mark.parametrize("way", [torch.enable_grad, _Torch], ids=["plain", "operator"])
@pytest.mark.parametrize("case", NORM_GRADIENTS)
def test_a_batch_norm_names_itself_on_the_way_back(rng, fails, case, way):
    training, kernel, text = NORM_GRADIENTS[case]
    norms = _norms(training)
    with way():
        out = norms(_cloud(rng, requires_grad=True)).feats
        fails(kernel, 2)
        with pytest.raises(OutOfMemoryError, match=f"^layer 'first', {NORM}: no memory for {text}; {LOWER}"):
            out.sum().backward()


def test_a_norm_without_parameters_does_not_take_the_name_of_another(rng, fails):
    x, norm = _cloud(rng), nn.BatchNorm(C, affine=False)
    out = norm(x.replace(x.feats.clone().requires_grad_()), residual=nn.SubmanifoldConv3d(C, C)(x)).feats
    fails("batch_norm_grad")
    with pytest.raises(OutOfMemoryError, match=f"^no memory for the gradients of a batch norm of {ROWS}"):
        out.sum().backward()


POOLS = {
    "max": (nn.MaxPool3d(2), "segment_max", "segment_max_grad", "maxima"),
    "average": (nn.AvgPool3d(2), "segment_sum", "segment_sum", "sums"),
    "global": (nn.GlobalMaxPool(), "segment_max", "segment_max_grad", "maxima"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("case", POOLS)
def test_a_pool_names_itself(rng, fails, case, way):
    pool, kernel, backward, what = POOLS[case]
    network = torch.nn.Sequential(OrderedDict(reduce=pool))
    x = _cloud(rng, requires_grad=True)
    out = network(x)
    if way is not torch.inference_mode:
        fails(backward)
        with (
            way(),
            pytest.raises(OutOfMemoryError, match=f"no memory for the gradient of {what}, .* rows of 8"),
        ):
            getattr(out, "feats", out).sum().backward()
    fails(kernel)
    said = (
        rf"^layer 'reduce', {type(pool).__name__}\(.*\): no memory for the {what} of {ROWS} at \d+ voxels; "
    )
    with way(), pytest.raises(OutOfMemoryError, match=said + LOWER):
        network(x)


def test_points_are_named_that_make_no_voxels(rng, fails):
    points, feats = torch.rand(50, 3, generator=rng), torch.rand(50, 2, generator=rng)
    fails("unique_keys")
    with pytest.raises(OutOfMemoryError, match=f"^no memory for the voxels of 50 points; {LOWER}"):
        SparseTensor.from_points(points, feats, 0.1)


def test_features_are_named_that_find_no_place(rng, monkeypatch):
    class Full(torch.Tensor):
        def __getitem__(self, _):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    points, feats = torch.rand(50, 3, generator=rng), torch.rand(50, 2, generator=rng).as_subclass(Full)
    with pytest.raises(OutOfMemoryError, match=r"^no memory for a cloud of \d+ voxels with 2 channels; "):
        SparseTensor.from_points(points, feats, 10.0)


def test_a_map_names_the_layer_that_wants_it(rng, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    outer = torch.nn.Sequential(OrderedDict(net=Encoder()))
    monkeypatch.setattr(cache_module, "build_kernel_map", fail)
    said = rf"^layer 'net\.blocks\.conv1', {CONV}: no memory for the kernel map of 27 offsets"
    with pytest.raises(OutOfMemoryError, match=said):
        outer(_cloud(rng))


def test_a_recording_without_memory_is_not_said_to_wait():
    with pytest.raises(torch.AcceleratorError, match="out of memory"), explaining_waits():
        raise torch.AcceleratorError("CUDA error: out of memory")
