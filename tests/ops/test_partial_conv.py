"""Convolution of some rows against the simulation: convolve all rows by the oracle, then overwrite."""

import contextlib
import copy

import pytest
import torch
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kept_outputs import kept_outputs
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.output_stationary import OutputStationary
from pcsparse.engine.plan import plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import DeviceError, DtypeError, RangeError, ShapeError, UnsupportedError
from pcsparse.ops import partial_sparse_conv, sparse_conv
from tests import oracle
from tests.clouds import CLOUDS, TWO_BATCHES, UNSORTED, Cloud
from tests.engine.test_dataflows import FLOWS
from tests.oracle import Geometry
from tests.tolerance import tolerance

C = 4
# of the offsets of a 3^3 kernel
CENTRE = 13


def _map(cloud: Cloud, size: int = 3) -> KernelMap:
    return CoordCache().kernel_map(cloud.coords, cloud.coords, Relation.of(size))


def _operands(rng, n: int, k: int = 27, dtype=torch.float64, c: int = C) -> dict[str, torch.Tensor]:
    shapes = {"feats": (n, c), "weight": (k, c, c), "bias": (c,), "residual": (n, c)}
    drawn = {name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
    drawn["weight"] /= (k * c) ** 0.5
    return {name: part.to(dtype).requires_grad_() for name, part in drawn.items()}


def _simulated(
    cloud: Cloud,
    mask,
    feats,
    weight,
    bias=None,
    residual=None,
    scale=None,
    shift=None,
    relu=False,
    centre=None,
):
    """What SPS-Conv's code does: all rows are convolved, those that are left out are overwritten."""
    size = round(len(weight) ** (1 / 3))
    out = oracle.sparse_conv(
        feats, cloud.coords, weight, cloud.coords, Geometry((size,) * 3), batch=cloud.batch_size
    )
    out = out if bias is None else out + bias
    if centre is None:
        rest = feats * (1 if scale is None else scale) + (0 if shift is None else shift)
    else:
        rest = feats @ weight[centre] + (0 if bias is None else bias)
    out = torch.where(mask[:, None], out, rest)
    out = out if residual is None else out + residual
    return out.relu() if relu else out


EPILOGUES = {
    "plain": {},
    "bias": {"bias"},
    "residual-relu": {"residual", "relu"},
    "everything": {"bias", "residual", "relu", "scale", "shift"},
    "centre": {"centre"},
    "centre-everything": {"centre", "bias", "residual", "relu"},
}


def _options(rng, wanted: set[str], operands) -> dict:
    options = {name: operands[name] for name in ("bias", "residual") if name in wanted}
    for name in ("scale", "shift"):
        if name in wanted:
            options[name] = torch.randn(C, generator=rng, dtype=torch.float64)
    return options | {"relu": "relu" in wanted, "centre": CENTRE if "centre" in wanted else None}


@pytest.mark.parametrize("dataflow", FLOWS)
@pytest.mark.parametrize("wanted", EPILOGUES.values(), ids=EPILOGUES.keys())
@pytest.mark.parametrize("cloud", [UNSORTED, TWO_BATCHES, CLOUDS["one"]], ids=["unsorted", "two", "one"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_spatial_filtered_is_simulated_sps(rng, cloud, wanted, dataflow, share):
    kmap, n = _map(cloud), len(cloud.coords)
    operands = _operands(rng, n)
    options = _options(rng, wanted, operands)
    mask = torch.rand(n, generator=rng) < share
    grad_out = torch.randn(n, C, generator=rng, dtype=torch.float64)
    leaves = [
        operands["feats"],
        operands["weight"],
        *(options[b] for b in ("bias", "residual") if b in options),
    ]

    expected = _simulated(cloud, mask, *leaves[:2], **options)
    actual = partial_sparse_conv(*leaves[:2], kmap, mask, dataflow=dataflow, **options)
    close = tolerance(torch.float64, 27 * C + n, factor=64)
    torch.testing.assert_close(actual, expected, **close)
    wanted_grads = torch.autograd.grad(expected, leaves, grad_out)
    for mine, theirs in zip(torch.autograd.grad(actual, leaves, grad_out), wanted_grads, strict=True):
        torch.testing.assert_close(mine, theirs, **close)


@pytest.mark.parametrize("dataflow", FLOWS)
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("keeps", [False, True], ids=["pass", "centre"])
def test_gradcheck(rng, dataflow, size, keeps):
    cloud = Cloud(TWO_BATCHES.coords[::12].contiguous(), 2)
    kmap, n = _map(cloud, size), len(cloud.coords)
    operands = _operands(rng, n, size**3, c=2)
    mask = torch.arange(n) % 3 == 0
    # of a kernel of 2^3 the first offset leads a voxel to itself
    centre = Relation.of(size).centre if keeps else None
    assert centre in (None, {1: 0, 2: 0, 3: 13}[size])

    def run(feats, weight, bias, residual):
        return partial_sparse_conv(
            feats, weight, kmap, mask, bias=bias, residual=residual, centre=centre, dataflow=dataflow
        )

    assert torch.autograd.gradcheck(run, tuple(operands.values()))


def test_rows_that_keep_their_centre_may_change_their_channels(rng):
    kmap, n = _map(TWO_BATCHES), len(TWO_BATCHES.coords)
    operands, mask = _operands(rng, n), torch.arange(n) % 3 == 0
    weight = operands["weight"][:, :, :3].detach().clone().requires_grad_()
    expected = _simulated(TWO_BATCHES, mask, operands["feats"], weight, centre=CENTRE)
    actual = partial_sparse_conv(operands["feats"], weight, kmap, mask, centre=CENTRE)
    close = tolerance(torch.float64, 27 * C + n, factor=64)
    torch.testing.assert_close(actual, expected, **close)
    wanted = torch.autograd.grad(expected.square().sum(), [operands["feats"], weight])
    for mine, theirs in zip(
        torch.autograd.grad(actual.square().sum(), [operands["feats"], weight]), wanted, strict=True
    ):
        torch.testing.assert_close(mine, theirs, **close)


@pytest.mark.parametrize("centre", [None, CENTRE], ids=["pass", "centre"])
def test_pairs_that_are_left_out_are_not_multiplied(monkeypatch, rng, centre):
    kmap, n = _map(UNSORTED), len(UNSORTED.coords)
    mask = torch.rand(n, generator=rng) < 0.3
    wanted = int(kmap.pairs_per_output()[mask].sum()) + (0 if centre is None else int((~mask).sum()))
    seen = []
    for name in ("forward", "grad_weight"):
        plain = getattr(OutputStationary, name)

        def recording(self, a, b, kmap, *arguments, plain=plain):
            seen.append(kmap.n_pairs)
            return plain(self, a, b, kmap, *arguments)

        monkeypatch.setattr(OutputStationary, name, recording)
    operands = _operands(rng, n)
    out = partial_sparse_conv(operands["feats"], operands["weight"], kmap, mask, centre=centre)
    assert seen == [wanted]
    out.sum().backward()
    # the gradient of the features is a forward pass of the transposed map
    assert seen == [wanted] * 3
    assert 0 < wanted < 0.8 * kmap.n_pairs


def test_what_was_made_of_a_mask_is_kept_with_it():
    kmap, n = _map(UNSORTED), len(UNSORTED.coords)
    mask = torch.arange(n) % 2 == 0
    kept = kept_outputs(kmap, mask)
    assert kept.n_pairs == int(kmap.pairs_per_output()[mask].sum())
    assert kept_outputs(kmap, mask) is kept
    # with an offset whose pairs all stay it is another one
    centred = kept_outputs(kmap, mask, CENTRE)
    assert centred.n_pairs == kept.n_pairs + int((~mask).sum())
    assert kept_outputs(kmap, mask, CENTRE) is centred
    kept = kept_outputs(kmap, mask)
    # another map, a copy and a mask that was changed are looked at again
    other = _map(UNSORTED)
    assert kept_outputs(other, mask) is not kept
    assert kept_outputs(kmap, copy.deepcopy(mask)) is not kept
    kept = kept_outputs(kmap, mask)
    mask[1] = True
    assert kept_outputs(kmap, mask).n_pairs > kept.n_pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes_and_autocast(rng, dtype):
    kmap, n = _map(UNSORTED), len(UNSORTED.coords)
    operands = _operands(rng, n, dtype=dtype)
    mask = torch.rand(n, generator=rng) < 0.5
    out = partial_sparse_conv(operands["feats"], operands["weight"], kmap, mask, bias=operands["bias"])
    wide = {name: part.detach().double() for name, part in operands.items()}
    expected = _simulated(UNSORTED, mask, wide["feats"], wide["weight"], wide["bias"])

    assert out.dtype == dtype
    # rows that pass keep their bits
    assert torch.equal(out[~mask], operands["feats"][~mask])
    torch.testing.assert_close(out, expected.to(dtype), **tolerance(dtype, 27 * C, factor=32, roundings=2))
    out.float().sum().backward()
    assert operands["weight"].grad.dtype == dtype
    if dtype == torch.bfloat16:
        floats = {name: part.detach().float() for name, part in operands.items()}
        with torch.autocast("cpu", dtype):
            cast = partial_sparse_conv(floats["feats"], floats["weight"], kmap, mask, bias=floats["bias"])
        assert torch.equal(cast, out)


class _Torch(TorchDispatchMode):
    """Somebody is looking, so that calls go through torch's dispatcher."""

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("wanted", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("mode", [contextlib.nullcontext, _Torch], ids=["plain", "operator"])
@pytest.mark.parametrize("whole", [True, False], ids=["all rows", "some"])
def test_parameters_are_cast_once_under_autocast(rng, monkeypatch, mode, wanted, whole):
    kmap, n = _map(UNSORTED), len(UNSORTED.coords)
    operands = _operands(rng, n, dtype=torch.float32, c=5)
    cast, to = [], torch.Tensor.to

    def recording(part, *arguments):
        found = to(part, *arguments)
        if found.dtype != part.dtype:
            cast.append(tuple(part.shape))
        return found

    monkeypatch.setattr(torch.Tensor, "to", recording)
    convolve, more = (sparse_conv, ()) if whole else (partial_sparse_conv, (torch.arange(n) % 2 == 0,))
    with torch.set_grad_enabled(wanted), torch.autocast("cpu", torch.bfloat16), mode():
        convolve(operands["feats"], operands["weight"], kmap, *more, bias=operands["bias"])
    # the operator of all rows keeps a narrow weight for the way back
    kept = [(27, 5, 5)] * (whole and wanted and mode is _Torch)
    assert sorted(cast) == sorted([(5,), (27, 5, 5), (n, 5), *kept])


def test_parameters_are_checked_before_they_are_cast(rng):
    kmap, n = _map(UNSORTED), len(UNSORTED.coords)
    feats, weight, bias, _ = _operands(rng, n, dtype=torch.float32).values()
    mask = torch.zeros(n, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ShapeError, match=r"weight \(27, 4, 4\) does not take feats with 3 channels"):
            partial_sparse_conv(feats[:, :3], weight, kmap, mask)
        with pytest.raises(ShapeError, match=r"bias must have shape \(4,\), got \(\)"):
            partial_sparse_conv(feats, weight, kmap, mask, bias=bias[0])
        with pytest.raises(DeviceError, match="weight on meta"):
            partial_sparse_conv(feats, weight.to("meta"), kmap, mask)


def test_an_empty_cloud_goes_forward_and_backward(rng):
    kmap = _map(CLOUDS["empty"])
    operands = _operands(rng, 0)
    out = partial_sparse_conv(
        operands["feats"], operands["weight"], kmap, torch.zeros(0, dtype=torch.bool), bias=operands["bias"]
    )
    out.sum().backward()
    assert out.shape == (0, C)
    assert not operands["weight"].grad.any()
    assert not operands["bias"].grad.any()


def test_bad_input_is_refused_before_anything_runs(rng):
    kmap, n = _map(UNSORTED), len(UNSORTED.coords)
    operands = _operands(rng, n)
    feats, weight, mask = operands["feats"], operands["weight"], torch.zeros(n, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"as many outputs as inputs.*of 4 channels in and .* of 3 out"):
        partial_sparse_conv(feats, weight[:, :, :3], kmap, mask)
    with pytest.raises(ShapeError, match="mask must have shape"):
        partial_sparse_conv(feats, weight, kmap, mask[1:])
    with pytest.raises(DtypeError, match="mask must be bool"):
        partial_sparse_conv(feats, weight, kmap, mask.int())
    with pytest.raises(ShapeError, match=r"scale must have shape \(4\)"):
        partial_sparse_conv(feats, weight, kmap, mask, scale=torch.ones(3))
    for name in ("scale", "shift"):
        with pytest.raises(DeviceError, match=f"feats on cpu, {name} on meta"):
            partial_sparse_conv(feats, weight, kmap, mask, **{name: torch.ones(C, device="meta")})
    with pytest.raises(UnsupportedError, match="shift has no gradient here"):
        partial_sparse_conv(feats, weight, kmap, mask, shift=torch.ones(C, requires_grad=True))
    for centre in (-1, 27):
        with pytest.raises(RangeError, match=rf"centre must be an offset in 0 \.\.\. 26, got {centre}"):
            partial_sparse_conv(feats, weight, kmap, mask, centre=centre)
    with pytest.raises(UnsupportedError, match="for rows that pass; fold them"):
        partial_sparse_conv(feats, weight, kmap, mask, centre=CENTRE, scale=torch.ones(C))
    fewer = CoordCache().kernel_map(UNSORTED.coords, UNSORTED.coords[:-1], Relation.of(3))
    with pytest.raises(ShapeError, match="only where outputs are the inputs' voxels"):
        partial_sparse_conv(feats, weight, fewer, mask[:-1], centre=CENTRE)
    with pytest.raises(UnsupportedError, match="no dataflow 'im2col'"):
        partial_sparse_conv(feats, weight, kmap, mask, dataflow="im2col")


@pytest.mark.parametrize("centre", [None, CENTRE], ids=["pass", "centre"])
def test_opcheck(rng, centre):
    kmap, n = _map(TWO_BATCHES), len(TWO_BATCHES.coords)
    operands = _operands(rng, n, dtype=torch.float32)
    feats, weight = operands["feats"], operands["weight"]
    mask = torch.arange(n) % 2 == 0
    plan = plan_for(ConvProblem.of(feats, weight, kmap)).encode()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    operators = torch.ops.pcsparse
    scale = torch.ones(C) if centre is None else None
    found = torch.library.opcheck(
        operators.partial_sparse_conv.default,
        (
            feats,
            weight,
            operands["bias"],
            kmap.tensors(),
            mask,
            scale,
            scale,
            plan,
            operands["residual"],
            True,
            centre,
        ),
        test_utils=checks,
    )
    assert set(found.values()) == {"SUCCESS"}
    clouds = CoordCache().cloud_map(TWO_BATCHES.coords, 2)
    found = torch.library.opcheck(
        operators.important_rows.default, (feats.detach(), clouds.tensors(), 0.5), test_utils=checks
    )
    assert set(found.values()) == {"SUCCESS"}


class _Layer(torch.nn.Module):
    """What an exported network is: operators on tensors, the maps among them."""

    def __init__(self, plan: str, centre: int | None) -> None:
        super().__init__()
        self.centre = centre
        self.plan, self.weight = plan, torch.nn.Parameter(torch.ones(27, C, C) / 9)

    def forward(self, feats, kmap, clouds):
        mask = torch.ops.pcsparse.important_rows(feats, clouds, 0.5)
        return torch.ops.pcsparse.partial_sparse_conv(
            feats, self.weight, None, kmap, mask, None, None, self.plan, None, False, self.centre
        )


@pytest.mark.parametrize("centre", [None, CENTRE], ids=["pass", "centre"])
def test_an_exported_layer_takes_clouds_of_any_size(rng, centre):
    given = []
    for cloud in (TWO_BATCHES, UNSORTED):
        feats = torch.randn(len(cloud.coords), C, generator=rng)
        given.append((feats, _map(cloud).tensors(), CoordCache().cloud_map(cloud.coords, 2).tensors()))
    weight = torch.ones(27, C, C)
    layer = _Layer(plan_for(ConvProblem.of(given[0][0], weight, _map(TWO_BATCHES))).encode(), centre)
    any_size = {0: Dim.AUTO}
    exported = torch.export.export(
        layer, given[0], dynamic_shapes=(any_size, [{}, any_size, any_size, {}], [{}, *[any_size] * 3])
    )
    for arguments in given:
        assert torch.equal(exported.module()(*arguments), layer(*arguments))


def test_all_rows_kept_are_the_convolution(rng):
    kmap, n = _map(UNSORTED), len(UNSORTED.coords)
    operands = _operands(rng, n, dtype=torch.float32)
    feats, weight = operands["feats"], operands["weight"]
    out = partial_sparse_conv(feats, weight, kmap, torch.ones(n, dtype=torch.bool))
    assert torch.equal(out, sparse_conv(feats, weight, kmap))
