"""Layers in EIE's format: twins against dense products, kernels against twins."""

import pytest
import torch
from torch import Tensor

from pcsparse.kernels import cpu, reference
from pcsparse.kernels.select import backend_of
from pcsparse.packed.eie import EIEFormat, pack_eie
from tests.emulation import gpu_kernels
from tests.moving import moved
from tests.tolerance import tolerance

# name: n_in, n_out, density, code bits, share of activations that are not 0
CASES = {
    "one": (1, 1, 1.0, 4, 1.0),
    "narrow": (40, 7, 0.3, 4, 0.4),
    "odd": (97, 133, 0.2, 4, 0.35),
    "dense activations": (97, 133, 0.2, 4, 1.0),
    "full": (20, 300, 1.0, 4, 0.5),
    "runs beyond a byte": (30, 3000, 0.004, 4, 0.5),
    "runs beyond a byte, chained": (60, 4000, 0.02, 4, 0.5),
    "more rows than a group": (9, 9001, 0.1, 4, 0.7),
    "bytes as codes": (64, 90, 0.3, 8, 0.5),
    "bytes as codes, far apart": (30, 3000, 0.004, 8, 1.0),
    "two codes": (50, 60, 0.3, 1, 0.5),
    "no weight": (12, 20, 0.0, 4, 0.5),
    "no activation": (12, 20, 0.5, 4, 0.0),
    "no column": (0, 5, 0.5, 4, 0.5),
}


def dense_codes(name: str, rng: torch.Generator) -> Tensor:
    n_in, n_out, density, bits, _ = CASES[name]
    codes = torch.randint(1, 1 << bits, (n_out, n_in), generator=rng)
    return (codes * (torch.rand(n_out, n_in, generator=rng) < density)).to(torch.uint8)


def codebook_of(name: str, rng: torch.Generator) -> Tensor:
    book = torch.randn(1 << CASES[name][3], generator=rng)
    book[0] = 0
    return book


