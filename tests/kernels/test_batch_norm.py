"""The kernels of batch normalisation: twins against plain formulas, backends against twins."""

import sys

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.tolerance import tolerance

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# blocks of 256 rows, vectors of 16 or 8 channels, tiles of up to 128, and remainders of all
SHAPES = [(0, 4), (1, 1), (7, 3), (256, 16), (257, 33), (1000, 19), (3, 160)]
WIDE = torch.float64


def _wide(dtype):
    return WIDE if dtype == WIDE else torch.float32


def _draw(rng, n, c, dtype):
    return torch.randn(n, c, generator=rng, dtype=WIDE).to(dtype)


def _factors(rng, c, dtype, count):
    return [torch.randn(c, generator=rng, dtype=WIDE).to(_wide(dtype)) for _ in range(count)]


@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
def test_twin_of_batch_factors(rng, affine):
    x = _draw(rng, 50, 3, WIDE)
    weight, bias = _factors(rng, 3, WIDE, 2) if affine else (None, None)
    mean, var, scale, shift = reference.batch_factors(x, weight, bias, 0.1)

    torch.testing.assert_close(mean, sum(x) / 50, **tolerance(WIDE, 50))
    torch.testing.assert_close(var, sum((row - sum(x) / 50) ** 2 for row in x) / 50, **tolerance(WIDE, 50))
    normalised = (x - mean) / (var + 0.1) ** 0.5
    if affine:
        normalised = normalised * weight + bias
    torch.testing.assert_close(x * scale + shift, normalised, **tolerance(WIDE, 50))


def test_twin_of_scale_shift(rng):
    x, y = _draw(rng, 50, 3, WIDE), _draw(rng, 50, 3, WIDE)
    a, b = _factors(rng, 3, WIDE, 2)
    expected = [[max(0.0, float(x[i, c] * a[c] + b[c] + y[i, c])) for c in range(3)] for i in range(50)]

    actual = reference.scale_shift(x, a, b, y, True)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=WIDE), **tolerance(WIDE, 4))


def _gated(g, y):
    rows = [[float(g[i, c]) if y[i, c] > 0 else 0.0 for c in range(g.shape[1])] for i in range(len(g))]
    return torch.tensor(rows, dtype=WIDE)


def test_twin_of_scale_shift_sums(rng):
    x, g, y = (_draw(rng, 50, 3, WIDE) for _ in range(3))
    (mean,) = _factors(rng, 3, WIDE, 1)
    total, product = reference.scale_shift_sums(g, x, y, mean)

    torch.testing.assert_close(total, sum(_gated(g, y)), **tolerance(WIDE, 50))
    torch.testing.assert_close(product, sum(_gated(g, y) * (x - mean)), **tolerance(WIDE, 50))


@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_twin_of_batch_grad_factors(rng, affine, relu):
    x, grad = _draw(rng, 50, 3, WIDE).requires_grad_(), _draw(rng, 50, 3, WIDE)
    weight, bias = (part.requires_grad_() for part in _factors(rng, 3, WIDE, 2))
    var, mean = torch.var_mean(x, dim=0, correction=0)
    out = (x - mean) / (var + 0.1) ** 0.5
    out = out * weight + bias if affine else out
    out = out.clamp(min=0) if relu else out
    leaves = (x, weight, bias) if affine else (x,)
    expected = torch.autograd.grad(out, leaves, grad)

    gate = out.detach() if relu else None
    moments = mean.detach(), var.detach()
    given = weight.detach() if affine else None
    grad_weight, grad_bias, *factors = reference.batch_grad_factors(
        grad, x.detach(), gate, *moments, given, 0.1
    )
    passed = grad if gate is None else torch.where(gate > 0, grad, 0)
    actual = passed * factors[0] + x.detach() * factors[1] + factors[2], grad_weight, grad_bias
    for mine, theirs in zip(actual, expected, strict=False):
        torch.testing.assert_close(mine, theirs, **tolerance(WIDE, 50, factor=32))


def test_twin_of_scale_shift_grad(rng):
    x, g, y = (_draw(rng, 50, 3, WIDE) for _ in range(3))
    a, b, d = _factors(rng, 3, WIDE, 3)
    grad, kept = reference.scale_shift_grad(g, x, y, a, b, d, True)

    torch.testing.assert_close(grad, _gated(g, y) * a + x * b + d, **tolerance(WIDE, 4))
    assert torch.equal(kept, _gated(g, y))
    assert reference.scale_shift_grad(g, x, None, a, b, d, False)[1] is None


def _check(device, name, *arguments, bound):
    moved = [part.to(device) if isinstance(part, torch.Tensor) else part for part in arguments]
    actual = getattr(backend_of(moved[0]), name)(*moved)
    expected = getattr(reference, name)(*arguments)
    actual, expected = (part if isinstance(part, tuple) else (part,) for part in (actual, expected))
    for mine, theirs in zip(actual, expected, strict=True):
        if theirs is None:
            assert mine is None
        else:
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(mine.cpu(), theirs, **bound)


def _row(dtype):
    return tolerance(dtype, 4, factor=16)


def _column(dtype, n):
    return tolerance(_wide(dtype), max(n, 1), factor=64)


