"""The kernels of batch normalisation: twins against plain formulas, backends against twins."""

import sys

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.running import Running
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
def test_twin_of_batch_norm(rng, affine):
    x, residual = _draw(rng, 50, 3, WIDE), _draw(rng, 50, 3, WIDE)
    weight, bias = _factors(rng, 3, WIDE, 2) if affine else (None, None)
    out, (mean, var) = reference.batch_norm(x, weight, bias, residual, True, 0.1, None)

    torch.testing.assert_close(mean, sum(x) / 50, **tolerance(WIDE, 50))
    torch.testing.assert_close(var, sum((row - sum(x) / 50) ** 2 for row in x) / 50, **tolerance(WIDE, 50))
    normalised = (x - mean) / (var + 0.1) ** 0.5
    if affine:
        normalised = normalised * weight + bias
    torch.testing.assert_close(out, (normalised + residual).clamp(min=0), **tolerance(WIDE, 50))


def _running(dtype, momentum, device="cpu"):
    statistics = [torch.tensor(row, dtype=dtype, device=device) for row in ([0.5, -2, 1], [1.0, 2, 0])]
    return Running(*statistics, torch.tensor(3, device=device), momentum)


@pytest.mark.parametrize("momentum", [0.25, None], ids=str)
def test_twin_follows_as_batch_norm_of_torch_does(rng, momentum):
    x, running, norm = _draw(rng, 50, 3, WIDE), _running(WIDE, momentum), torch.nn.BatchNorm1d(3).double()
    norm.momentum = momentum
    for mine, theirs in zip(running[:3], norm.buffers(), strict=True):
        theirs.copy_(mine)
    reference.batch_norm(x, None, None, None, False, 0.1, running)

    norm(x)
    for mine, theirs in zip(running[:3], norm.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance(WIDE, 50))


def test_twin_of_norm_by_moments(rng):
    x, residual = _draw(rng, 50, 3, WIDE), _draw(rng, 50, 3, WIDE)
    mean, root, weight, bias = _factors(rng, 3, WIDE, 4)
    given = mean, root.square(), weight, bias
    expected = torch.nn.functional.batch_norm(x, *given, training=False, eps=0.1) + residual

    actual = reference.norm_by_moments(x, *given, residual, True, 0.1)
    torch.testing.assert_close(actual, expected.relu(), **tolerance(WIDE, 4))
    plain = torch.nn.functional.batch_norm(x, *given[:2], training=False, eps=0.1)
    actual = reference.norm_by_moments(x, *given[:2], None, None, None, False, 0.1)
    torch.testing.assert_close(actual, plain, **tolerance(WIDE, 4))


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
def test_twin_of_batch_norm_grad(rng, affine, relu):
    x, grad = _draw(rng, 50, 3, WIDE).requires_grad_(), _draw(rng, 50, 3, WIDE)
    weight, bias = (part.requires_grad_() for part in _factors(rng, 3, WIDE, 2))
    var, mean = torch.var_mean(x, dim=0, correction=0)
    out = (x - mean) / (var + 0.1) ** 0.5
    out = out * weight + bias if affine else out
    out = out.clamp(min=0) if relu else out
    leaves = (x, weight, bias) if affine else (x,)
    expected = torch.autograd.grad(out, leaves, grad)

    gate, moments = out.detach() if relu else None, torch.stack((mean, var)).detach()
    given = weight.detach() if affine else None
    grad_feats, gated, *others = reference.batch_norm_grad(grad, x.detach(), given, gate, moments, 0.1, True)
    for mine, theirs in zip((grad_feats, *others), expected, strict=False):
        torch.testing.assert_close(mine, theirs, **tolerance(WIDE, 50, factor=32))
    assert torch.equal(gated, grad if gate is None else _gated(grad, gate))


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
def test_batch_norm_matches_twin(device, rng, n, c, dtype):
    x, residual = _draw(rng, n, c, dtype), _draw(rng, n, c, dtype)
    for parameters in ((None, None, None, False), (*_factors(rng, c, dtype, 2), residual, True)):
        _check_norm(device, x, *parameters)


