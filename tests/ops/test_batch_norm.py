"""Batch norm past torch's dispatcher: bits, gradients, running moments, errors, and no call for nothing."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pcsparse import nn
from pcsparse.errors import DeviceError, RangeError, ShapeError, UnsupportedError
from pcsparse.kernels.running import Running
from pcsparse.ops import norm_by_moments
from pcsparse.ops import operator as operator_module
from pcsparse.ops.batch_norm import batch_norm_following
from tests.emulation import emulate, gpu_kernels
from tests.tolerance import tolerance

N, C = 40, 5


class _Torch(TorchDispatchMode):
    """What goes through torch while this is on, by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


class _Case:
    """One norm with parameters and statistics that are not the usual ones, and rows for it."""

    def __init__(self, rng, device, *, training, momentum=0.1, residual=True):
        self.norm = nn.BatchNorm(C, momentum=momentum).to(device).train(training)
        with torch.no_grad():
            for part in (*self.norm.parameters(), self.norm.running_mean, self.norm.running_var):
                part.copy_(torch.rand(C, generator=rng) + 0.5)
        feats, extra, grad_out = (torch.randn(N, C, generator=rng).to(device) for _ in range(3))
        self.rows = [feats.requires_grad_()] + ([extra.requires_grad_()] if residual else [])
        self.grad_out = grad_out

    def run(self, *, relu=True, create_graph=False):
        norm = copy.deepcopy(self.norm)
        leaves = [*self.rows, *norm.parameters()]
        out = norm.of_rows(*self.rows, relu=relu)
        grads = torch.autograd.grad(out, leaves, self.grad_out, create_graph=create_graph)
        return out, grads, list(norm.buffers())


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
def test_both_ways_give_the_same_bits(device, rng, training, relu, residual):
    case = _Case(rng, device, training=training, residual=residual)
    out, grads, buffers = case.run(relu=relu)
    with _Torch() as way:
        out_too, grads_too, buffers_too = case.run(relu=relu)

    forward = "batch_norm" if training else "norm_by_moments"
    assert forward in way.names
    assert torch.equal(out, out_too)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_too, strict=True))
    # a kernel of a GPU moves them in float64, torch in float32
    for a, b in zip(buffers, buffers_too, strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.float32, 4))
    assert torch.equal(buffers[2], case.norm.num_batches_tracked + int(training))


@pytest.mark.parametrize("momentum", [0.1, None], ids=str)
def test_running_moments_are_those_of_torch(device, rng, momentum):
    case = _Case(rng, device, training=True, momentum=momentum)
    other = torch.nn.BatchNorm1d(C, momentum=momentum).to(device)
    other.load_state_dict(case.norm.state_dict())
    for _ in range(3):
        case.norm.of_rows(case.rows[0])
        other(case.rows[0])

    for mine, theirs in zip(case.norm.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance(torch.float32, N, factor=16))


