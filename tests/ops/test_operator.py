"""Past torch's dispatcher and through it: the same bits, gradients and errors, and what autograd asks for."""

import contextlib
import functools
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from pcsparse.ops import conv as conv_op
from pcsparse.ops import max_pool, partial_sparse_conv, sparse_conv
from pcsparse.ops import partial_conv as partial_op
from pcsparse.ops.batch_norm import batch_norm
from pcsparse.ops.operator import runs_plainly
from tests.clouds import TWO_BATCHES

C = 4


class _Torch(TorchDispatchMode):
    """Our operators that run, all of which must go through torch while this is on."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "pcsparse":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


class _Case:
    def __init__(self, rng):
        coords = TWO_BATCHES.coords
        self.kmap = CoordCache().kernel_map(coords, coords, Relation.of(3))
        self.n = len(coords)
        shapes = {"feats": (self.n, C), "weight": (27, C, C), "bias": (C,), "residual": (self.n, C)}
        self.parts = {
            name: torch.randn(shape, generator=rng).requires_grad_() for name, shape in shapes.items()
        }
        self.grad_out = torch.randn(self.n, C, generator=rng)
        self.mask = torch.arange(self.n) % 3 > 0

    def sparse_conv(self, feats, weight, bias, residual):
        return sparse_conv(feats, weight, self.kmap, bias=bias, residual=residual, relu=True)

    def partial_conv(self, feats, weight, bias, residual):
        return partial_sparse_conv(
            feats, weight, self.kmap, self.mask, bias=bias, residual=residual, relu=True
        )

    def batch_norm(self, feats, weight, bias, residual):
        return batch_norm(feats, weight[0, 0], bias, residual=residual, relu=True)[0]

    def max_pool(self, feats, weight, bias, residual):
        return max_pool(feats, self.kmap) + weight.sum() * residual + bias

    def results(self, run, *, create_graph=False):
        leaves = [part.detach().clone().requires_grad_() for part in self.parts.values()]
        out = run(*leaves)
        return out, torch.autograd.grad(out, leaves, self.grad_out, create_graph=create_graph)


@pytest.fixture
def case(rng):
    return _Case(rng)


OPS = ("sparse_conv", "partial_conv", "batch_norm", "max_pool")
CONVS = OPS[:2]


def _same(one, other):
    return all(torch.equal(a, b) for a, b in zip((one[0], *one[1]), (other[0], *other[1]), strict=True))


@pytest.mark.parametrize("op", OPS)
def test_both_ways_give_the_same_bits_and_gradients(case, op):
    run = getattr(case, op)
    plain = case.results(run)
    with _Torch() as torch_way:
        through = case.results(run)
    # forward and backward
    assert len(torch_way.names) >= 2
    assert _same(plain, through)


@pytest.mark.parametrize("needs", ["feats", "weight", "bias", "residual", "feats-weight"])
@pytest.mark.parametrize("op", CONVS)
def test_no_gradient_is_computed_that_nobody_needs(case, op, needs, monkeypatch):
    module, ran = {"sparse_conv": conv_op, "partial_conv": partial_op}[op], []
    for name in ("run_grad_feats", "run_grad_weight"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, n=name, real=real: ran.append(n) or real(*args))
    leaves = {name: part.detach().requires_grad_(name in needs) for name, part in case.parts.items()}
    getattr(case, op)(*leaves.values()).sum().backward()
    assert ran == [f"run_grad_{name}" for name in ("feats", "weight") if name in needs]
    assert {name for name, leaf in leaves.items() if leaf.grad is not None} == set(needs.split("-"))


@pytest.mark.parametrize("op", ["sparse_conv", "partial_conv", "batch_norm"])
def test_a_second_derivative_is_refused_alike(case, op):
    for mode in (None, _Torch()):
        with mode or torch.enable_grad():
            _, grads = case.results(getattr(case, op), create_graph=True)
            with pytest.raises(UnsupportedError, match="has no autograd formula: there are no second"):
                (grads[0] * grads[0]).sum().backward()


@pytest.mark.parametrize("edited", ["feats", "weight", "out", "header", "rows_in", "rows_out", "starts"])
@pytest.mark.parametrize("op", CONVS)
def test_an_edit_before_backward_is_noticed(case, op, edited):
    tensors = dict(zip(("header", "rows_in", "rows_out", "starts"), case.kmap.tensors(), strict=True))
    out = getattr(case, op)(*case.parts.values())
    with torch.no_grad():
        (tensors | case.parts | {"out": out})[edited].add_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_an_edited_mask_is_noticed(case):
    out = case.partial_conv(*case.parts.values())
    case.mask.logical_not_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("way", [contextlib.nullcontext, _Torch])
@pytest.mark.parametrize("op", OPS)
def test_hooks_on_saved_tensors_and_checkpoints_give_the_same_bits(case, op, way):
    run = getattr(case, op)
    plain = case.results(run)
    with way():
        with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.clone, torch.Tensor.clone):
            assert _same(case.results(run), plain)
        for reentrant in (False, True):
            again = _backward(case, lambda *p, how=reentrant: checkpoint(run, *p, use_reentrant=how))
            assert _same(again, plain)


@pytest.mark.parametrize("autocast", [False, True], ids=["wide", "autocast"])
@pytest.mark.parametrize("ways", [(_Torch, contextlib.nullcontext), (contextlib.nullcontext, _Torch)])
@pytest.mark.parametrize("op", OPS)
def test_a_checkpoint_is_computed_again_the_other_way(case, op, ways, autocast):
    """A default device is not there in the threads of a GPU's backward pass; a profiler may begin with it."""
    run, (forth, back) = getattr(case, op), ways
    leaves = [part.detach().clone().requires_grad_() for part in case.parts.values()]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain = case.results(run)
        with forth():
            out = checkpoint(run, *leaves, use_reentrant=False)
    with back():
        out.backward(case.grad_out)
    assert _same((out, [leaf.grad for leaf in leaves]), plain)


