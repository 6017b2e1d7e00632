"""The kernels of batch normalisation: twins against plain formulas, backends against twins."""

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.tolerance import tolerance

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# blocks of 256 rows, vectors of 16 or 8 channels, and remainders of both
SHAPES = [(0, 4), (1, 1), (7, 3), (256, 16), (257, 33), (1000, 19)]
WIDE = torch.float64


def _wide(dtype):
    return WIDE if dtype == WIDE else torch.float32


def _draw(rng, n, c, dtype):
    return torch.randn(n, c, generator=rng, dtype=WIDE).to(dtype)


def _factors(rng, c, dtype, count):
    return [torch.randn(c, generator=rng, dtype=WIDE).to(_wide(dtype)) for _ in range(count)]


def test_twin_of_batch_moments(rng):
    x = _draw(rng, 50, 3, WIDE)
    mean, var = reference.batch_moments(x)

    torch.testing.assert_close(mean, sum(x) / 50, **tolerance(WIDE, 50))
    torch.testing.assert_close(var, sum((row - sum(x) / 50) ** 2 for row in x) / 50, **tolerance(WIDE, 50))


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


of_any_shape = pytest.mark.parametrize(("n", "c"), SHAPES)
of_any_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@of_any_dtype
@pytest.mark.parametrize(("n", "c"), SHAPES[1:])
def test_batch_moments_matches_twin(device, rng, n, c, dtype):
    _check(device, "batch_moments", _draw(rng, n, c, dtype), bound=_column(dtype, n))


@of_any_dtype
@of_any_shape
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_scale_shift_matches_twin(device, rng, n, c, dtype, relu):
    x, residual = _draw(rng, n, c, dtype), _draw(rng, n, c, dtype)
    factors = _factors(rng, c, dtype, 2)
    for extra in (None, residual):
        _check(device, "scale_shift", x, *factors, extra, relu, bound=_row(dtype))


@of_any_dtype
@of_any_shape
def test_scale_shift_sums_matches_twin(device, rng, n, c, dtype):
    x, g, y = (_draw(rng, n, c, dtype) for _ in range(3))
    for out in (None, y):
        _check(device, "scale_shift_sums", g, x, out, *_factors(rng, c, dtype, 1), bound=_column(dtype, n))


@of_any_dtype
@of_any_shape
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
