"""Layers in EIE's format by rows: twin against a dense product, kernel against twin."""

import pytest
import torch
from torch import Tensor

from pcsparse.kernels import cpu, reference
from pcsparse.kernels.cpu import eie_rows
from pcsparse.kernels.cpu.eie_slice_chunks import NEAR, WIDE
from pcsparse.kernels.cpu.eie_slices import slice_layout, slice_linear
from pcsparse.kernels.cpu.emitter import HAS_WIDE_REGISTERS
from pcsparse.kernels.select import backend_of
from tests.kernels.test_eie import CASES, activations, codebook_of, dense_codes, terms
from tests.moving import moved
from tests.tolerance import tolerance


def rows_of(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, columns and codes by row."""
    row, column = codes.nonzero(as_tuple=True)
    starts = torch.nn.functional.pad((codes != 0).sum(dim=1).cumsum(0), (1, 0))
    return starts, column.int(), codes[row, column]


def product(backend, codes: Tensor, book: Tensor, x: Tensor, bias=None, relu=False) -> Tensor:
    layout = backend.eie_row_layout(*rows_of(codes), book, codes.shape[1])
    return backend.eie_row_linear(x, layout, bias, len(codes), relu)


def product_on(
    device: torch.device, codes: Tensor, book: Tensor, x: Tensor, bias: Tensor | None = None, relu=False
) -> Tensor:
    """With the kernels of a device."""
    (n_out, n_in), bias = codes.shape, None if bias is None else moved(bias, device)
    x, *weights = (moved(part, device) for part in (x, *rows_of(codes), book))
    backend = backend_of(x)
    return backend.eie_row_linear(x, backend.eie_row_layout(*weights, n_in), bias, n_out, relu).cpu()


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
def test_eie_row_linear_matches_twin(device, name, with_bias, relu, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    bias = torch.randn(len(codes), generator=rng) if with_bias else None
    found, twin = (
        product_on(device, codes, book, x, bias, relu), product(reference, codes, book, x, bias, relu),
    )  # fmt: skip
    torch.testing.assert_close(found, twin, **tolerance(torch.float32, terms(name), 32))


@pytest.mark.parametrize("name", CASES)
def test_eie_row_layout_matches_twin(device, name, rng):
    """A unit vector at a time: every weight of the layout, bit for bit, and no other."""
    codes, book = dense_codes(name, rng), codebook_of(name, rng)
    unit = torch.eye(codes.shape[1])
    found = product_on(device, codes, book, unit)
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
def test_an_infinite_activation_reaches_only_the_rows_with_a_weight(device, name, value, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    for column in (0, 3):
        given = x.clone()
        given[:, column] = value
        found = product_on(device, codes, book, given)
        assert torch.equal(~found.isfinite(), (codes[:, column] != 0).expand_as(found))
        # an empty place of the layout that met it would make a NaN of an infinity
        assert torch.equal(found.isnan(), product(reference, codes, book, given).isnan())


def test_weights_a_byte_apart(device, rng):
    codes = torch.zeros(6, 800, dtype=torch.uint8)
    for row, columns in enumerate(([0, 255], [0, 256], [0, 257], [3, 258, 259, 514], [255, 511, 767], [0])):
        codes[row, columns] = 5
    unit = torch.eye(800)
    found = product_on(device, codes, torch.arange(16.0), unit)
    assert torch.equal(found, 5.0 * (codes.T != 0))


def test_a_nan_passes_the_relu(device):
    codes, book = torch.ones(3, 2, dtype=torch.uint8), torch.tensor([0.0, 1.0])
    x = torch.tensor([[float("nan"), 1.0], [-1.0, -1.0]])
    found = product_on(device, codes, book, x, relu=True)
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


def test_a_bias_and_activations_may_lie_anyhow(device, rng):
    codes, book, x = dense_codes("odd", rng), codebook_of("odd", rng), activations("odd", rng)
    plain = product_on(device, codes, book, x)
    for bias in (torch.arange(266.0)[::2], torch.ones(1).expand(133)):
        assert torch.equal(product_on(device, codes, book, x.T.contiguous().T, bias), plain + bias)


def test_an_item_has_the_same_bits_in_any_batch(device, rng):
    codes, book = dense_codes("odd", rng), codebook_of("odd", rng)
    x = activations("odd", rng, 5)
    whole = product_on(device, codes, book, x)
    for item in range(5):
        assert torch.equal(product_on(device, codes, book, x[item : item + 1])[0], whole[item])


@pytest.mark.parametrize("n_in", [5, 70, 200, 1500])
def test_rows_of_any_length(device, n_in, rng):
    codes = torch.randint(1, 16, (9, n_in), generator=rng).to(torch.uint8)
    book, x = codebook_of("odd", rng), torch.randn(2, n_in, generator=rng) / n_in**0.5
    expected = (x.double() @ book.double()[codes.long()].T).float()
    torch.testing.assert_close(product_on(device, codes, book, x), expected, **tolerance(torch.float32, n_in))


def test_more_columns_than_a_chunk_can_number(device, rng):
    n_in = 2 * (1 << 16) + 5000
    codes = torch.zeros(6, n_in, dtype=torch.uint8)
    codes[:, torch.randperm(n_in, generator=rng)[:400]] = 1
    codes *= torch.randint(0, 16, (6, n_in), generator=rng).to(torch.uint8)
    # neighbours on either side of a part's end, which one chunk could hold
    codes[:, (1 << 16) - 2 : (1 << 16) + 2] = 5
    book = torch.linspace(0, 1, 16)
    x = torch.rand(2, n_in, generator=rng)
    found = product_on(device, codes, book, x)
    torch.testing.assert_close(found, x @ book[codes.long()].T, **tolerance(torch.float32, 400))


needs_wide_registers = pytest.mark.skipif(not HAS_WIDE_REGISTERS, reason="this CPU has no AVX-512")
WINDOWS = pytest.mark.parametrize("window", [NEAR, WIDE])


def sliced(codes: Tensor, book: Tensor, x: Tensor, window: int, bias=None, relu=False) -> Tensor:
    layout = slice_layout(*rows_of(codes), book, codes.shape[1], window)
    return slice_linear(x, layout, bias, len(codes), relu)


@needs_wide_registers
@WINDOWS
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][3] <= 4])
def test_slices_match_twin(name, relu, window, rng):
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    bias = torch.randn(len(codes), generator=rng)
    found, twin = sliced(codes, book, x, window, bias, relu), product(reference, codes, book, x, bias, relu)
    torch.testing.assert_close(found, twin, **tolerance(torch.float32, terms(name), 32))
    unit = torch.eye(codes.shape[1])
    assert torch.equal(sliced(codes, book, unit, window), book[codes.long()].T)


@needs_wide_registers
@WINDOWS
def test_windows_slide_over_gaps_of_any_width(window, rng):
    codes = torch.zeros(20, 3000, dtype=torch.uint8)
    for row, columns in enumerate(([0, 63, 64, 127, 128], [0, 255, 256, 511], [5, 700, 2999], [2998], [64])):
        codes[row, columns] = torch.randint(1, 16, (len(columns),), generator=rng).to(torch.uint8)
    book, unit = torch.arange(16.0), torch.eye(3000)
    assert torch.equal(sliced(codes, book, unit, window), book[codes.long()].T)


@needs_wide_registers
@WINDOWS
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_slices_keep_an_infinite_activation_to_its_rows(window, value, rng):
    codes, book = dense_codes("odd", rng), codebook_of("odd", rng)
    x = torch.randn(1, 97, generator=rng).repeat(97, 1)
    finite = sliced(codes, book, x, window)
    # in each item another column, so that one of them is where the empty slots of a chunk point
    x.fill_diagonal_(value)
    found, hit = sliced(codes, book, x, window), codes.T != 0
    assert torch.equal(~found.isfinite(), hit)
    assert torch.equal(found[~hit], finite[~hit])


@needs_wide_registers
@WINDOWS
def test_windows_end_with_the_activations(window, rng):
    codes = dense_codes("odd", rng).repeat(1, 3)
    _, steps, pointers, _, mode = slice_layout(*rows_of(codes), codebook_of("odd", rng), 291, window)
    assert len(mode) == window
    for begin, end in zip(pointers[:-1].tolist(), pointers[1:].tolist(), strict=True):
        assert int(steps[begin:end].sum()) == 291 - window


@needs_wide_registers
def test_the_layout_takes_what_is_small_and_then_what_is_fast(rng, monkeypatch):
    def taken(codes: Tensor) -> int:
        layout = cpu.eie_row_layout(*rows_of(codes), torch.rand(16), codes.shape[1])
        return layout[-1].shape[0] if len(layout) > 3 else 0

    def drawn(density: float) -> Tensor:
        return (torch.rand(64, 8000, generator=rng) < density).to(torch.uint8)

    # at 4 % windows of 64 columns take more than two bytes a weight
    assert taken(drawn(0.1)) == NEAR
    assert taken(drawn(0.04)) == WIDE
    # nothing that 16 rows have in common
    apart = torch.zeros(160, 4000, dtype=torch.uint8)
    for row in range(160):
        apart[row, row * 25 : row * 25 + 16] = 1
    assert taken(apart) == 0
    monkeypatch.setattr(eie_rows, "HAS_WIDE_REGISTERS", False)
    assert taken(drawn(0.1)) == 0


@pytest.mark.parametrize(
    "name", ["odd", "narrow", "runs beyond a byte", "more rows than a group", "two codes"]
)
def test_single_rows_match_twin(name, rng, monkeypatch):
    monkeypatch.setattr(eie_rows, "HAS_WIDE_REGISTERS", False)
    codes, book, x = dense_codes(name, rng), codebook_of(name, rng), activations(name, rng)
    found, twin = product(cpu, codes, book, x), product(reference, codes, book, x)
    torch.testing.assert_close(found, twin, **tolerance(torch.float32, terms(name), 32))
    x[:, 3] = float("inf")
    found = product(cpu, codes, book, x)
    assert torch.equal(~found.isfinite(), (codes[:, 3] != 0).expand_as(found))