def _cases(shapes):
    """Every shape with every type; an interpreter shows the large ones in one type only."""
    large = pytest.mark.not_emulated("large, and another type or shape is")
    for n, c in shapes:
        for dtype in DTYPES:
            alone = n * c < 100 or (n < 1000 and dtype == torch.float32)
            yield pytest.param(n, c, dtype, marks=[] if alone else [large], id=f"{n}-{c}-{dtype}")


of_any_case = pytest.mark.parametrize(("n", "c", "dtype"), list(_cases(SHAPES)))
of_any_case_with_rows = pytest.mark.parametrize(("n", "c", "dtype"), list(_cases(SHAPES[1:])))


@of_any_case_with_rows
def test_batch_factors_matches_twin(device, rng, n, c, dtype):
    x = _draw(rng, n, c, dtype)
    for parameters in ((None, None), _factors(rng, c, dtype, 2)):
        _check(device, "batch_factors", x, *parameters, 0.25, bound=_column(dtype, n))


@of_any_case_with_rows
def test_batch_grad_factors_matches_twin(device, rng, n, c, dtype):
    x, g, y = (_draw(rng, n, c, dtype) for _ in range(3))
    mean, weight = _factors(rng, c, dtype, 2)
    for out, given in ((None, None), (y, weight)):
        _check(
            device, "batch_grad_factors", g, x, out, mean, mean.square(), given, 0.25, bound=_column(dtype, n)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_of_runs_that_are_several_tiles(device, rng, monkeypatch, dtype):
    x, g, y = (_draw(rng, 2100, 5, dtype) for _ in range(3))
    mean, weight = _factors(rng, 5, dtype, 2)
    module = sys.modules[backend_of(x.to(device)).batch_factors.__module__]
    # where there is no such number nothing is changed by it
    monkeypatch.setattr(module, "_RUNS", 2, raising=False)
    bound = _column(dtype, 2100)

    _check(device, "batch_factors", x, weight, mean, 0.25, bound=bound)
    _check(device, "scale_shift_sums", g, x, y, mean, bound=bound)
    _check(device, "batch_grad_factors", g, x, y, mean, mean.square(), weight, 0.25, bound=bound)


def test_moments_of_columns_far_from_zero(device, rng):
    # the sum of squares less the square of the sum would leave nothing of these variances
    x = _draw(rng, 700, 5, torch.float32) / 8 + torch.tensor([0.0, 30.0, -1000.0, 1000.0, 1e4])
    _, var, scale, _ = backend_of(x.to(device)).batch_factors(x.to(device), None, None, 1e-9)
    exact = x.double().var(dim=0, correction=0)

    torch.testing.assert_close(var.cpu().double(), exact, **tolerance(torch.float32, 700))
    torch.testing.assert_close(scale.cpu().double(), exact.rsqrt(), **tolerance(torch.float32, 700))


def test_moments_of_what_is_no_number(device):
    x = torch.tensor([[1.0, 2.0], [float("nan"), 2.0], [3.0, 2.0]], device=device)
    mean, var, *_ = backend_of(x).batch_factors(x, None, None, 1.0)

    assert mean.isnan().tolist() == var.isnan().tolist() == [True, False]
    assert (mean[1].item(), var[1].item()) == (2.0, 0.0)


@of_any_case
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_scale_shift_matches_twin(device, rng, n, c, dtype, relu):
    x, residual = _draw(rng, n, c, dtype), _draw(rng, n, c, dtype)
    factors = _factors(rng, c, dtype, 2)
    for extra in (None, residual):
        _check(device, "scale_shift", x, *factors, extra, relu, bound=_row(dtype))


@of_any_case
def test_scale_shift_sums_matches_twin(device, rng, n, c, dtype):
    x, g, y = (_draw(rng, n, c, dtype) for _ in range(3))
    for out in (None, y):
        _check(device, "scale_shift_sums", g, x, out, *_factors(rng, c, dtype, 1), bound=_column(dtype, n))


@of_any_case
@pytest.mark.parametrize("with_gated", [False, True])
def test_scale_shift_grad_matches_twin(device, rng, n, c, dtype, with_gated):
    x, g, y = (_draw(rng, n, c, dtype) for _ in range(3))
    factors = _factors(rng, c, dtype, 3)
    for out in (None, y):
        _check(device, "scale_shift_grad", g, x, out, *factors, with_gated, bound=_row(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_nan_stays_and_stays_alone(device, rng, dtype):
    x = _draw(rng, 30, 5, dtype)
    x[3, 2] = float("nan")
    ones, zeros = torch.ones(5), torch.zeros(5)
    out = backend_of(x.to(device)).scale_shift(x.to(device), ones.to(device), zeros.to(device), None, True)
    assert out.isnan().sum() == 1
    assert out[3, 2].isnan()


def test_rows_of_any_stride_are_taken(device, rng):
    wide = _draw(rng, 40, 12, torch.float32).to(device)
    x, factors = wide[:, ::2], [part.to(device) for part in _factors(rng, 6, torch.float32, 2)]
    backend = backend_of(x)
    assert torch.equal(
        backend.scale_shift(x, *factors, None, False),
        backend.scale_shift(x.contiguous(), *factors, None, False),
    )