def test_nobody_asks_for_gradients(device, rng):
    case = _Case(rng, device, training=True)
    wanted, _, moved = case.run()
    with torch.no_grad():
        out = case.norm.of_rows(*case.rows, relu=True)
    assert not out.requires_grad
    assert torch.equal(out, wanted)
    assert all(torch.equal(a, b) for a, b in zip(case.norm.buffers(), moved, strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_second_derivative_is_refused(device, rng, training):
    case = _Case(rng, device, training=training)
    for mode in (torch.enable_grad(), _Torch()):
        with mode:
            _, grads, _ = case.run(create_graph=True)
            with pytest.raises(UnsupportedError, match="has no autograd formula: there are no second"):
                (grads[0] * grads[0]).sum().backward()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("edited", ["feats", "weight", "out"])
def test_an_edit_before_backward_is_noticed(device, rng, training, edited):
    case = _Case(rng, device, training=training)
    out = case.norm.of_rows(*case.rows, relu=True)
    with torch.no_grad():
        {"feats": case.rows[0], "weight": case.norm.weight, "out": out}[edited].add_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_training_goes_on_after_forward_and_before_backward(device, rng):
    case = _Case(rng, device, training=True)
    out = case.norm.of_rows(*case.rows, relu=True)
    # what moves the statistics in between is not what backward reads
    case.norm.of_rows(*case.rows)
    leaves = [*case.rows, *case.norm.parameters()]
    found = torch.autograd.grad(out, leaves, case.grad_out)
    _, wanted, _ = case.run()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("frozen", ["feats", "weight", "bias", "residual"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_what_is_frozen_gets_no_gradient(device, rng, training, frozen):
    case = _Case(rng, device, training=training)
    leaves = dict(
        zip(("feats", "residual", "weight", "bias"), (*case.rows, *case.norm.parameters()), strict=True)
    )
    _, grads, _ = case.run()
    wanted = dict(zip(leaves, grads, strict=True))
    leaves[frozen].requires_grad_(False)
    case.norm.of_rows(*case.rows, relu=True).backward(case.grad_out)

    assert leaves[frozen].grad is None
    for name in leaves.keys() - {frozen}:
        assert torch.equal(leaves[name].grad, wanted[name])


def test_sixteen_bits_stay_sixteen_bits_under_autocast(device, rng):
    case = _Case(rng, device, training=True)
    low = case.rows[0].detach().to(torch.bfloat16).requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        out = case.norm.of_rows(low)
    out.sum().backward()
    assert out.dtype == low.grad.dtype == torch.bfloat16
    assert case.norm.weight.grad.dtype == case.norm.running_mean.dtype == torch.float32


def test_odd_statistics_are_moved_too(device, rng, monkeypatch):
    # every second number: no row that a kernel of a GPU could write
    if device.type == "cpu":
        emulate(monkeypatch)
    feats = torch.randn(N, C, generator=rng).to(device)
    found = []
    for step in (1, 2):
        mean, var = (torch.full((C * step,), value, device=device)[::step] for value in (1.0, 2.0))
        running = Running(mean, var, torch.tensor(0, device=device), 0.25)
        batch_norm_following(feats, None, None, running)
        found.append(running)
    for a, b in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.float32, 4))


def test_statistics_that_do_not_fit_are_named(device, rng):
    feats, row = torch.randn(N, C, generator=rng).to(device), torch.ones(C, device=device)
    batches = torch.tensor(0, device=device)
    with pytest.raises(ShapeError, match=r"running_var must have shape \(5\), got \(4,\)"):
        batch_norm_following(feats, None, None, Running(row, row[1:], batches, 0.1))
    with pytest.raises(ShapeError, match=r"mean must have shape \(5\), got \(4,\)"):
        norm_by_moments(feats, row[1:], row, None, None)
    elsewhere = torch.tensor(0, device="meta")
    with pytest.raises(DeviceError, match="batches on meta"):
        batch_norm_following(feats, None, None, Running(row, row, elsewhere, 0.1))


def test_operands_of_other_types_are_converted(device, rng):
    feats, residual = torch.randn(2, N, C, generator=rng).to(device)
    weight, bias = torch.rand(2, C, generator=rng).to(device)
    expected = batch_norm_following(
        feats, weight.half().float(), bias, None, residual=residual.half().float()
    )
    for factors in ((weight.half(), bias), (weight.half().double(), bias)):
        actual = batch_norm_following(feats, *factors, None, residual=residual.half())
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("rows", "change", "error", "text"),
    [
        (1, {}, RangeError, "at least 2 rows"),
        (N, {"weight": (1,)}, ShapeError, r"weight must have shape \(5\), got \(1,\)"),
        (N, {"bias": (C, 1)}, ShapeError, r"bias must have shape \(5\), got \(5, 1\)"),
        (N, {"residual": (1, C)}, ShapeError, "residual must have the shape of feats"),
        (N, {"mean": (1,)}, ShapeError, r"running_mean must have shape \(5\), got \(1,\)"),
    ],
    ids=["one row", "weight", "bias", "residual", "mean"],
)
def test_operands_that_do_not_fit_are_named(device, rows, change, error, text):
    shapes = {"weight": (C,), "bias": (C,), "residual": (rows, C), "mean": (C,), "var": (C,)} | change
    parts = {name: torch.ones(shape, device=device) for name, shape in shapes.items()}
    running = Running(parts["mean"], parts["var"], torch.tensor(0, device=device), 0.1)
    with pytest.raises(error, match=text):
        batch_norm_following(
            torch.ones(rows, C, device=device), parts["weight"], parts["bias"], running,
            residual=parts["residual"],
        )  # fmt: skip


@pytest.fixture
def only_launched(monkeypatch):
    """The kernels of a GPU, whose launches do nothing, and torch watched as if nobody did."""
    emulate(monkeypatch)
    gpu_kernels()
    from pcsparse.kernels.gpu.launch import Launcher

    launches = []
    monkeypatch.setattr(Launcher, "__call__", lambda self, *_: launches.append(self._kernel.__name__))
    monkeypatch.setattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    assert operator_module.runs_plainly()
    return launches


def _but_poison(names):
    return [name for name in names if name not in ("fill_", "detach")]


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
def test_a_training_step_asks_torch_for_memory_alone(rng, only_launched, relu):
    case = _Case(rng, torch.device("cpu"), training=True)
    with _Torch() as way:
        out = case.norm.of_rows(*case.rows, relu=relu)
        assert _but_poison(way.names) == ["empty_like", "empty", "empty"]
        assert len(only_launched) == 3
        way.names.clear()
        only_launched.clear()
        torch.autograd.grad(out, [*case.rows, *case.norm.parameters()], case.grad_out)
        # the residual's gradient is rows of its own where a ReLU stopped some
        rows = ["empty_like"] * (2 if relu else 1)
        assert _but_poison(way.names) == [*rows, "empty", "empty_like", "empty"]
        assert len(only_launched) == 3


def test_an_evaluation_is_one_launch(rng, only_launched):
    case = _Case(rng, torch.device("cpu"), training=False)
    with torch.no_grad(), _Torch() as way:
        case.norm.of_rows(*case.rows, relu=True)
    assert _but_poison(way.names) == ["empty_like"]
    assert only_launched == ["_norm_by_moments"]
