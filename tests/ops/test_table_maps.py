"""Operators on maps that were born as tables: the same numbers, as one graph, and what is refused."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine import sorted_implicit_gemm
from pcsparse.engine.plan import DATAFLOWS, explain, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import Bucket
from pcsparse.errors import DeviceError, DtypeError, RangeError, ShapeError
from pcsparse.kernels import cpu
from pcsparse.ops import important_rows, max_pool, mean_pool, partial_sparse_conv, pool, sparse_conv, sum_pool
from tests.clouds import TWO_BATCHES, UNSORTED, lidar_like
from tests.emulation import emulate

OPERATORS = torch.ops.pcsparse
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
SUBMANIFOLD, HALVE = Relation.of(3), Relation.of(2, 2)


@pytest.fixture(autouse=True)
def _tables(monkeypatch):
    monkeypatch.setattr(cpu, "TABLES", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _maps(coords: torch.Tensor) -> tuple[KernelMap, KernelMap]:
    cache = CoordCache()
    coarse = cache.coarser(coords, HALVE)
    maps = cache.kernel_map(coords, coords, SUBMANIFOLD), cache.kernel_map(coords, coarse, HALVE)
    assert all(kmap.of_table for kmap in maps)
    return maps


def _operands(rng, kmap, c_in=3, c_out=4):
    feats = torch.randn(kmap.n_in, c_in, generator=rng, requires_grad=True)
    return feats, (torch.randn(kmap.volume, c_in, c_out, generator=rng) / 9).requires_grad_()


def _of_lists(kmap: KernelMap) -> KernelMap:
    return KernelMap(kmap.relation, kmap.n_in, kmap.n_out, kmap.pairs, symmetric=kmap.symmetric)


@pytest.mark.parametrize("which", [0, 1], ids=["submanifold", "strided"])
@pytest.mark.parametrize("back", [False, True])
def test_numbers_are_those_of_lists(rng, which, back):
    kmap = _maps(UNSORTED.coords)[which]
    kmap = kmap.transposed() if back else kmap
    feats, weight = _operands(rng, kmap, 3, 3)
    runs = {
        "conv": lambda kmap: sparse_conv(feats, weight, kmap),
        "sum": lambda kmap: sum_pool(feats, kmap),
        "mean": lambda kmap: mean_pool(feats, kmap),
        "max": lambda kmap: max_pool(feats, kmap),
    }
    if kmap.n_in == kmap.n_out:
        runs["some"] = lambda kmap: partial_sparse_conv(feats, weight, kmap, torch.arange(kmap.n_out) % 3 > 0)
    for name, run in runs.items():
        got, want = run(kmap), run(_of_lists(kmap))
        assert torch.equal(got, want), name
        up = torch.randn(got.shape, generator=rng)
        for mine, theirs in zip(*(torch.autograd.grad(out, feats, up) for out in (got, want)), strict=True):
            assert torch.equal(mine, theirs), name


def test_opcheck(rng):
    kmap = _maps(TWO_BATCHES.coords)[1]
    feats, weight = _operands(rng, kmap)
    plan = plan_for(ConvProblem.of(feats, weight, kmap)).encode()
    plain, bare = feats.detach(), weight.detach()
    grad_out, tensors = torch.randn(kmap.n_out, 4, generator=rng), kmap.tensors()
    arg = OPERATORS.max_pool(plain, tensors, kmap.n_out)[1]

    for operator, arguments in (
        (OPERATORS.sparse_conv, (feats, weight, None, tensors, kmap.n_out, plan, None, True)),
        (OPERATORS.sparse_conv_grad_feats, (grad_out, bare, tensors, kmap.n_in, plan)),
        (OPERATORS.sparse_conv_grad_weight, (plain, grad_out, tensors, plan)),
        (OPERATORS.max_pool, (feats, tensors, kmap.n_out)),
        (OPERATORS.max_pool_grad, (grad_out[:, :3].contiguous(), arg, tensors, kmap.n_in)),
    ):
        found = torch.library.opcheck(operator.default, arguments, test_utils=CHECKS)
        assert set(found.values()) == {"SUCCESS"}


def _twice(feats: torch.Tensor, weight: torch.Tensor, kmap: KernelMap) -> torch.Tensor:
    return torch.relu(sparse_conv(feats * 2, weight, kmap)) + 1


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


def test_the_dataflow_of_a_gpu_is_one_graph_too(rng, monkeypatch):
    emulate(monkeypatch)
    monkeypatch.setattr(type(DATAFLOWS["sorted_implicit_gemm"]), "devices", ("cpu", "cuda"))
    monkeypatch.setattr(type(DATAFLOWS["output_stationary"]), "devices", ("meta",))
    seen, plain = [], sorted_implicit_gemm.completed
    monkeypatch.setattr(
        sorted_implicit_gemm, "completed", lambda config, *sizes: seen.append(config) or plain(config, *sizes)
    )
    compiled = torch.compile(_twice, fullgraph=True, backend="aot_eager")
    kmap = _maps(TWO_BATCHES.coords[:30])[1]
    feats, weight = _operands(rng, kmap)
    grad_out = torch.randn(kmap.n_out, 4, generator=rng)
    actual = compiled(feats, weight, kmap)
    got = torch.autograd.grad(actual, (feats, weight), grad_out)
    # a traced graph follows torch's switch as it is when it runs
    monkeypatch.setattr(sorted_implicit_gemm, "_allowed", lambda: "tf32")
    del seen[:]
    compiled(feats, weight, kmap)
    assert [config.precision for config in seen] == ["tf32"]

    monkeypatch.setattr(sorted_implicit_gemm, "_allowed", lambda: "ieee")
    expected = _twice(feats, weight, kmap)
    assert plan_for(ConvProblem.of(feats, weight, kmap)).forward.dataflow == "sorted_implicit_gemm"
    assert torch.equal(actual, expected)
    wanted = torch.autograd.grad(expected, (feats, weight), grad_out)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


class _Layer(nn.Module):
    def __init__(self, plan: str) -> None:
        super().__init__()
        self.plan = plan
        self.weight = nn.Parameter(torch.randn(27, 3, 4) / 9)

    def forward(self, feats: torch.Tensor, kernel_map: list[torch.Tensor]) -> torch.Tensor:
        n = feats.shape[0]
        return OPERATORS.sparse_conv(feats, self.weight, None, kernel_map, n, self.plan, None, True)


def test_an_exported_layer_serves_clouds_of_every_size(rng):
    kmap, _ = _maps(UNSORTED.coords)
    feats, _ = _operands(rng, kmap)
    layer = _Layer(plan_for(ConvProblem.of(feats, torch.zeros(27, 3, 4), kmap)).encode())
    rows = Dim("rows")
    program = torch.export.export(
        layer, (feats.detach(), kmap.tensors()), dynamic_shapes=({0: rows}, [None, {1: rows}])
    )
    for coords in (UNSORTED.coords, TWO_BATCHES.coords, lidar_like(300)):
        kmap, _ = _maps(coords)
        feats = torch.randn(kmap.n_in, 3, generator=rng)
        assert torch.equal(program.module()(feats, kmap.tensors()), layer(feats, kmap.tensors()))


N = len(UNSORTED.coords)
# what becomes of [header, table]
CHANGES = {
    "int64": (1, lambda table: table.long(), DtypeError),
    "strided": (1, lambda table: table.T.contiguous().T, ShapeError),
    "beyond": (1, lambda table: table + (1 << 24), RangeError),
    "below": (1, lambda table: table - 2, RangeError),
    "swapped": (1, lambda table: table.flip(1), RangeError),
    "fewer-outputs": (0, lambda header: header - 7 * (torch.arange(15) == 13), ShapeError),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_are_no_map_are_refused(rng, change):
    kmap, _ = _maps(UNSORTED.coords)
    feats, weight = (part.detach() for part in _operands(rng, kmap))
    plan, tensors = plan_for(ConvProblem.of(feats, weight, kmap)).encode(), kmap.tensors()
    place, changed, error = CHANGES[change]
    tensors[place] = changed(tensors[place])
    for call in (
        lambda: OPERATORS.sparse_conv(feats, weight, None, tensors, N, plan, None, False),
        lambda: OPERATORS.sparse_conv_grad_weight(feats, torch.zeros(N, 4), tensors, plan),
        lambda: OPERATORS.max_pool(feats, tensors, N),
    ):
        with pytest.raises(error):
            call()


def test_a_plan_counts_no_pairs(rng):
    kmap, _ = _maps(UNSORTED.coords)
    problem = ConvProblem.of(*_operands(rng, kmap), kmap)
    assert problem.n_pairs is None
    assert Bucket.of(problem).pairs is None
    assert "n_pairs=None" in explain(problem)
    # also where somebody has counted them: the plan depends on the problem alone
    assert kmap.n_pairs > 0
    assert ConvProblem.of(*_operands(rng, kmap), kmap) == problem


def test_a_problem_gone_backwards_is_that_of_the_transposed_map(rng):
    kmap = _maps(UNSORTED.coords)[1]
    feats, weight = _operands(rng, kmap.transposed())
    assert ConvProblem.of(feats, weight, kmap, back=True) == ConvProblem.of(feats, weight, kmap.transposed())
    with pytest.raises(ShapeError, match=f"the kernel map has {kmap.n_out} inputs"):
        ConvProblem.of(feats[1:], weight, kmap, back=True)


def test_a_map_elsewhere_is_refused(rng):
    kmap, _ = _maps(UNSORTED.coords)
    feats, weight = (part.detach() for part in _operands(rng, kmap, 3, 3))
    far = KernelMap(kmap.relation, N, N, table=kmap.table.to("meta"))
    clouds = CoordCache().cloud_map(UNSORTED.coords, 1)
    lists = [part.to("meta") for part in clouds.tensors()[1:]]
    groups = KernelMap.from_tensors([clouds.tensors()[0], *lists])
    for call in (
        lambda: sparse_conv(feats, weight, far),
        lambda: partial_sparse_conv(feats, weight, far, torch.ones(N, dtype=torch.bool)),
        # the operators themselves would take a map without values for a question about shapes
        lambda: pool._by_output(feats, far.tensors(), N),
        lambda: important_rows(feats, groups, 0.5),
    ):
        with pytest.raises(DeviceError, match=r"feats on cpu, .* on meta; move them with \.to\(\)"):
            call()
    # features without values go with any map, and get a shape
    assert sparse_conv(feats.to("meta"), weight.to("meta"), kmap).is_meta


def test_more_elements_than_int32_can_number_are_no_limit():
    n, c = 1 << 27, 32
    table = torch.empty(27, n, dtype=torch.int32, device="meta")
    kmap = KernelMap(SUBMANIFOLD, n, n, table=table)
    feats = torch.empty(n, c, dtype=torch.float16, device="meta")
    weight = torch.empty(27, c, c, dtype=torch.float16, device="meta")
    assert feats.numel() > 2**31
    assert table.numel() > 2**31
    out = sparse_conv(feats, weight, kmap)
    assert out.shape == (n, c)
    with pytest.raises(RangeError, match=r"n_out must be from 0 to 2147483647 \(int32\), got 2147483648"):
        KernelMap(SUBMANIFOLD, n, 1 << 31, table=table)
