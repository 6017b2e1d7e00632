"""Gradient of the weights from a table: the twin against loops, backends against the twin."""

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.moving import moved
from tests.tolerance import tolerance

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
N_IN = 37


def _table(rng, k: int, n_out: int, n_in: int = N_IN, filled: float = 0.4) -> torch.Tensor:
    """(k, n_out) int32: inputs in any order, -1 in most places, and nothing at every fifth offset."""
    table = torch.randint(max(n_in, 1), (k, n_out), generator=rng, dtype=torch.int32)
    table[torch.rand(k, n_out, generator=rng) >= filled] = -1
    table[3::5] = -1
    return table if n_in else table.fill_(-1)


def _operands(rng, table, c_in: int, c_out: int, dtype, n_in: int = N_IN):
    feats = torch.randn(n_in, c_in, generator=rng, dtype=torch.float64).to(dtype)
    grad_out = torch.randn(table.shape[1], c_out, generator=rng, dtype=torch.float64).to(dtype)
    return feats, grad_out


def test_twin_of_implicit_gemm_grad_weight(rng):
    table = _table(rng, 4, 11)
    feats, grad_out = _operands(rng, table, 3, 2, torch.float64)
    expected = torch.zeros(4, 3, 2, dtype=torch.float64)
    for k, rows in enumerate(table.tolist()):
        for j, i in enumerate(rows):
            for a in range(3):
                for b in range(2):
                    expected[k, a, b] += float(feats[i, a]) * float(grad_out[j, b]) if i >= 0 else 0.0
    actual = reference.implicit_gemm_grad_weight(feats, grad_out, table, None)

    assert int((table >= 0).sum()) > 8
    torch.testing.assert_close(actual, expected, **tolerance(torch.float64, terms=11))


def test_twin_of_grad_weight_layout(rng):
    assert reference.grad_weight_layout(_table(rng, 4, 11)) == []


def _check(device, feats, grad_out, table, packed: bool, **sizes) -> torch.Tensor:
    expected = reference.implicit_gemm_grad_weight(feats.double(), grad_out.double(), table, None)

    feats, grad_out, table = (moved(part, device) for part in (feats, grad_out, table))
    backend = backend_of(feats)
    layout = backend.grad_weight_layout(table) if packed else None
    actual = backend.implicit_gemm_grad_weight(feats, grad_out, table, layout, **sizes)

    assert actual.dtype == feats.dtype
    assert actual.is_contiguous()
    size = max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
    near = tolerance(feats.dtype, terms=table.shape[1], factor=16)
    near["atol"] *= size
    torch.testing.assert_close(actual.cpu(), expected.to(feats.dtype), **near)
    return actual


FORMS = pytest.mark.parametrize("packed", [True, False], ids=["packed", "table"])


@FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("k", "c_in", "c_out"), [(1, 1, 33), (4, 4, 7), (8, 3, 4), (2, 33, 3), (3, 7, 1)])
def test_implicit_gemm_grad_weight_matches_twin(device, rng, k, c_in, c_out, dtype, packed):
    table = _table(rng, k, 130)
    _check(device, *_operands(rng, table, c_in, c_out, dtype), table, packed)


@FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("c_in", "c_out"), [(0, 4), (4, 0), (0, 0)])
def test_the_gradient_of_no_channels_is_empty(device, rng, c_in, c_out, dtype, packed):
    table = _table(rng, 3, 20)
    actual = _check(device, *_operands(rng, table, c_in, c_out, dtype), table, packed)
    assert actual.shape == (3, c_in, c_out)


@pytest.mark.parametrize(("k", "partials"), [(1, 1), (1, 9), (6, 1), (6, 2), (6, 9), (6, 30), (27, 5)])
def test_grad_weight_layout_matches_twin(device, rng, k, partials):
    """Shares that end anywhere: within an offset, at its end, beyond the last pair."""
    table = _table(rng, k, 70)
    operands = _operands(rng, table, 2, 3, torch.float32)
    _check(device, *operands, table, True, partials=partials, tile_rows=16)


@FORMS
@pytest.mark.parametrize(
    ("k", "n_in", "n_out"), [(0, 4, 5), (3, 0, 0), (3, 4, 0), (3, 0, 5), (1, 1, 1), (8, 1, 1), (2, 3, 17)]
)
def test_grad_weight_of_hardly_any_row(device, rng, k, n_in, n_out, packed):
    table = _table(rng, k, n_out, n_in, filled=1.0)
    actual = _check(device, *_operands(rng, table, 3, 5, torch.float32, n_in), table, packed)

    assert actual.shape == (k, 3, 5)


@pytest.mark.parametrize("filled", [0.0, 1.0], ids=["no-pairs", "full"])
@FORMS
def test_grad_weight_of_an_extreme_table(device, rng, filled, packed):
    table = _table(rng, 3, 100, filled=filled)
    _check(device, *_operands(rng, table, 4, 5, torch.float32), table, packed)


