"""The 2:4 format: bits as written down, round trips against loops, and what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.errors import DtypeError, FormatError, RangeError, ShapeError
from pcsparse.packed.two_four import TwoFourMatrix, pack_two_four
from tests.packed.oracle_two_four import best_two, decode_row, encode_row

NAN, INF = float("nan"), float("inf")


def random_two_four(
    rng: torch.Generator, n_out: int, n_in: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Rows with two, and here and there fewer, weights in each four."""
    weight = torch.randn(n_out, n_in, generator=rng)
    mask = torch.tensor([best_two(row) for row in weight.tolist()], dtype=torch.bool).view(n_out, n_in)
    thinned = mask & (torch.rand(n_out, n_in, generator=rng) < 0.9)
    return (weight * thinned).to(dtype)


def test_the_bits_are_those_that_the_format_names():
    weight = torch.tensor([[0, 5, 0, 7, 1, 0, 2, 0, 0, 0, 3, 4]], dtype=torch.float32)
    matrix = pack_two_four(weight)
    assert matrix.values.tolist() == [[5, 7, 1, 2, 3, 4]]
    # positions 1, 3 | 0, 2 and 2, 3, the first in the lowest bits
    assert matrix.positions.tolist() == [[0b1000_1101, 0b0000_1110]]
    assert (matrix.n_out, matrix.n_in) == (1, 12)
    assert matrix.stored_bytes == 6 * 4 + 2
    assert matrix.columns().tolist() == [[1, 3, 4, 6, 10, 11]]


@pytest.mark.parametrize(
    ("group", "values", "nibble"),
    [
        ([0, 0, 0, 0], [0, 0], 0b0100),
        ([9, 0, 0, 0], [9, 0], 0b0100),
        ([0, 9, 0, 0], [0, 9], 0b0100),
        ([0, 0, 9, 0], [0, 9], 0b1000),
        ([0, 0, 0, 9], [0, 9], 0b1100),
        ([-0.0, 0, 0, 9], [0, 9], 0b1100),
    ],
)
def test_groups_with_fewer_than_two_weights_have_one_form(group, values, nibble):
    matrix = pack_two_four(torch.tensor([group], dtype=torch.float32))
    assert matrix.values.tolist() == [values]
    assert matrix.positions.tolist() == [[nibble]]
    assert not matrix.values.signbit().any()
    assert matrix.checked() is matrix


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n_out", "n_in"), [(0, 8), (3, 0), (1, 4), (5, 12), (7, 32), (4, 100)])
def test_form_and_content_are_the_oracles(rng, dtype, n_out, n_in):
    weight = random_two_four(rng, n_out, n_in, dtype)
    matrix = pack_two_four(weight)
    rows = [encode_row(row) for row in weight.tolist()]
    assert matrix.values.tolist() == [values for values, _ in rows]
    assert matrix.positions.tolist() == [packed for _, packed in rows]
    assert matrix.values.dtype == matrix.unpack().dtype == dtype
    assert torch.equal(matrix.unpack(), weight)
    assert matrix.checked() is matrix


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_matrix_round_trips(data):
    n_out, groups = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 9))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    rows = []
    for _ in range(n_out):
        row = []
        for _ in range(groups):
            places = data.draw(st.sets(st.integers(0, 3), max_size=2))
            row += [data.draw(number) if i in places else 0.0 for i in range(4)]
        rows.append(row)
    weight = torch.tensor(rows, dtype=torch.float32).view(n_out, 4 * groups)
    matrix = pack_two_four(weight).checked()
    assert torch.equal(matrix.unpack(), weight)
    pairs = zip(matrix.values.tolist(), matrix.positions.tolist(), strict=True)
    assert [decode_row(values, packed, 4 * groups) for values, packed in pairs] == weight.tolist()
    # and a mask drops the rest
    mask = torch.tensor([best_two(row) for row in (weight + 1).tolist()], dtype=torch.bool).view(weight.shape)
    assert torch.equal(pack_two_four(weight + 1, mask).unpack(), (weight + 1) * mask)