@pytest.mark.parametrize("kept", [CheckpointPolicy.MUST_SAVE, CheckpointPolicy.MUST_RECOMPUTE])
@pytest.mark.parametrize("op", OPS)
def test_a_checkpoint_that_keeps_chosen_results_gives_the_same_bits(case, op, kept):
    def chosen(ctx, called, *args, **kwargs):
        return kept if called.namespace == "pcsparse" else CheckpointPolicy.PREFER_RECOMPUTE

    run = getattr(case, op)
    contexts = functools.partial(create_selective_checkpoint_contexts, chosen)
    found = _backward(case, lambda *p: checkpoint(run, *p, use_reentrant=False, context_fn=contexts))
    assert _same(found, case.results(run))


def _backward(case, run):
    # reentrant checkpoints know backward() only
    leaves = [part.detach().clone().requires_grad_() for part in case.parts.values()]
    out = run(*leaves)
    out.backward(case.grad_out)
    return out, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("op", CONVS)
def test_autocast_and_modes_without_gradients(case, op):
    run = getattr(case, op)
    with torch.autocast("cpu", torch.bfloat16):
        plain = case.results(run)
        with _Torch():
            assert _same(case.results(run), plain)
    assert plain[0].dtype == torch.bfloat16
    wanted = run(*case.parts.values())
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            out = run(*case.parts.values())
            assert torch.equal(out, wanted)
            assert out.grad_fn is None


def test_threads_go_backward_side_by_side(case):
    plain, found = case.results(case.sparse_conv), []
    threads = [
        threading.Thread(target=lambda: found.append(case.results(case.sparse_conv))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(_same(each, plain) for each in found)


def test_a_transform_meets_the_operator(case):
    feats, *others = case.parts.values()
    # torch has no transforms of such operators, and says so; the plain way would lose the gradient
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda feats: case.sparse_conv(feats, *others).sum())(feats)


# torch makes its formulas of that mode by it
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_forward_mode_is_refused_not_zero(case, op, wanted):
    run, parts = getattr(case, op), [part.detach() for part in case.parts.values()]
    tangents = tuple(torch.ones_like(part) for part in parts)
    with pytest.raises(UnsupportedError, match=r"pcsparse::.* has no derivative in forward mode"):
        torch.func.jvp(run, tuple(parts), tangents)
    with torch.autograd.forward_ad.dual_level():
        # nobody asks for one here
        assert torch.equal(run(*parts), run(*case.parts.values()))
        dual = torch.autograd.forward_ad.make_dual(parts[0].requires_grad_(wanted), tangents[0])
        with pytest.raises(UnsupportedError, match="go backward instead"):
            run(dual, *parts[1:])


def test_what_runs_plainly(case):
    feats = case.parts["feats"]
    assert runs_plainly(feats, [feats.detach()], 1, None, "text", 2.0, True)
    # gradients of a list are the dispatcher's, and so is whatever is not known here
    assert not runs_plainly([feats])
    assert not runs_plainly(object())
    assert not runs_plainly(feats.to("meta"))
    with torch.autograd.forward_ad.dual_level():
        assert not runs_plainly(feats)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert not runs_plainly(feats)
    with torch.device("cpu"):
        assert not runs_plainly(feats)
