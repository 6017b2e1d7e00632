"""Our operators as torch.compile and torch.export see them: opaque, typed, of any cloud size."""

import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.plan import plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.ops import conv as conv_op
from pcsparse.ops import sparse_conv
from tests.clouds import TWO_BATCHES, UNSORTED, lidar_like
from tests.tolerance import tolerance

SUBMANIFOLD, HALVE = Relation.of(3), Relation.of(2, 2)


def _maps(coords: torch.Tensor) -> tuple[KernelMap, KernelMap]:
    cache = CoordCache()
    return (
        cache.kernel_map(coords, coords, SUBMANIFOLD),
        cache.kernel_map(coords, cache.coarser(coords, HALVE), HALVE),
    )


def _operands(rng, kmap, dtype=torch.float32, c_in=3, c_out=4):
    feats = torch.randn(kmap.n_in, c_in, generator=rng).to(dtype).requires_grad_()
    weight = (torch.randn(kmap.volume, c_in, c_out, generator=rng) / 9).to(dtype).requires_grad_()
    return feats, weight


OPERATORS = torch.ops.pcsparse
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("which", [0, 1], ids=["submanifold", "strided"])
@pytest.mark.parametrize("epilogue", ["plain", "bias", "residual-relu"])
def test_opcheck_of_the_convolution(rng, which, epilogue):
    kmap = _maps(TWO_BATCHES.coords)[which]
    feats, weight = _operands(rng, kmap)
    bias = torch.randn(4, generator=rng).requires_grad_() if epilogue == "bias" else None
    residual = torch.randn(kmap.n_out, 4, generator=rng).requires_grad_() if "residual" in epilogue else None
    plan = plan_for(ConvProblem.of(feats, weight, kmap)).encode()

    found = torch.library.opcheck(
        OPERATORS.sparse_conv.default,
        (feats, weight, bias, kmap.tensors(), kmap.n_out, plan, residual, "relu" in epilogue),
        test_utils=CHECKS,
    )
    assert set(found.values()) == {"SUCCESS"}


def test_opcheck_of_the_gradients(rng):
    kmap = _maps(TWO_BATCHES.coords)[1]
    feats, weight = (part.detach() for part in _operands(rng, kmap))
    grad_out = torch.randn(kmap.n_out, 4, generator=rng)
    plan = plan_for(ConvProblem.of(feats, weight, kmap)).encode()

    for operator, arguments in (
        (OPERATORS.sparse_conv_grad_feats, (grad_out, weight, kmap.tensors(), kmap.n_in, plan)),
        (OPERATORS.sparse_conv_grad_weight, (feats, grad_out, kmap.tensors(), plan)),
    ):
        found = torch.library.opcheck(operator.default, arguments, test_utils=CHECKS)
        assert set(found.values()) == {"SUCCESS"}


def test_opcheck_of_the_pools(rng):
    kmap = _maps(TWO_BATCHES.coords)[1]
    feats, _ = _operands(rng, kmap)
    grad_out, tensors = torch.randn(kmap.n_out, 3, generator=rng), kmap.tensors()
    arg = OPERATORS.max_pool(feats, tensors, kmap.n_out)[1]

    for operator, arguments in (
        (OPERATORS.sum_pool, (feats, tensors, kmap.n_out)),
        (OPERATORS.sum_pool_grad, (grad_out, tensors, kmap.n_in)),
        (OPERATORS.max_pool, (feats, tensors, kmap.n_out)),
        (OPERATORS.max_pool_grad, (grad_out, arg, tensors, kmap.n_in)),
    ):
        found = torch.library.opcheck(operator.default, arguments, test_utils=CHECKS)
        assert set(found.values()) == {"SUCCESS"}


