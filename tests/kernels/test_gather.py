"""Gather and product: twins against loops, backends against twins."""

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.moving import moved
from tests.tolerance import tolerance

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
N_IN = 23
# offsets of each product and the rows of each of them; offset 5 and 6 of seven have no pairs, or no place
RUNS = [((0,), 9), ((1, 4), 12), ((3,), 1), ((2,), 40)]
COUNTS = [9, 12, 40, 1, 7, 0, 4]


def _case(rng):
    """rows_in and places of seven offsets in a buffer of `RUNS`; pairs of the last offset have no place."""
    rows_in = torch.randint(N_IN, (sum(COUNTS),), generator=rng, dtype=torch.int32)
    begins = {0: 0, 1: 9, 4: 21, 3: 33, 2: 34}
    places = [
        torch.arange(count) + begins[k] if k in begins else torch.full((count,), -1)
        for k, count in enumerate(COUNTS)
    ]
    return rows_in, torch.cat(places).int(), 74


def _operands(rng, dtype, c_in, c_out):
    feats = torch.randn(N_IN, c_in, generator=rng, dtype=torch.float64)
    weight = torch.randn(7, c_in, c_out, generator=rng, dtype=torch.float64) * c_in**-0.5
    return feats.to(dtype), weight.to(dtype)


def _products(rows_in, feats, weight):
    """The product of each pair, by loops."""
    found, pair = [], 0
    for k, count in enumerate(COUNTS):
        for _ in range(count):
            row = feats[int(rows_in[pair])].tolist()
            found.append([sum(x * y for x, y in zip(row, w, strict=True)) for w in weight[k].T.tolist()])
            pair += 1
    return torch.tensor(found, dtype=torch.float64)


def test_twin_of_gather_gemm(rng):
    rows_in, places, n_places = _case(rng)
    feats, weight = _operands(rng, torch.float64, 3, 2)
    layout = reference.gather_layout(rows_in, places, N_IN, n_places)
    actual = reference.gather_gemm(feats, weight, RUNS, layout)

    assert actual.shape == (74, 2)
    placed = places >= 0
    expected = _products(rows_in, feats, weight)[placed]
    torch.testing.assert_close(actual[places[placed].long()], expected, **tolerance(torch.float64, terms=3))


def test_twin_of_gather_layout():
    rows_in, places = torch.tensor([7, 5, 6, 4]).int(), torch.tensor([2, 0, -1, 3]).int()
    (source,) = reference.gather_layout(rows_in, places, 8, 5)

    assert source.tolist() == [5, 0, 7, 4, 0]


def test_twin_of_wide_matmul(rng):
    a, b = torch.randn(3, 4, generator=rng).half(), torch.randn(4, 2, generator=rng).half()
    rows, columns = a.tolist(), b.T.tolist()
    expected = [[sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in rows]

    actual = reference.wide_matmul(a, b)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, torch.tensor(expected), **tolerance(torch.float32, terms=4))


def _gathered(device, rows_in, places, n_places, feats, weight, runs, n_in=N_IN):
    rows_in, places, feats, weight = (moved(part, device) for part in (rows_in, places, feats, weight))
    backend = backend_of(feats)
    layout = backend.gather_layout(rows_in, places, n_in, n_places)
    return backend.gather_gemm(feats, weight, runs, layout).cpu()


def _wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("c_in", "c_out"), [(1, 1), (3, 7), (33, 4), (4, 33)])
def test_gather_gemm_matches_twin(device, rng, c_in, c_out, dtype):
    rows_in, places, n_places = _case(rng)
    feats, weight = _operands(rng, dtype, c_in, c_out)
    layout = reference.gather_layout(rows_in, places, N_IN, n_places)
    expected = reference.gather_gemm(feats.double(), weight.double(), RUNS, layout)
    actual = _gathered(device, rows_in, places, n_places, feats, weight, RUNS)

    # products of halves are kept wide
    assert actual.dtype == _wide(dtype)
    placed = places[places >= 0].long()
    torch.testing.assert_close(
        actual[placed], expected[placed].to(actual.dtype), **tolerance(actual.dtype, terms=c_in, factor=16)
    )


def test_gather_layout_matches_twin(device, rng):
    """Weights that change nothing: every pair finds its own row, bit for bit."""
    rows_in, places, n_places = _case(rng)
    feats = torch.randn(N_IN, 5, generator=rng)
    same = torch.eye(5).expand(7, 5, 5)
    actual = _gathered(device, rows_in, places, n_places, feats, same, RUNS)

    placed = places >= 0
    assert torch.equal(actual[places[placed].long()], feats[rows_in[placed].long()])


@pytest.mark.parametrize("n_in", [0, 3])
def test_gather_gemm_of_nothing(device, rng, n_in):
    nothing = torch.zeros(0, dtype=torch.int32)
    feats, weight = torch.zeros(n_in, 4), torch.zeros(2, 4, 5)

    assert _gathered(device, nothing, nothing, 0, feats, weight, [], n_in).shape == (0, 5)


def test_gather_gemm_takes_strided_operands(device, rng):
    rows_in, places, n_places = _case(rng)
    feats, weight = _operands(rng, torch.float32, 12, 6)
    for some, weights in (
        (feats[:, :6], weight[:, :6]),
        (feats[:, ::2], weight[:, ::2]),
        (feats, weight),
        (feats[:, :6], weight.transpose(1, 2)[:, :, 3:9]),
        (feats.T.contiguous().T, weight.flip(0)),
    ):
        expected = _gathered("cpu", rows_in, places, n_places, some.contiguous(), weights.contiguous(), RUNS)
        actual = _gathered(device, rows_in, places, n_places, some, weights, RUNS)
        placed = places[places >= 0].long()
        torch.testing.assert_close(
            actual[placed], expected[placed], **tolerance(torch.float32, terms=12, factor=16)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_wide_matmul_is_wide_under_autocast(device, dtype):
    # a sum of 70,000 and of 10 bits behind the point
    a, b = (torch.tensor([part], dtype=dtype, device=device) for part in ([256.0, 1.0], [272.0, 0.5]))
    for backend in (backend_of(a), reference):
        with torch.autocast(device.type, dtype):
            assert float(backend.wide_matmul(a, b.T)) == 256 * 272 + 0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wide_matmul_matches_twin(device, rng, dtype):
    a = torch.randn(9, 33, generator=rng, dtype=torch.float64).to(dtype)
    b = torch.randn(9, 5, generator=rng, dtype=torch.float64).to(dtype)
    for left, right in ((a.T, b), (b.T, a), (a, a.T)):
        actual = backend_of(moved(left, device)).wide_matmul(moved(left, device), moved(right, device))
        expected = reference.wide_matmul(left.double(), right.double())

        assert actual.dtype == _wide(dtype)
        near = tolerance(actual.dtype, terms=left.shape[1], factor=16)
        torch.testing.assert_close(
            actual.cpu(), expected.to(actual.dtype), **near | {"atol": near["atol"] * 8}
        )
