"""sparse_conv against the dense oracle: forward, all gradients, autocast, bad input."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.plan import Plan
from pcsparse.errors import DtypeError, RangeError, ShapeError, UnsupportedError
from pcsparse.ops import partial_sparse_conv, sparse_conv
from tests import oracle
from tests.clouds import CLOUDS, TWO_BATCHES, UNSORTED, Cloud
from tests.engine.test_dataflows import FLOWS, on_device
from tests.oracle import Geometry
from tests.tolerance import tolerance

# geometry, and whether the convolution goes from coarse to fine
KINDS = {
    "submanifold": (Geometry((3, 3, 3)), False),
    "submanifold-even": (Geometry((2, 2, 2)), False),
    "submanifold-anisotropic": (Geometry((1, 3, 5)), False),
    "dilated": (Geometry((3, 3, 3), dilation=(2, 1, 3)), False),
    "one-by-one": (Geometry((1, 1, 1)), False),
    "strided": (Geometry((2, 2, 2), (2, 2, 2)), False),
    "strided-overlapping": (Geometry((3, 3, 3), (2, 2, 2), padding=(1, 0, 0)), False),
    "strided-anisotropic": (Geometry((3, 1, 2), (1, 2, 3), (2, 1, 1)), False),
    "inverse": (Geometry((2, 2, 2), (2, 2, 2)), True),
    "inverse-overlapping": (Geometry((3, 3, 3), (2, 2, 2)), True),
    "transposed-dilated": (Geometry((3, 2, 2), (2, 1, 1), (1, 2, 1)), True),
}


class Case:
    """A map of ours, and the coordinates that the oracle needs."""

    def __init__(self, cloud: Cloud, geometry: Geometry, back: bool) -> None:
        relation = Relation(geometry.kernel_size, geometry.stride, geometry.dilation, geometry.padding)
        fine, cache = cloud.coords, CoordCache()
        coarse = fine if relation.is_submanifold else cache.coarser(fine, relation)
        kmap = cache.kernel_map(fine, coarse, relation)
        self.geometry, self.back, self.batch = geometry, back, cloud.batch_size
        self.kmap: KernelMap = kmap.transposed() if back else kmap
        self.coords_in, self.coords_out = (coarse, fine) if back else (fine, coarse)

    def operands(self, rng, c_in=3, c_out=4, dtype=torch.float64):
        k = self.kmap.volume
        shapes = ((len(self.coords_in), c_in), (k, c_in, c_out), (c_out,), (len(self.coords_out), c_out))
        feats, weight, bias, grad_out = (torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes)
        weight /= (k * c_in) ** 0.5
        leaves = [part.to(dtype).requires_grad_() for part in (feats, weight, bias)]
        return *leaves, grad_out.to(dtype)

    def expected(self, feats, weight, bias=None):
        out = oracle.sparse_conv(
            feats,
            self.coords_in,
            weight,
            self.coords_out,
            self.geometry,
            batch=self.batch,
            transposed=self.back,
        )
        return out if bias is None else out + bias


def skip_without_kernel(dataflow: str, device: torch.device) -> None:
    if device.type not in FLOWS[dataflow].devices:
        pytest.skip(f"{dataflow} has no kernel on {device.type}")


@pytest.mark.parametrize("dataflow", FLOWS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("cloud", [UNSORTED, TWO_BATCHES, CLOUDS["one"]], ids=["unsorted", "two", "one"])
def test_forward_and_gradients_are_the_oracles(device, rng, cloud, kind, dataflow):
    case = Case(cloud, *kind)
    feats, weight, bias, grad_out = case.operands(rng)
    expected = case.expected(feats, weight, bias)
    wanted = torch.autograd.grad(expected, (feats, weight, bias), grad_out)

    skip_without_kernel(dataflow, device)
    moved = [part.detach().to(device, copy=True).requires_grad_() for part in (feats, weight, bias)]
    actual = sparse_conv(*moved[:2], on_device(case.kmap, device), bias=moved[2], dataflow=dataflow)
    got = torch.autograd.grad(actual, moved, grad_out.to(device))

    terms = case.kmap.volume * 4
    torch.testing.assert_close(actual.cpu(), expected, **tolerance(torch.float64, terms, factor=64))
    close = tolerance(torch.float64, len(grad_out) + terms, factor=64)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, **close)


@pytest.mark.parametrize("dataflow", FLOWS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    "kind", ["submanifold", "dilated", "strided-overlapping", "inverse", "transposed-dilated"]
)
def test_gradcheck(rng, kind, with_bias, dataflow):
    cloud = Cloud(TWO_BATCHES.coords[::10].contiguous(), 2)
    case = Case(cloud, *KINDS[kind])
    feats, weight, bias, _ = case.operands(rng, 2, 2)
    bias = bias if with_bias else None

    assert torch.autograd.gradcheck(
        lambda f, w, b: sparse_conv(f, w, case.kmap, bias=b, dataflow=dataflow), (feats, weight, bias)
    )


@pytest.mark.parametrize(("c_in", "c_out"), [(1, 1), (3, 7), (33, 3), (7, 33)])
def test_channels_off_powers_of_two(rng, c_in, c_out):
    case = Case(UNSORTED, *KINDS["strided-overlapping"])
    feats, weight, _, grad_out = case.operands(rng, c_in, c_out)
    wanted = torch.autograd.grad(case.expected(feats, weight), (feats, weight), grad_out)
    got = torch.autograd.grad(sparse_conv(feats, weight, case.kmap), (feats, weight), grad_out)

    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance(torch.float64, 500, factor=64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_narrow_dtypes_stay_near_float64(rng, dtype):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, bias, grad_out = case.operands(rng, 8, 8, dtype)
    wide = [part.detach().double().requires_grad_() for part in (feats, weight, bias)]
    expected = case.expected(*wide)
    wanted = torch.autograd.grad(expected, wide, grad_out.double())

    actual = sparse_conv(feats, weight, case.kmap, bias=bias)
    got = torch.autograd.grad(actual, (feats, weight, bias), grad_out)

    assert actual.dtype == dtype
    # the bias is a second rounding
    close = tolerance(dtype, 27 * 8, factor=32, roundings=4)
    torch.testing.assert_close(actual, expected.to(dtype), **close)
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.dtype == dtype
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine, theirs.to(dtype), rtol=close["rtol"], atol=close["atol"] * scale)


def test_autocast_casts_features_weights_and_bias(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, bias, grad_out = case.operands(rng, 8, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_conv(feats, weight, case.kmap, bias=bias)
        with torch.autocast("cpu", enabled=False):
            plain = sparse_conv(feats, weight, case.kmap, bias=bias)
        doubles = sparse_conv(feats.double(), weight.double(), case.kmap, bias=bias.double())
        mixed = sparse_conv(feats.bfloat16(), weight, case.kmap, bias=bias)
    grads = torch.autograd.grad(out, (feats, weight, bias), grad_out.bfloat16())

    assert (out.dtype, plain.dtype, doubles.dtype) == (torch.bfloat16, torch.float32, torch.float64)
    halves = [part.detach().bfloat16() for part in (feats, weight, bias)]
    assert torch.equal(out, sparse_conv(halves[0], halves[1], case.kmap, bias=halves[2]))
    assert torch.equal(out, mixed)
    assert not torch.equal(out.float(), plain)
    assert [grad.dtype for grad in grads] == [torch.float32] * 3
    exact = torch.autograd.grad(plain, (feats, weight, bias), grad_out)
    close = tolerance(torch.bfloat16, len(grad_out), roundings=4)
    for mine, theirs in zip(grads, exact, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine, theirs, rtol=close["rtol"], atol=close["atol"] * scale)


class _Seen(TorchDispatchMode):
    """Names and plans of our operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, object]] = []

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        if function.namespace == "pcsparse":
            self.calls.append((function._opname, next(part for part in args if isinstance(part, str))))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("needs", ["feats", "weight", "bias", "feats-weight", "nothing"])
