"""EIE's format: the paper's vector, round trips, the oracle's entries, batches, and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.errors import DtypeError, FormatError, RangeError, ShapeError
from pcsparse.packed.eie import EIEFormat, EIEMatrix, pack_eie
from tests.packed.oracle_eie import decode_slice, encode

ONE_PE = EIEFormat(n_pe=1)


def codebook(bits: int = 4) -> torch.Tensor:
    return torch.linspace(-1, 1, 1 << bits).index_fill(0, torch.tensor([0]), 0.0)


def random_codes(rng: torch.Generator, n_out: int, n_in: int, density: float, bits: int = 4) -> torch.Tensor:
    codes = torch.randint(1, 1 << bits, (n_out, n_in), generator=rng)
    return (codes * (torch.rand(n_out, n_in, generator=rng) < density)).to(torch.uint8)


def slices(matrix: EIEMatrix) -> dict[tuple[int, int], tuple[list[int], list[int]]]:
    """(PE, column) -> codes and skips, walked by pointers alone."""
    found, base = {}, 0
    for batch in range(matrix.n_batches):
        first, last = matrix.batch_starts[batch : batch + 2].tolist()
        for pe in range(matrix.format.n_pe):
            pointers = matrix.pointers[pe, first + batch : last + batch + 1].tolist()
            assert pointers[0] == 0
            for j, begin, end in zip(range(first, last), pointers[:-1], pointers[1:], strict=True):
                part = slice(base + begin, base + end)
                found[pe, j] = matrix.codes[part].tolist(), matrix.skips[part].tolist()
            base += pointers[-1]
    assert base == matrix.n_entries
    return found


def test_the_vector_of_the_paper():
    column = [0, 0, 1, 2] + [0] * 18 + [3]
    matrix = pack_eie(torch.tensor(column, dtype=torch.uint8)[:, None], codebook(), ONE_PE)

    assert matrix.codes.tolist() == [1, 2, 0, 3]
    assert matrix.skips.tolist() == [2, 0, 15, 2]
    assert matrix.pointers.tolist() == [[0, 4]]
    assert matrix.n_pads == 1
    assert matrix.unpack()[:, 0].tolist() == column


@pytest.mark.parametrize("gap", [0, 1, 14, 15, 16, 17, 31, 32, 33, 47, 48, 400])
def test_runs_of_zeros_around_the_longest_skip(gap):
    column = [0] * gap + [7]
    matrix = pack_eie(torch.tensor(column, dtype=torch.uint8)[:, None], codebook(), ONE_PE)
    assert matrix.n_pads == gap // 16
    assert matrix.skips.tolist() == [15] * (gap // 16) + [gap % 16]
    assert matrix.unpack()[:, 0].tolist() == column


@pytest.mark.parametrize("n_out", [1, 5, 63, 64, 65, 130])
@pytest.mark.parametrize("n_pe", [1, 4, 64])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.4, 1.0])
def test_entries_are_the_oracles(rng, n_out, n_pe, density):
    codes = random_codes(rng, n_out, 9, density)
    matrix = pack_eie(codes, codebook(), EIEFormat(n_pe=n_pe))

    assert slices(matrix) == encode(codes.tolist(), n_pe, 15)
    assert torch.equal(matrix.unpack(), codes)
    assert torch.equal(matrix.to_dense(), codebook()[codes.long()])
    assert matrix.checked() is matrix


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_matrix_any_widths_round_trip(data):
    widths = EIEFormat(
        n_pe=data.draw(st.integers(1, 9)),
        code_bits=data.draw(st.integers(1, 8)),
        index_bits=data.draw(st.integers(1, 8)),
        pointer_bits=data.draw(st.integers(5, 16)),
    )
    n_out, n_in = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 12))
    density = data.draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 30)))
    codes = random_codes(rng, n_out, n_in, density, widths.code_bits)
    try:
        matrix = pack_eie(codes, codebook(widths.code_bits), widths)
    except RangeError:
        # a column of one PE with all its pads is longer than a pointer counts
        assert n_out > 31 * widths.n_pe / 1
        return
    assert torch.equal(matrix.unpack(), codes)
    assert matrix.pointers.numel() == 0 or int(matrix.pointers.max()) <= widths.most_entries
    assert int(matrix.skips.max() if matrix.n_entries else 0) <= widths.longest_skip
    walked = slices(matrix)
    for pe in range(widths.n_pe):
        for j in range(n_in):
            wanted = codes[pe :: widths.n_pe, j].tolist()
            assert decode_slice(*walked[pe, j], widths.slice_rows(pe, n_out)) == wanted


def test_a_full_pointer_begins_a_new_batch(rng):
    # 3 bits count to 7 entries a PE; two rows a PE, so three full columns fit and a fourth does not
    codes = random_codes(rng, 8, 7, 1.0)
    matrix = pack_eie(codes, codebook(), EIEFormat(n_pe=4, pointer_bits=3))

    assert matrix.batch_starts.tolist() == [0, 3, 6, 7]
    assert matrix.pointers[0].tolist() == [0, 2, 4, 6, 0, 2, 4, 6, 0, 2]
    assert matrix.bases.tolist() == [[0, 6, 12, 18], [24, 30, 36, 42], [48, 50, 52, 54]]
    assert torch.equal(matrix.unpack(), codes)
    assert slices(matrix) == encode(codes.tolist(), 4, 15)


def test_vgg_6_needs_more_than_one_batch_of_pointers():
    # 25,088 x 64 rows a PE at 4 %: 64k weights and a good half of that in pads
    rng = torch.Generator().manual_seed(4)
    codes = random_codes(rng, 64, 25088, 0.04)
    matrix = pack_eie(codes, codebook(), ONE_PE)

    assert matrix.n_batches == 2
    assert int(matrix.pointers.max()) <= 65535 < matrix.n_entries
    assert 0.5 < matrix.n_pads / (matrix.n_entries - matrix.n_pads) < 0.62
    assert torch.equal(matrix.unpack(), codes)


def test_bits_of_each_part():
    codes = torch.eye(10, dtype=torch.uint8)
    bits = pack_eie(codes, codebook(), EIEFormat(n_pe=2)).stored_bits()
    assert bits == {"entries": 10 * 8, "pointers": 2 * 11 * 16, "codebook": 16 * 32}


@pytest.mark.parametrize(
    ("codes", "book", "error", "text"),
    [
        (torch.zeros(4, dtype=torch.uint8), codebook(), ShapeError, "codes must have shape"),
        (torch.zeros(4, 4), codebook(), DtypeError, "codes must be uint8"),
        (torch.full((2, 2), 16, dtype=torch.uint8), codebook(), RangeError, "code 16 is outside"),
        (torch.zeros(2, 2, dtype=torch.uint8), codebook(3), ShapeError, "codebook must have shape"),
        (torch.zeros(2, 2, dtype=torch.uint8), codebook().double(), DtypeError, "codebook must be float32"),
        (torch.zeros(2, 2, dtype=torch.uint8), codebook() + 1, RangeError, "must be 0, got 1.0"),
        (torch.zeros(2, 2, dtype=torch.uint8), codebook() * float("nan"), RangeError, "must be finite"),
    ],
)
def test_wrong_input_is_refused(codes, book, error, text):
    with pytest.raises(error, match=text):
        pack_eie(codes, book)


def test_a_column_that_no_pointer_counts_is_refused():
    codes = torch.ones(40, 3, dtype=torch.uint8)
    with pytest.raises(RangeError, match=r"column 0 has 40 entries on one PE.*5 bits.*31.*more PEs"):
        pack_eie(codes, codebook(), EIEFormat(n_pe=1, pointer_bits=5))


@pytest.mark.parametrize("wrong", [{"n_pe": 0}, {"code_bits": 9}, {"index_bits": 0}, {"pointer_bits": 32}])
def test_widths_outside_their_range_are_refused(wrong):
    with pytest.raises(RangeError, match="must be"):
        EIEFormat(**wrong)


def _set(tensor: torch.Tensor, at: tuple, value: int) -> torch.Tensor:
    changed = tensor.clone()
    changed[at] = value
    return changed


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: {"codes": m.codes[:-1]}, "skips should be"),
        (lambda m: {"codes": m.codes.int()}, "codes should be"),
        (lambda m: {"codes": m.codes[:-1], "skips": m.skips[:-1]}, "pointers count"),
        (lambda m: {"codes": _set(m.codes, (0,), 16)}, "a code is 16"),
        (lambda m: {"skips": _set(m.skips, (0,), 16)}, "a skip is 16"),
        (lambda m: {"codes": _set(m.codes, (0,), 0)}, "a pad skips other than 15"),
        (lambda m: {"skips": m.skips + 9}, "lies in row"),
        (lambda m: {"pointers": _set(m.pointers, (0, 1), -1)}, "pointers fall"),
        (lambda m: {"pointers": _set(m.pointers, (0, 0), 1)}, "do not begin at 0"),
        (lambda m: {"pointers": m.pointers + (1 << 16)}, "do not begin at 0"),
        (lambda m: {"batch_starts": torch.tensor([0, 5])}, "batches begin at columns"),
        (lambda m: {"codebook": m.codebook + 1}, "must be 0"),
        (lambda m: {"n_in": m.n_in + 1}, "pointers should be"),
        (lambda m: {"n_out": 3}, "lies in row"),
    ],
)
def test_a_matrix_from_outside_is_checked(change, text):
    codes = torch.zeros(12, 4, dtype=torch.uint8)
    codes[::3] = 5
    matrix = pack_eie(codes, codebook(), EIEFormat(n_pe=2))
    assert matrix.checked() is matrix
    with pytest.raises(FormatError, match=text):
        replace(matrix, **change(matrix)).checked()