def test_bytes_are_nine_sixteenths_of_float16():
    weight = torch.zeros(64, 256)
    assert pack_two_four(weight.half()).stored_bytes == 64 * 256 * 2 * 9 // 16
    assert pack_two_four(weight).stored_bytes == 64 * 256 * 4 * 17 // 32


def test_another_dtype_is_packed_anew(rng):
    weight = random_two_four(rng, 5, 16)
    # too small for float16: a zero there, and zeros stand at the lowest free position
    weight[0, :4] = torch.tensor([0, 0, 1e-9, 2])
    half = pack_two_four(weight).to(torch.float16).checked()
    assert half.values.dtype == torch.float16
    assert torch.equal(half.unpack(), weight.half())
    with pytest.raises(DtypeError, match="weight must be float32, float16, bfloat16, got float64"):
        half.to(torch.float64)
    with pytest.raises(RangeError, match="1 of 4 weights are not finite"):
        pack_two_four(torch.tensor([[1e9, 0, 0, 0]])).to(torch.float16)


@pytest.mark.parametrize(
    ("weight", "mask", "error", "text"),
    [
        (torch.zeros(4), None, ShapeError, r"weight must have shape \(\*, \*\)"),
        (torch.zeros(2, 6), None, ShapeError, "6 columns, no multiple of 4"),
        (torch.zeros(2, 4).long(), None, DtypeError, "weight must be float32, float16, bfloat16, got int64"),
        (torch.tensor([[0, NAN, 0, 1]]), None, RangeError, "1 of 4 weights are not finite"),
        (torch.tensor([[0, INF, 0, 1]]), None, RangeError, "1 of 4 weights are not finite"),
        (torch.tensor([[0.0] * 4 + [1, 2, 0, 3]]), None, RangeError, "row 0 has 3 weights .* columns 4 to 7"),
        (torch.ones(1, 4), torch.ones(1, 4).bool(), RangeError, "row 0 has 4 weights .* columns 0 to 3"),
        (torch.ones(1, 4), torch.ones(1, 8).bool(), ShapeError, r"mask must have shape \(1, 4\)"),
        (torch.ones(1, 4), torch.ones(1, 4), DtypeError, "mask must be bool"),
    ],
)
def test_wrong_input_is_refused(weight, mask, error, text):
    with pytest.raises(error, match=text):
        pack_two_four(weight, mask)


def _matrix(**changes) -> TwoFourMatrix:
    good = pack_two_four(torch.tensor([[0, 5, 0, 7, 1, 0, 2, 0, 0, 0, 3, 4]], dtype=torch.float32))
    return replace(good, **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_in": 10}, "1 rows, 10 columns"),
        ({"n_in": 16}, r"values should be float \(1, 8\), are torch.float32 \(1, 6\)"),
        ({"n_out": -1}, "-1 rows"),
        ({"values": torch.zeros(1, 6).double()}, "values should be float"),
        ({"positions": torch.zeros(1, 2)}, "positions should be uint8"),
        ({"positions": torch.zeros(1, 3, dtype=torch.uint8)}, "positions should be uint8"),
        ({"values": torch.tensor([[1, 2, 3, NAN, 5, 6.0]])}, "1 of 6 values are not finite"),
        (
            {"positions": torch.tensor([[0b1000_1101, 0b1010]], dtype=torch.uint8)},
            r"row 0, group 2 do not ascend: \[2, 2\]",
        ),
        (
            {"positions": torch.tensor([[0b0010_1101, 0b1110]], dtype=torch.uint8)},
            r"row 0, group 1 do not ascend: \[2, 0\]",
        ),
        (
            {"positions": torch.tensor([[0b1000_1101, 0b0100_1110]], dtype=torch.uint8)},
            "byte 1 of the positions of row 0 is 78, and the values call for 14",
        ),
        ({"values": torch.tensor([[5.0, 7, 1, 2, 3, 0]])}, "a zero stands elsewhere"),
    ],
)
def test_what_is_no_such_matrix_is_named(changes, text):
    with pytest.raises(FormatError, match=f"no 2:4 matrix: .*{text}"):
        _matrix(**changes).checked()