def columns_of(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, rows and codes by column."""
    column, row = codes.T.nonzero(as_tuple=True)
    starts = torch.nn.functional.pad((codes != 0).sum(dim=0).cumsum(0), (1, 0))
    return starts, row.int(), codes[row, column]


def activations(name: str, rng: torch.Generator, n: int = 3) -> Tensor:
    n_in, share = CASES[name][0], CASES[name][4]
    x = torch.randn(n, n_in, generator=rng)
    return x * (torch.rand(n, n_in, generator=rng) < share)


def terms(name: str) -> int:
    return CASES[name][0]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_twin_of_eie_linear(name, with_bias, relu, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    bias = torch.randn(len(codes), generator=rng) if with_bias else None
    layout = reference.eie_layout(*columns_of(codes), book, len(codes))
    expected = x.double() @ book.double()[codes.long()].T
    expected = expected + bias.double() if with_bias else expected
    expected = expected.relu() if relu else expected
    found = reference.eie_linear(x, layout, bias, len(codes), relu)
    torch.testing.assert_close(found.double(), expected, **tolerance(torch.float32, terms(name)))


def test_twin_of_eie_layout(rng):
    columns, book = columns_of(dense_codes("odd", rng)), codebook_of("odd", rng)
    for found, given in zip(reference.eie_layout(*columns, book, 133), (*columns, book), strict=True):
        assert torch.equal(found, given)


@pytest.mark.parametrize("name", CASES)
def test_twin_of_eie_chip_linear(name, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng, 2)
    matrix = pack_eie(codes, book, EIEFormat(n_pe=5, code_bits=CASES[name][3], pointer_bits=11))
    found = reference.eie_chip_linear(x, *chip(matrix), None, len(codes), True)
    expected = (x.double() @ book.double()[codes.long()].T).relu()
    torch.testing.assert_close(found.double(), expected, **tolerance(torch.float32, terms(name)))


def chip(matrix, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    parts = matrix.codes, matrix.skips, matrix.pointers, matrix.batch_starts, matrix.codebook
    return tuple(part.to(device) for part in parts)


def product(
    device: torch.device, codes: Tensor, book: Tensor, x: Tensor, bias: Tensor | None = None, relu=False
) -> Tensor:
    """By columns, with the kernels of a device."""
    n_out, bias = len(codes), None if bias is None else moved(bias, device)
    x, *weights = (moved(part, device) for part in (x, *columns_of(codes), book))
    backend = backend_of(x)
    return backend.eie_linear(x, backend.eie_layout(*weights, n_out), bias, n_out, relu).cpu()


def chip_product(
    device: torch.device, codes: Tensor, x: Tensor, matrix, bias: Tensor | None = None, relu=False
) -> Tensor:
    """The same from the chip's format."""
    x, bias = moved(x, device), None if bias is None else moved(bias, device)
    return backend_of(x).eie_chip_linear(x, *chip(matrix, device), bias, len(codes), relu).cpu()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_eie_linear_matches_twin(device, name, with_bias, relu, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    bias = torch.randn(len(codes), generator=rng) if with_bias else None
    found = product(device, codes, book, x, bias, relu)
    layout = reference.eie_layout(*columns_of(codes), book, len(codes))
    twin = reference.eie_linear(x, layout, bias, len(codes), relu)
    torch.testing.assert_close(found, twin, **tolerance(torch.float32, terms(name), 32))


@pytest.mark.parametrize("name", CASES)
def test_eie_layout_matches_twin(device, name, rng):
    """A unit vector at a time: every weight of the layout, bit for bit, and no other."""
    codes, book = dense_codes(name, rng), codebook_of(name, rng)
    unit = torch.eye(codes.shape[1])
    found = product(device, codes, book, unit)
    layout = reference.eie_layout(*columns_of(codes), book, len(codes))
    twin = reference.eie_linear(unit, layout, None, len(codes))
    assert torch.equal(found, twin)
    assert torch.equal(found, book[codes.long()].T)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_eie_chip_linear_matches_twin(device, name, with_bias, relu, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng, 2)
    bias = torch.randn(len(codes), generator=rng) if with_bias else None
    matrix = pack_eie(codes, book, EIEFormat(n_pe=5, code_bits=CASES[name][3], pointer_bits=11))
    found = chip_product(device, codes, x, matrix, bias, relu)
    twin = reference.eie_chip_linear(x, *chip(matrix), bias, len(codes), relu)
    torch.testing.assert_close(found, twin, **tolerance(torch.float32, terms(name), 32))


def test_both_ways_to_count_rows_occur(rng):
    """The cases above cover offsets from the first row and steps from slot to slot."""
    for name, is_chain in (("odd", False), ("runs beyond a byte, chained", True)):
        columns, book = columns_of(dense_codes(name, rng)), codebook_of(name, rng)
        assert len(cpu.eie_layout(*columns, book, CASES[name][1])[4]) == is_chain, name


@pytest.mark.parametrize("name", ["odd", "dense activations", "more rows than a group", "full"])
def test_bits_are_the_same_at_any_number_of_threads(name, rng):
    codes, x = dense_codes(name, rng), activations(name, rng)
    layout = cpu.eie_layout(*columns_of(codes), codebook_of(name, rng), len(codes))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(cpu.eie_linear(x, layout, None, len(codes)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["odd", "dense activations", "runs beyond a byte", "bytes as codes"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_infinite_activation_reaches_only_the_rows_with_a_weight(device, name, value, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    x[:, 3] = value
    matrix = pack_eie(codes, book, EIEFormat(code_bits=CASES[name][3]))
    for found in (product(device, codes, book, x), chip_product(device, codes, x, matrix)):
        assert torch.equal(~found.isfinite(), (codes[:, 3] != 0).expand_as(found))


def test_a_nan_passes_the_relu(device):
    codes, book = torch.ones(3, 2, dtype=torch.uint8), torch.tensor([0.0, 1.0])
    x = torch.tensor([[float("nan"), 1.0], [-1.0, -1.0]])
    matrix = pack_eie(codes, book, EIEFormat(code_bits=1))
    for found in (
        product(device, codes, book, x, relu=True), chip_product(device, codes, x, matrix, relu=True),
    ):  # fmt: skip
        assert bool(found[0].isnan().all())
        assert found[1].tolist() == [0, 0, 0]


def test_an_item_has_the_same_bits_in_any_batch(device, rng):
    codes, book = dense_codes("odd", rng), codebook_of("odd", rng)
    x = activations("odd", rng, 5)
    whole = product(device, codes, book, x)
    for item in range(5):
        assert torch.equal(product(device, codes, book, x[item : item + 1])[0], whole[item])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_and_device_change_nothing(dtype, rng):
    codes, book, x = dense_codes("odd", rng), codebook_of("odd", rng), activations("odd", rng)
    columns, matrix = columns_of(codes), pack_eie(codes, book, EIEFormat(n_pe=5))
    expected = cpu.eie_linear(x, cpu.eie_layout(*columns, book, 133), None, 133)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            layout = cpu.eie_layout(*columns, book, 133)
            found = cpu.eie_linear(x, layout, None, 133), cpu.eie_chip_linear(x, *chip(matrix), None, 133)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found[0], expected)
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], expected, **tolerance(torch.float32, 97, 32))


def test_a_bias_and_activations_may_lie_anyhow(device, rng):
    codes, book, x = dense_codes("odd", rng), codebook_of("odd", rng), activations("odd", rng)
    plain = product(device, codes, book, x)
    for bias in (torch.arange(266.0)[::2], torch.ones(1).expand(133)):
        torch.testing.assert_close(product(device, codes, book, x.T.contiguous().T, bias), plain + bias)


def test_columns_in_several_parts(device, rng, monkeypatch):
    codes = (
        torch.randint(1, 16, (300, 700), generator=rng) * (torch.rand(300, 700, generator=rng) < 0.1)
    ).byte()
    book = codebook_of("odd", rng)
    x = torch.randn(2, 700, generator=rng) * (torch.rand(2, 700, generator=rng) < 0.4)
    bias = torch.randn(300, generator=rng)
    expected = (x.double() @ book.double()[codes.long()].T + bias.double()).relu().float()
    found = product(device, codes, book, x, bias, relu=True)
    torch.testing.assert_close(found, expected, **tolerance(torch.float32, 700))
    # a large batch comes in pieces
    gpu_kernels()
    monkeypatch.setattr("pcsparse.kernels.gpu.eie._MOST_SUMS", 1)
    assert torch.equal(product(device, codes, book, x, bias, relu=True), found)


@pytest.mark.not_emulated("it numbers columns in as many bits as there are, and this is long")
def test_more_columns_than_a_chunk_can_number(device, rng):
    # all weights in the last columns, so that equal numbers of weights would give a part too many columns
    n_in = (1 << 16) + 5000
    codes = torch.zeros(6, n_in, dtype=torch.uint8)
    codes[:, -9:] = torch.randint(1, 16, (6, 9), generator=rng).to(torch.uint8)
    codes[0, 0] = 3
    book = torch.linspace(0, 1, 16)
    x = torch.rand(2, n_in, generator=rng)
    found = product(device, codes, book, x)
    torch.testing.assert_close(found, x @ book[codes.long()].T, **tolerance(torch.float32, 10))


def test_a_large_batch_is_cut(rng, monkeypatch):
    codes, book, x = dense_codes("odd", rng), codebook_of("odd", rng), activations("odd", rng, 7)
    layout = cpu.eie_layout(*columns_of(codes), book, 133)
    whole = cpu.eie_linear(x, layout, None, 133)
    monkeypatch.setattr("pcsparse.kernels.cpu.eie._MOST_ITEMS", 3)
    assert torch.equal(cpu.eie_linear(x, layout, None, 133), whole)
