"""Under autocast parameters get gradients in their own dtype, which never were in 16 bits: those overflow."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.plan import DATAFLOWS, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.ops import grouped_sparse_conv, partial_sparse_conv, sparse_conv

# voxels of a cube of 12; sums over them that float16 cannot hold, and of 10 bits, where bfloat16 holds 8
N, C = 1728, 2
CASES = {
    "float16": (torch.float16, 8.0, 8.0),
    "float16-bias": (torch.float16, 1.0, 64.0),
    "bfloat16": (torch.bfloat16, 5.0, 5.0),
}
FLOWS = {
    "cpu": ("output_stationary", "gather_scatter"),
    "gpu": ("output_stationary", "gather_scatter", "sorted_implicit_gemm", "fetch_on_demand"),
}


@pytest.fixture(params=FLOWS)
def place(request, monkeypatch):
    """A CPU, and a GPU or its kernels."""
    if request.param == "cpu":
        return torch.device("cpu")
    found = request.getfixturevalue("gpu_or_emulated")
    if found.type == "cpu":
        for flow in DATAFLOWS.values():
            monkeypatch.setattr(type(flow), "devices", ("cpu", "meta"))
    return found


@pytest.fixture
def flows(place, request):
    name = request.node.callspec.params["place"]
    return [flow for flow in FLOWS[name] if place.type in DATAFLOWS[flow].devices]


@pytest.fixture(scope="module")
def coords():
    side = torch.arange(12, dtype=torch.int32)
    return torch.cartesian_prod(torch.zeros(1, dtype=torch.int32), side, side, side)


def _map(coords, place) -> KernelMap:
    return CoordCache().kernel_map(coords.to(place), coords.to(place), Relation.of(1))


def _parameters(place, dtype=torch.float32):
    weight, bias = torch.ones(1, C, C, dtype=dtype), torch.ones(C, dtype=dtype)
    return weight.to(place).requires_grad_(), bias.to(place).requires_grad_()


class _Torch(TorchDispatchMode):
    """Somebody is looking, so that calls go through torch's dispatcher."""

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def _convolved(feats, weight, kmap, flow, bias):
    return sparse_conv(feats, weight, kmap, bias=bias, dataflow=flow)


def _partly(feats, weight, kmap, flow, bias):
    mask = torch.ones(len(feats), dtype=torch.bool, device=feats.device)
    return partial_sparse_conv(feats, weight, kmap, mask, bias=bias, dataflow=flow)


def _in_groups(feats, weight, kmap, flow, bias):
    return grouped_sparse_conv(feats, weight[:, :1], kmap, 2, bias=bias, dataflow=flow)


OPS = {"whole": _convolved, "partial": _partly, "grouped": _in_groups}


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
@pytest.mark.parametrize("case", CASES)
def test_sums_of_16_bits_keep_the_digits_of_the_parameter(place, flows, coords, case, op):
    dtype, value, grad = CASES[case]
    kmap = _map(coords, place)
    for flow in flows:
        for mode in (torch.enable_grad, _Torch):
            weight, bias = _parameters(place)
            with torch.autocast(place.type, dtype), mode():
                out = op(torch.full((N, C), value, device=place), weight, kmap, flow, bias)
                assert out.dtype == dtype
                out.backward(torch.full_like(out, grad))
            assert weight.grad.dtype == bias.grad.dtype == torch.float32
            wanted = torch.full_like(weight, N * value * grad)
            if op is _in_groups:
                wanted[:, 1] = 0
            assert torch.equal(weight.grad, wanted), (flow, mode)
            assert torch.equal(bias.grad, torch.full_like(bias, N * grad)), (flow, mode)


def test_a_weight_that_two_layers_share_adds_what_both_give(place, coords):
    kmap, (weight, _) = _map(coords, place), _parameters(place)
    feats = torch.full((N, C), 8.0, device=place)
    with torch.autocast(place.type, torch.float16):
        out = sparse_conv(feats, weight, kmap) + sparse_conv(2 * feats, weight, kmap)
        out.backward(torch.full_like(out, 8.0))
    assert torch.equal(weight.grad, torch.full_like(weight, 3 * N * 64.0))


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_a_parameter_of_16_bits_has_a_gradient_of_16_bits(place, flows, coords, autocast):
    kmap = _map(coords, place)
    for flow in flows:
        weight, bias = _parameters(place, torch.float16)
        with torch.autocast(place.type, torch.float16, enabled=autocast):
            feats = torch.ones(N, C, dtype=torch.float16, device=place)
            out = sparse_conv(feats, weight, kmap, bias=bias, dataflow=flow)
            out.sum().backward()
        assert weight.grad.dtype == bias.grad.dtype == torch.float16
        assert torch.equal(weight.grad, torch.full_like(weight, N))
        assert torch.equal(bias.grad, torch.full_like(bias, N))


def test_a_bias_alone_may_want_a_gradient(place, coords):
    kmap, (weight, bias) = _map(coords, place), _parameters(place)
    with torch.autocast(place.type, torch.float16):
        out = sparse_conv(torch.ones(N, C, device=place), weight.detach(), kmap, bias=bias)
        out.backward(torch.full_like(out, 64.0))
    assert torch.equal(bias.grad, torch.full_like(bias, N * 64.0))


@pytest.mark.parametrize("op", [_convolved, _partly], ids=["whole", "partial"])
def test_a_compiled_convolution_keeps_them_too(coords, op):
    torch._dynamo.reset()
    kmap, (weight, bias) = _map(coords, "cpu"), _parameters("cpu")
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.float16):
        out = compiled(torch.full((N, C), 8.0), weight, kmap, "auto", bias)
        out.backward(torch.full_like(out, 8.0))
    torch._dynamo.reset()
    assert torch.equal(weight.grad, torch.full_like(weight, N * 64.0))
    assert torch.equal(bias.grad, torch.full_like(bias, N * 8.0))


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def test_opcheck_of_parameters_in_more_bits(coords, rng):
    kmap = _map(coords[:50], "cpu")
    feats, grad_out = (torch.randn(50, C, generator=rng).half() for _ in range(2))
    weight, bias = _parameters("cpu")
    plan = plan_for(ConvProblem.of(feats, weight.detach().half(), kmap)).encode()
    mask = torch.arange(50) % 2 == 0
    lists = kmap.tensors()
    operators = torch.ops.pcsparse
    for operator, arguments in (
        (operators.sparse_conv, (feats.requires_grad_(), weight, bias, lists, 50, plan, None, False)),
        (operators.sparse_conv_grad_weight, (feats.detach(), grad_out, lists, plan, torch.float32)),
        (
            operators.partial_sparse_conv,
            (feats, weight, bias, lists, mask, None, None, plan, None, False, 0),
        ),
        (
            operators.partial_sparse_conv_grad_weight,
            (feats.detach(), grad_out, lists, mask, plan, 0, torch.float32),
        ),
    ):
        found = torch.library.opcheck(operator.default, arguments, test_utils=CHECKS)
        assert set(found.values()) == {"SUCCESS"}