def test_only_the_gradients_that_are_needed_are_computed(rng, needs):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, bias, _ = case.operands(rng)
    for name, part in (("feats", feats), ("weight", weight), ("bias", bias)):
        part.requires_grad_(name in needs)
    with _Seen() as seen:
        out = sparse_conv(feats, weight, case.kmap, bias=bias)
        if out.requires_grad:
            out.sum().backward()

    expected = ["sparse_conv"]
    expected += ["sparse_conv_grad_feats"] * ("feats" in needs) + ["sparse_conv_grad_weight"] * (
        "weight" in needs
    )
    assert [name for name, _ in seen.calls] == expected
    for name, part in (("feats", feats), ("weight", weight), ("bias", bias)):
        assert (part.grad is not None) == (name in needs)


def test_the_plan_of_forward_is_the_plan_of_backward(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, _, _ = case.operands(rng)
    with _Seen() as seen:
        sparse_conv(feats, weight, case.kmap, dataflow="gather_scatter").sum().backward()

    plans = {plan for _, plan in seen.calls}
    assert len(seen.calls) == 3
    assert len(plans) == 1
    assert Plan.decode(plans.pop()).grad_weight.dataflow == "gather_scatter"


def test_gradients_of_any_strides_are_taken(rng):
    case = Case(UNSORTED, *KINDS["strided"])
    feats, weight, _, _ = case.operands(rng)
    out = sparse_conv(feats, weight, case.kmap)
    dense = torch.randn(out.shape[1], out.shape[0], generator=rng, dtype=torch.float64).T.contiguous()

    for grad_out in (torch.ones_like(out[:1, :1]).expand_as(out), dense, dense.T.contiguous().T):
        mine = torch.autograd.grad(out, (feats, weight), grad_out, retain_graph=True)
        same = torch.autograd.grad(out, (feats, weight), grad_out.clone().contiguous(), retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(mine, same, strict=True))


def test_operands_of_any_strides_are_taken(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, _, _ = case.operands(rng, 4, 4)
    wide = torch.stack([feats, feats], dim=2).detach()[:, :, 0]
    turned = weight.detach().transpose(1, 2).contiguous().transpose(1, 2)
    assert not wide.is_contiguous()

    for dataflow in FLOWS:
        expected = sparse_conv(feats, weight, case.kmap, dataflow=dataflow)
        actual = sparse_conv(wide, turned, case.kmap, dataflow=dataflow)
        torch.testing.assert_close(actual, expected, **tolerance(torch.float64, 108))


def test_a_second_derivative_is_refused_not_zero(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, _, _ = case.operands(rng)
    out = sparse_conv(feats, weight, case.kmap).square().sum()
    (grad,) = torch.autograd.grad(out, feats, create_graph=True)

    with pytest.raises(RuntimeError, match="autograd"):
        grad.square().sum().backward()


@pytest.mark.parametrize("dataflow", FLOWS)
def test_an_empty_cloud_goes_forward_and_backward(rng, dataflow):
    for kind in ("submanifold", "strided", "inverse"):
        case = Case(CLOUDS["empty"], *KINDS[kind])
        feats, weight, bias, _ = case.operands(rng)
        out = sparse_conv(feats, weight, case.kmap, bias=bias, dataflow=dataflow)
        out.sum().backward()

        assert out.shape == (0, 4)
        assert feats.grad.shape == (0, 3)
        assert not weight.grad.any()
        assert not bias.grad.any()


def test_an_output_without_a_pair_is_the_bias(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, bias, _ = case.operands(rng)
    kept = torch.arange(case.kmap.n_out) % 2 == 0
    kmap = case.kmap.keep_outputs(kept)
    whole = sparse_conv(feats, weight, case.kmap, bias=bias)

    for dataflow in FLOWS:
        out = sparse_conv(feats, weight, kmap, bias=bias, dataflow=dataflow)
        close = tolerance(torch.float64, 81, factor=16)
        torch.testing.assert_close(out[kept], whole[kept], **close)
        assert torch.equal(out[~kept], bias.expand_as(out[~kept]))


def test_bad_input_is_refused_before_anything_runs(rng):
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, bias, _ = case.operands(rng)
    with pytest.raises(ShapeError, match="build the map from the coordinates of these features"):
        sparse_conv(feats[1:], weight, case.kmap)
    with pytest.raises(ShapeError, match=r"bias must have shape \(4,\)"):
        sparse_conv(feats, weight, case.kmap, bias=bias[:3])
    with pytest.raises(DtypeError, match="use one dtype, or autocast"):
        sparse_conv(feats.float(), weight, case.kmap)
    with pytest.raises(UnsupportedError, match="no dataflow 'im2col'; known: auto"):
        sparse_conv(feats, weight, case.kmap, dataflow="im2col")


def test_results_may_be_changed_in_place(rng):
    # what an operator returns must not be a view, or torch refuses `ReLU(inplace=True)` after it
    case = Case(UNSORTED, *KINDS["submanifold"])
    feats, weight, bias, _ = case.operands(rng)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        leaves = [part.detach().to(dtype).requires_grad_() for part in (feats, weight, bias)]
        out = sparse_conv(leaves[0], leaves[1], case.kmap, bias=leaves[2])
        assert not out._is_view()
        torch.nn.functional.relu(out, inplace=True).sum().backward()
        assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_a_map_of_groups_is_summed_where_rows_meet(rng):
    group = torch.randint(0, 5, (100,), generator=rng, dtype=torch.int32)
    kmap = KernelMap.of_groups(group, 5)
    feats = torch.randn(100, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 3, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(5, 4, dtype=torch.float64).index_add(0, group.long(), feats @ weight[0])
    grad_out = torch.randn(5, 4, generator=rng, dtype=torch.float64)

    actual = sparse_conv(feats, weight, kmap)
    torch.testing.assert_close(actual, expected, **tolerance(torch.float64, 300, factor=64))
    got = torch.autograd.grad(actual, (feats, weight), grad_out)
    for mine, theirs in zip(got, torch.autograd.grad(expected, (feats, weight), grad_out), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance(torch.float64, 300, factor=64))
    with pytest.raises(UnsupportedError, match="leads several inputs to one output"):
        sparse_conv(feats, weight, kmap, dataflow="output_stationary")
    # and back: its input gradient runs over the map of groups
    wide = torch.randn(5, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    spread = sparse_conv(wide, weight.detach(), kmap.transposed())
    torch.testing.assert_close(spread, (wide @ weight[0].detach())[group.long()])
    (grad,) = torch.autograd.grad(spread.sum(), wide)
    counts = torch.bincount(group, minlength=5).double()[:, None]
    torch.testing.assert_close(grad, counts * weight[0].detach().sum(dim=1))


def test_an_infinite_gradient_stops_at_the_relu(rng):
    case = Case(UNSORTED, *KINDS["one-by-one"])
    feats = torch.full((case.kmap.n_in, 1), -1.0, requires_grad=True)
    out = sparse_conv(feats, torch.ones(1, 1, 1), case.kmap, relu=True)
    (grad,) = torch.autograd.grad(out, feats, torch.full_like(out, float("inf")))
    assert (grad == 0).all()


@pytest.mark.parametrize("convolve", ["all", "gradients", "some"])
def test_a_map_that_was_changed_in_place_is_read_again(rng, convolve):
    coords = UNSORTED.coords
    kmap = CoordCache().kernel_map(coords, coords, Relation.of(3))
    feats = torch.randn(len(coords), 4, generator=rng, requires_grad=convolve == "gradients")
    weight, mask = torch.randn(27, 4, 4, generator=rng), torch.ones(len(coords), dtype=torch.bool)

    def run():
        if convolve == "some":
            return partial_sparse_conv(feats, weight, kmap, mask)
        return sparse_conv(feats, weight, kmap)

    before, row = run(), int(kmap.pairs.rows_in[0])
    kmap.pairs.rows_in[0] = len(coords) + 1
    with pytest.raises(RangeError, match=f"rows_in names row {len(coords) + 1} at pair 0"):
        run()
    kmap.pairs.rows_in[0] = row
    assert torch.equal(run(), before)
