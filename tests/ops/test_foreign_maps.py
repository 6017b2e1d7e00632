"""The operators are public: they refuse tensors that are no map, and operands that do not fit it."""

import pytest
import torch

from pcsparse.coords import kernel_map as kernel_map_module
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.plan import Plan, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import DtypeError, PcsparseError, RangeError, ShapeError, UnsupportedError
from pcsparse.ops import max_pool, sparse_conv, sum_pool
from tests.clouds import UNSORTED

OPERATORS = torch.ops.pcsparse
N = len(UNSORTED.coords)


def _map() -> KernelMap:
    return CoordCache().kernel_map(UNSORTED.coords, UNSORTED.coords, Relation.of(3))


# what becomes of [header, rows_in, rows_out, starts]
CHANGES = {
    "int64-rows": (1, lambda rows: rows.long(), DtypeError),
    "strided-rows": (2, lambda rows: torch.stack([rows, rows], 1)[:, 0], ShapeError),
    "rows-beyond": (1, lambda rows: rows + (1 << 24), RangeError),
    "rows-below": (2, lambda rows: rows - (1 << 24), RangeError),
    "descending": (2, lambda rows: rows.flip(0), RangeError),
    "starts-beyond": (3, lambda starts: starts * 1000, RangeError),
    "short-rows": (1, lambda rows: rows[:-1], ShapeError),
    "fewer-outputs": (0, lambda header: header - 7 * (torch.arange(15) == 13), RangeError),
}


@pytest.mark.parametrize("dataflow", ["output_stationary", "gather_scatter"])
@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_are_no_map_are_refused(change, dataflow):
    kmap = _map()
    feats, weight = torch.zeros(N, 3), torch.zeros(27, 3, 4)
    plan = plan_for(ConvProblem.of(feats, weight, kmap), dataflow).encode()
    place, changed, error = CHANGES[change]
    tensors = kmap.tensors()
    tensors[place] = changed(tensors[place])
    grad_out = torch.zeros(N, 4)
    calls = (
        lambda: OPERATORS.sparse_conv(feats, weight, None, tensors, N, plan, None, False),
        lambda: OPERATORS.sparse_conv_grad_feats(grad_out, weight, tensors, N, plan),
        lambda: OPERATORS.sparse_conv_grad_weight(feats, grad_out, tensors, plan),
        lambda: OPERATORS.sum_pool(feats, tensors, N),
        lambda: OPERATORS.sum_pool_grad(feats, tensors, N),
        lambda: OPERATORS.max_pool(feats, tensors, N),
        lambda: OPERATORS.max_pool_grad(feats, feats.int(), tensors, N),
    )
    for call in calls:
        with pytest.raises(error):
            call()


def test_operands_that_do_not_fit_the_map_are_refused():
    kmap = _map()
    feats, weight, grad_out = torch.zeros(N, 3), torch.zeros(27, 3, 4), torch.zeros(N, 4)
    plan, tensors = plan_for(ConvProblem.of(feats, weight, kmap)).encode(), kmap.tensors()

    def forward(feats=feats, weight=weight, bias=None, n_out=N, residual=None):
        return OPERATORS.sparse_conv(feats, weight, bias, tensors, n_out, plan, residual, False)

    assert forward().shape == (N, 4)
    for options in (
        {"feats": feats[1:]}, {"feats": feats[:, :2]}, {"weight": weight[:5]}, {"bias": torch.zeros(3)},
        {"residual": torch.zeros(N - 1, 4)}, {"n_out": N + 1}, {"weight": weight.double()},
    ):  # fmt: skip
        with pytest.raises(PcsparseError):
            forward(**options)
    for part, other, n_in in (
        (grad_out[1:], weight, N), (grad_out[:, 1:], weight, N), (grad_out, weight[:5], N),
        (grad_out, weight.double(), N), (grad_out, weight, N + 1),
    ):  # fmt: skip
        with pytest.raises(PcsparseError):
            OPERATORS.sparse_conv_grad_feats(part, other, tensors, n_in, plan)
    for part, other in ((feats[1:], grad_out), (feats, grad_out[1:]), (feats, grad_out.double())):
        with pytest.raises(PcsparseError):
            OPERATORS.sparse_conv_grad_weight(part, other, tensors, plan)
    for call in (
        lambda: OPERATORS.sum_pool(feats[1:], tensors, N),
        lambda: OPERATORS.sum_pool(feats, tensors, N + 1),
        lambda: OPERATORS.sum_pool_grad(feats[1:], tensors, N),
        lambda: OPERATORS.max_pool(feats[1:], tensors, N),
        lambda: OPERATORS.max_pool_grad(feats[1:], feats.int(), tensors, N),
        lambda: OPERATORS.max_pool_grad(feats, feats[1:].int(), tensors, N),
        lambda: OPERATORS.max_pool_grad(feats, feats.long(), tensors, N),
    ):
        with pytest.raises(PcsparseError):
            call()


def test_a_plan_that_the_map_does_not_bear_is_refused():
    kmap = KernelMap.of_groups(torch.tensor([0, 0, 1]), 2)
    feats, weight = torch.zeros(3, 2), torch.zeros(1, 2, 4)
    plan = plan_for(ConvProblem("cpu", torch.float32, 1, 2, 4, 3, 2, 3, symmetric=False)).encode()
    assert Plan.decode(plan).forward.dataflow == "output_stationary"
    with pytest.raises(UnsupportedError, match=r"leads several inputs to one output.*plan_for"):
        OPERATORS.sparse_conv(feats, weight, None, kmap.tensors(), 2, plan, None, False)
    with pytest.raises(UnsupportedError, match="leads several inputs to one output"):
        OPERATORS.sparse_conv_grad_feats(torch.zeros(2, 4), weight, kmap.tensors(), 3, plan)
    with pytest.raises(UnsupportedError, match="leads several inputs to one output"):
        OPERATORS.sparse_conv_grad_weight(feats, torch.zeros(2, 4), kmap.tensors(), plan)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_no_operator_reads_a_map_twice(rng, monkeypatch, compiled):
    kmap = _map()
    kmap = KernelMap(kmap.relation, N, N, kmap.pairs, symmetric=True)
    monkeypatch.setattr(kernel_map_module, "check_map", lambda kmap: pytest.fail("read again"))

    def run(feats, weight):
        y = sparse_conv(feats, weight, kmap)
        return sum_pool(y, kmap) + max_pool(y, kmap)

    feats = torch.randn(N, 3, generator=rng, requires_grad=True)
    weight = torch.randn(27, 3, 4, generator=rng, requires_grad=True)
    torch._dynamo.reset()
    call = torch.compile(run, backend="aot_eager", fullgraph=True) if compiled else run
    for _ in range(3):
        call(feats, weight).sum().backward()
    torch._dynamo.reset()
    assert "transposed" in kmap._derived