def _check_norm(device, x, weight, bias, residual, relu):
    """Rows within what rounding of the factors makes of them, moments closer."""
    given = [None if part is None else part.to(device) for part in (x, weight, bias, residual)]
    out, moments = backend_of(given[0]).batch_norm(*given, relu, 0.25, None)
    expected, exact = reference.batch_norm(x, weight, bias, residual, relu, 0.25, None)
    assert (out.dtype, moments.dtype) == (expected.dtype, exact.dtype)
    torch.testing.assert_close(moments.cpu(), exact, **_column(x.dtype, len(x)))
    torch.testing.assert_close(out.cpu(), expected, **tolerance(x.dtype, len(x), factor=64))


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_running_moments_follow_as_those_of_the_twin(device, rng, dtype, momentum):
    x = _draw(rng, 40, 3, WIDE if dtype == WIDE else torch.float32)
    mine, theirs = _running(dtype, momentum, device), _running(dtype, momentum)
    before = [part._version for part in mine[:3]]
    backend_of(mine.mean).batch_norm(x.to(device), None, None, None, False, 0.1, mine)
    reference.batch_norm(x, None, None, None, False, 0.1, theirs)

    for a, b in zip(mine[:3], theirs[:3], strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.cpu(), b, **tolerance(dtype, 4))
    assert all(part._version > version for part, version in zip(mine[:3], before, strict=True))


@of_any_case_with_rows
def test_batch_norm_grad_matches_twin(device, rng, n, c, dtype):
    x, g, y = (_draw(rng, n, c, dtype) for _ in range(3))
    (weight,), moments = _factors(rng, c, dtype, 1), _moments_of(rng, c, dtype)
    for given, out in ((None, None), (weight, y)):
        _check_norm_grad(device, g, x, given, out, moments)


def _moments_of(rng, c, dtype):
    mean, root = _factors(rng, c, dtype, 2)
    return torch.stack((mean, root.square()))


