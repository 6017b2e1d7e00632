"""Layers in EIE's format by rows: twin against a dense product, kernel against twin."""

import pytest
import torch
from torch import Tensor

from pcsparse.kernels import cpu, reference
from tests.kernels.test_eie import CASES, activations, codebook_of, dense_codes, terms
from tests.tolerance import tolerance


def rows_of(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, columns and codes by row."""
    row, column = codes.nonzero(as_tuple=True)
    starts = torch.nn.functional.pad((codes != 0).sum(dim=1).cumsum(0), (1, 0))
    return starts, column.int(), codes[row, column]


def product(backend, codes: Tensor, book: Tensor, x: Tensor, bias=None, relu=False) -> Tensor:
    layout = backend.eie_row_layout(*rows_of(codes), book, codes.shape[1])
    return backend.eie_row_linear(x, layout, bias, len(codes), relu)


@pytest.mark.parametrize("name", CASES)
def test_twin_of_eie_row_layout(name, rng):
    given, book = rows_of(dense_codes(name, rng)), codebook_of(name, rng)
    found = reference.eie_row_layout(*given, book, CASES[name][0])
    assert all(torch.equal(*pair) for pair in zip(found, (*given, book), strict=True))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_twin_of_eie_row_linear(name, with_bias, relu, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    bias = torch.randn(len(codes), generator=rng) if with_bias else None
    expected = x.double() @ book.double()[codes.long()].T
    expected = expected + bias.double() if with_bias else expected
    expected = expected.relu() if relu else expected
    found = product(reference, codes, book, x, bias, relu)
    torch.testing.assert_close(found.double(), expected, **tolerance(torch.float32, terms(name)))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_eie_row_linear_matches_twin(name, with_bias, relu, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    bias = torch.randn(len(codes), generator=rng) if with_bias else None
    found, twin = (product(backend, codes, book, x, bias, relu) for backend in (cpu, reference))
    torch.testing.assert_close(found, twin, **tolerance(torch.float32, terms(name), 32))


@pytest.mark.parametrize("name", CASES)
def test_eie_row_layout_matches_twin(name, rng):
    """A unit vector at a time: every weight of the layout, bit for bit, and no other."""
    codes, book = dense_codes(name, rng), codebook_of(name, rng)
    unit = torch.eye(codes.shape[1])
    found = product(cpu, codes, book, unit)
    assert torch.equal(found, product(reference, codes, book, unit))
    assert torch.equal(found, book[codes.long()].T)


def test_bits_are_the_same_at_any_number_of_threads(rng):
    codes, book, x = dense_codes("more rows than a group", rng), codebook_of("odd", rng), torch.randn(3, 9)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(product(cpu, codes, book, x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["odd", "narrow", "runs beyond a byte", "bytes as codes"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_infinite_activation_reaches_only_the_rows_with_a_weight(name, value, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    for column in (0, 3):
        given = x.clone()
        given[:, column] = value
        found = product(cpu, codes, book, given)
        assert torch.equal(~found.isfinite(), (codes[:, column] != 0).expand_as(found))


def test_a_nan_passes_the_relu():
    codes, book = torch.ones(3, 2, dtype=torch.uint8), torch.tensor([0.0, 1.0])
    x = torch.tensor([[float("nan"), 1.0], [-1.0, -1.0]])
    found = product(cpu, codes, book, x, relu=True)
    assert bool(found[0].isnan().all())
    assert found[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_and_device_change_nothing(dtype, rng):
    codes, book, x = dense_codes("odd", rng), codebook_of("odd", rng), activations("odd", rng)
    expected, given = product(cpu, codes, book, x), rows_of(codes)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            found = cpu.eie_row_linear(x, cpu.eie_row_layout(*given, book, 97), None, 133)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected)


def test_a_bias_and_activations_may_lie_anyhow(rng):
    codes, book, x = dense_codes("odd", rng), codebook_of("odd", rng), activations("odd", rng)
    plain = product(cpu, codes, book, x)
    for bias in (torch.arange(266.0)[::2], torch.ones(1).expand(133)):
        assert torch.equal(product(cpu, codes, book, x.T.contiguous().T, bias), plain + bias)


def test_more_columns_than_a_chunk_can_number(rng):
    n_in = 2 * (1 << 16) + 5000
    codes = torch.zeros(6, n_in, dtype=torch.uint8)
    codes[:, torch.randperm(n_in, generator=rng)[:400]] = 1
    codes *= torch.randint(0, 16, (6, n_in), generator=rng).to(torch.uint8)
    # neighbours on either side of a part's end, which one chunk could hold
    codes[:, (1 << 16) - 2 : (1 << 16) + 2] = 5
    book = torch.linspace(0, 1, 16)
    x = torch.rand(2, n_in, generator=rng)
    found = product(cpu, codes, book, x)
    torch.testing.assert_close(found, x @ book[codes.long()].T, **tolerance(torch.float32, 400))