@FORMS
def test_grad_weight_of_many_offsets(device, rng, packed):
    table = _table(rng, 35, 9)
    _check(device, *_operands(rng, table, 2, 2, torch.float32), table, packed, partials=3)


@FORMS
@pytest.mark.parametrize("sizes", [(16, 32, 16, 2), (64, 16, 64, 1)], ids=str)
def test_grad_weight_at_any_tile(device, rng, sizes, packed):
    table = _table(rng, 2, 50)
    names = ("tile_in", "tile_out", "tile_rows", "partials")
    _check(
        device,
        *_operands(rng, table, 20, 36, torch.float32),
        table,
        packed,
        **dict(zip(names, sizes, strict=True)),
    )


@FORMS
def test_grad_weight_takes_strided_operands(device, rng, packed):
    table = _table(rng, 3, 50)
    feats, grad_out = _operands(rng, table, 24, 20, torch.float32)

    _check(device, feats[:, :8], grad_out[:, 4:12], table, packed)
    _check(device, feats[:, ::3], grad_out[:, ::2], table, packed)
    _check(device, feats, grad_out.T.contiguous().T, table.T.contiguous().T, packed)


@FORMS
def test_grad_weight_does_not_let_an_unread_row_in(device, rng, packed):
    table = _table(rng, 5, 60, n_in=30)
    feats, grad_out = _operands(rng, table, 4, 3, torch.float32)
    feats[30:] = float("inf")
    if packed:
        # a row without a neighbour at any offset
        table[:, 7], grad_out[7] = -1, float("nan")
    feats, grad_out, table = (part.to(device) for part in (feats, grad_out, table))
    backend = backend_of(feats)
    layout = backend.grad_weight_layout(table) if packed else None

    assert backend.implicit_gemm_grad_weight(feats, grad_out, table, layout).isfinite().all()


@pytest.mark.parametrize("partials", [4, 8, 16])
def test_shares_may_end_with_an_offset(device, rng, partials):
    """Full offsets of 32 pairs: the next partial sum is not the offset's own."""
    table = torch.randint(N_IN, (4, 32), generator=rng, dtype=torch.int32)
    _check(device, *_operands(rng, table, 2, 3, torch.float32), table, True, partials=partials, tile_rows=16)


@FORMS
def test_grad_weight_adds_in_float32(device, packed):
    # 70,000 is beyond float16, and 1 beside 2048 lost in it, before the last addition
    feats = torch.tensor([[300.0], [300.0], [1.0]]).half()
    grad_out = torch.tensor([[240.0], [-233.0], [1.0]]).half()
    table = torch.arange(3, dtype=torch.int32)[None]
    feats, grad_out, table = (part.to(device) for part in (feats, grad_out, table))
    backend = backend_of(feats)
    layout = backend.grad_weight_layout(table) if packed else None

    actual = backend.implicit_gemm_grad_weight(feats, grad_out, table, layout, partials=1)
    assert float(actual) == float(torch.tensor(2101.0).half())


@FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [(2, 3), (4, 8), (0, 4)], ids=str)
def test_grad_weight_of_16_bits_may_be_wide(device, packed, dtype, channels):
    # a sum that float16 cannot hold, nor bfloat16 its last digits
    n = 1728
    feats, grad_out = (torch.full((n, c), 8.0, dtype=dtype, device=device) for c in channels)
    feats[0], grad_out[0] = 1.0, 1.0
    table = torch.arange(n, dtype=torch.int32, device=device)[None]
    for kernels in (backend_of(feats), reference):
        layout = kernels.grad_weight_layout(table) if packed else None
        actual = kernels.implicit_gemm_grad_weight(feats, grad_out, table, layout, dtype=torch.float32)
        assert actual.is_contiguous()
        assert torch.equal(actual, torch.full((1, *channels), 64.0 * (n - 1) + 1, device=device))


@FORMS
def test_grad_weight_has_the_same_bits_again(device, rng, packed):
    table = _table(rng, 5, 300).to(device)
    feats, grad_out = (part.to(device) for part in _operands(rng, table, 5, 6, torch.float32))
    backend = backend_of(feats)
    found = [
        backend.implicit_gemm_grad_weight(
            feats, grad_out, table, backend.grad_weight_layout(table) if packed else None, partials=4
        )
        for _ in range(2)
    ]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_shares_change_only_the_order_of_addition(device, rng):
    """Whole numbers: every order of addition gives the same sums, and a share that is lost is seen."""
    table = _table(rng, 3, 120)
    feats = torch.randint(-8, 9, (N_IN, 3), generator=rng).float()
    grad_out = torch.randint(-8, 9, (120, 2), generator=rng).float()
    expected = reference.implicit_gemm_grad_weight(feats, grad_out, table, None)
    feats, grad_out, table = (part.to(device) for part in (feats, grad_out, table))
    backend = backend_of(feats)
    for layout in (backend.grad_weight_layout(table), None):
        for partials in (3, 17):
            actual = backend.implicit_gemm_grad_weight(
                feats, grad_out, table, layout, partials=partials, tile_rows=16
            )
            assert torch.equal(actual.cpu(), expected)