def _check_norm_grad(device, g, x, weight, out, moments):
    arguments = (g, x, weight, out, moments, 0.25, out is not None)
    moved = [part.to(device) if isinstance(part, torch.Tensor) else part for part in arguments]
    grad, gated, *sums = backend_of(moved[0]).batch_norm_grad(*moved)
    expected, passed, *exact = reference.batch_norm_grad(*arguments)
    for mine, theirs in zip(sums, exact, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine.cpu(), theirs, **_column(x.dtype, len(x)))
    torch.testing.assert_close(grad.cpu(), expected, **tolerance(x.dtype, len(x), factor=64))
    assert gated is passed is None or torch.equal(gated.cpu(), passed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_of_runs_that_are_several_tiles(device, rng, monkeypatch, dtype):
    x, g, y = (_draw(rng, 2100, 5, dtype) for _ in range(3))
    mean, weight = _factors(rng, 5, dtype, 2)
    module = sys.modules[backend_of(x.to(device)).scale_shift_sums.__module__]
    # where there is no such number nothing is changed by it
    monkeypatch.setattr(module, "_RUNS", 2, raising=False)

    _check_norm(device, x, weight, mean, g, True)
    _check(device, "scale_shift_sums", g, x, y, mean, bound=_column(dtype, 2100))
    _check_norm_grad(device, g, x, weight, y, torch.stack((mean, mean.square())))


def test_moments_of_columns_far_from_zero(device, rng):
    # the sum of squares less the square of the sum would leave nothing of these variances
    x = _draw(rng, 700, 5, torch.float32) / 8 + torch.tensor([0.0, 30.0, -1000.0, 1000.0, 1e4])
    moved = x.to(device)
    out, (_, var) = backend_of(moved).batch_norm(moved, None, None, None, False, 1e-9, None)
    exact = x.double().var(dim=0, correction=0)

    torch.testing.assert_close(var.cpu().double(), exact, **tolerance(torch.float32, 700))
    # a column of 1e4 has four digits less
    spread = out.cpu().double()[:, :4].std(dim=0, correction=0)
    torch.testing.assert_close(spread, torch.ones_like(spread), **tolerance(torch.float32, 700))


def test_moments_of_what_is_no_number(device):
    x = torch.tensor([[1.0, 2.0], [float("nan"), 2.0], [3.0, 2.0]], device=device)
    _, (mean, var) = backend_of(x).batch_norm(x, None, None, None, False, 1.0, None)

    assert mean.isnan().tolist() == var.isnan().tolist() == [True, False]
    assert (mean[1].item(), var[1].item()) == (2.0, 0.0)


@of_any_case
def test_norm_by_moments_matches_twin(device, rng, n, c, dtype):
    x, residual = _draw(rng, n, c, dtype), _draw(rng, n, c, dtype)
    mean, root, weight, bias = _factors(rng, c, dtype, 4)
    for extra in ((None, None, None, False), (weight, bias, residual, True)):
        _check(device, "norm_by_moments", x, mean, root.square(), *extra, 0.25, bound=_row(dtype))


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


@pytest.fixture
def columns(rng, device):
    """Factors of six channels that do not lie side by side; the last one is one number for all of them."""
    drawn = torch.rand(6, 4, generator=rng).to(device) + 0.5
    return [drawn[:, 0], drawn[:, 1], drawn[:, 2], drawn[:1, 3].expand(6)]


def test_scale_shift_takes_factors_of_any_stride(device, rng, columns):
    x, grad = (_draw(rng, 40, 6, torch.float32).to(device) for _ in range(2))
    backend, whole = backend_of(x), [part.contiguous() for part in columns]
    for given, wanted in ((columns[1:3], whole[1:3]), (columns[2:], whole[2:])):
        one, other = (backend.scale_shift(x, *factors, None, False) for factors in (given, wanted))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    one, other = (backend.scale_shift_grad(grad, x, None, *f[:3], False)[0] for f in (columns, whole))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    one, other = (backend.scale_shift_sums(grad, x, None, f[1]) for f in (columns, whole))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_batch_norm_takes_factors_of_any_stride(device, rng, columns):
    x, grad = (_draw(rng, 40, 6, torch.float32).to(device) for _ in range(2))
    backend, whole = backend_of(x), [part.contiguous() for part in columns]
    one, other = (backend.norm_by_moments(x, *factors, None, False, 0.1) for factors in (columns, whole))
    torch.testing.assert_close(one, other, rtol=0, atol=0)

    batches = torch.tensor(3, device=device)
    followed = []
    for mean, var, weight, bias in (columns, whole):
        running = Running(mean, var, batches, 0.25)
        out, moments = backend.batch_norm(x, weight, bias, None, False, 0.1, running)
        followed.append((out, moments, mean, var))
    torch.testing.assert_close(*followed, rtol=0, atol=0)

    apart = moments.T.contiguous().T
    one = backend.batch_norm_grad(grad, x, columns[2], None, apart, 0.1, False)
    other = backend.batch_norm_grad(grad, x, whole[2], None, moments, 0.1, False)
    for left, right in zip(one, other, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left, right, rtol=0, atol=0)


# rows that count in the first tile, at its edge, none in the last run, and all of them
REAL = [(257, 33, 2), (300, 8, 256), (1100, 5, 300), (40, 3, 40)]


def _with_waste(rows, real):
    """What lies behind the rows that count must not be read as a number."""
    if rows is not None:
        rows = rows.clone()
        rows[real:] = float("nan")
    return rows


@pytest.mark.parametrize(("n", "c", "real"), REAL)
def test_rows_behind_the_real_ones_count_nowhere(device, rng, monkeypatch, n, c, real):
    for backend in (reference, backend_of(torch.empty(0, device=device))):
        # several runs, some without a row
        monkeypatch.setattr(sys.modules[backend.scale_shift_sums.__module__], "_RUNS", 4, raising=False)
        x, g, residual = (_with_waste(_draw(rng, n, c, torch.float32), real) for _ in range(3))
        weight, bias = _factors(rng, c, torch.float32, 2)
        mine = [None if part is None else part.to(device) for part in (x, weight, bias, residual)]
        statistics = Running(torch.zeros(c), torch.ones(c), torch.tensor(0), 0.5)
        running = Running(*(part.to(device) for part in statistics[:3]), 0.5)
        count = torch.tensor(real, device=device)
        out, moments = backend.batch_norm(*mine, True, 0.25, running, count)
        expected, exact = reference.batch_norm(
            x[:real], weight, bias, residual[:real], True, 0.25, statistics, None
        )
        torch.testing.assert_close(moments.cpu(), exact, **_column(torch.float32, real))
        torch.testing.assert_close(out[:real].cpu(), expected, **tolerance(torch.float32, real, factor=64))
        for ours, theirs in zip(running[:3], statistics[:3], strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, **tolerance(torch.float32, real, factor=64))
        assert not out[real:].any()

        gate = _with_waste(_draw(rng, n, c, torch.float32), real)
        moved = [part.to(device) for part in (g, x, weight, gate, exact)]
        rows, passed, *sums = backend.batch_norm_grad(*moved, 0.25, True, count)
        arguments = (g[:real], x[:real], weight, gate[:real], exact, 0.25, True)
        wanted, gated, *totals = reference.batch_norm_grad(*arguments)
        torch.testing.assert_close(rows[:real].cpu(), wanted, **tolerance(torch.float32, real, factor=64))
        assert torch.equal(passed[:real].cpu(), gated)
        for ours, theirs in zip(sums, totals, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, **_column(torch.float32, real))
        assert not rows[real:].any()
        assert not passed[real:].any()