def _twice(feats: torch.Tensor, weight: torch.Tensor, kmap: KernelMap) -> torch.Tensor:
    return torch.relu(sparse_conv(feats * 2, weight, kmap)) + 1


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("which", [0, 1], ids=["submanifold", "strided"])
def test_one_graph_serves_clouds_of_every_size(rng, which):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(_twice, fullgraph=True, dynamic=True, backend=counter)
    for coords in (UNSORTED.coords, TWO_BATCHES.coords, lidar_like(400)):
        kmap = _maps(coords)[which]
        feats, weight = _operands(rng, kmap)
        grad_out = torch.randn(kmap.n_out, 4, generator=rng)
        expected, actual = _twice(feats, weight, kmap), compiled(feats, weight, kmap)

        assert torch.equal(actual, expected)
        wanted = torch.autograd.grad(expected, (feats, weight), grad_out)
        got = torch.autograd.grad(actual, (feats, weight), grad_out)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler"
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_inductor_gives_the_same_numbers(rng):
    kmap, _ = _maps(UNSORTED.coords)
    feats, weight = _operands(rng, kmap)
    actual = torch.compile(_twice, fullgraph=True)(feats, weight, kmap)

    torch.testing.assert_close(actual, _twice(feats, weight, kmap), **tolerance(torch.float32, 81))


class _Layer(nn.Module):
    """A submanifold layer that takes its map as tensors; n_out is read from a shape."""

    def __init__(self, plan: str) -> None:
        super().__init__()
        self.plan = plan
        self.weight = nn.Parameter(torch.randn(27, 3, 4) / 9)

    def forward(self, feats: torch.Tensor, kernel_map: list[torch.Tensor]) -> torch.Tensor:
        out = torch.ops.pcsparse.sparse_conv(
            feats, self.weight, None, kernel_map, feats.shape[0], self.plan, None, False
        )
        return torch.relu(out)


def test_an_exported_layer_serves_clouds_of_every_size(rng):
    kmap, _ = _maps(UNSORTED.coords)
    feats, _ = _operands(rng, kmap)
    problem = ConvProblem.of(feats, torch.zeros(27, 3, 4), kmap)
    layer = _Layer(plan_for(problem).encode())
    rows, pairs = Dim("rows"), Dim("pairs")
    program = torch.export.export(
        layer,
        (feats.detach(), kmap.tensors()),
        dynamic_shapes=({0: rows}, [None, {0: pairs}, {0: pairs}, None]),
    )

    assert any("pcsparse.sparse_conv" in str(node.target) for node in program.graph.nodes)
    for coords in (UNSORTED.coords, TWO_BATCHES.coords, lidar_like(300)):
        kmap, _ = _maps(coords)
        feats = torch.randn(kmap.n_in, 3, generator=rng)
        assert torch.equal(program.module()(feats, kmap.tensors()), layer(feats, kmap.tensors()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_calls_skip_the_dispatcher_and_give_the_same_bits(rng, dtype, monkeypatch):
    kmap = _maps(TWO_BATCHES.coords)[0]
    feats, weight = _operands(rng, kmap, dtype)
    bias = torch.randn(4, generator=rng).to(dtype)
    residual = torch.randn(kmap.n_out, 4, generator=rng).to(dtype)
    calls = []
    operator = conv_op._sparse_conv
    monkeypatch.setattr(conv_op, "_sparse_conv", lambda *args: calls.append(1) or operator(*args))

    def run():
        return sparse_conv(feats, weight, kmap, bias=bias, residual=residual, relu=True)

    with torch.no_grad():
        plain = run()
    with_gradients = run()
    assert with_gradients.requires_grad
    # a weight alone that trains
    assert sparse_conv(feats.detach(), weight, kmap).requires_grad
    assert not calls
    # a profile and a mode are reasons to go through torch
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        through_torch = run()
    with torch.no_grad(), _Counting() as counting:
        run()
    assert len(calls) == 2
    assert torch.equal(plain, through_torch)
    assert torch.equal(plain, with_gradients.detach())
    assert "pcsparse::sparse_conv" in {event.key for event in seen.key_averages()}
    assert "pcsparse.sparse_conv.default" in counting.names


def test_inference_leaves_to_torch_what_memory_does_not_say(rng):
    kmap = _maps(TWO_BATCHES.coords)[0]
    feats, weight = (part.detach() for part in _operands(rng, kmap))
    negated = torch._neg_view(feats)
    assert torch.equal(sparse_conv(negated, weight, kmap), -sparse_conv(feats, weight, kmap))
    assert torch.equal(sparse_conv(feats, torch._neg_view(weight), kmap), -sparse_conv(feats, weight, kmap))
    assert not sparse_conv(torch._efficientzerotensor(feats.shape), weight, kmap).any()
    marked = weight.as_subclass(_Marked)
    assert type(sparse_conv(feats, marked, kmap)) is _Marked


class _Marked(torch.Tensor):
    pass


class _Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))
