"""The product with a 2:4 matrix: the twin against loops, backends against the twin."""

import pytest
import torch

from pcsparse.kernels import cpu, reference
from pcsparse.kernels.select import backend_of
from pcsparse.packed.two_four import pack_two_four
from tests.packed.oracle_two_four import decode_row
from tests.packed.test_two_four import random_two_four
from tests.tolerance import tolerance

NAN, INF = float("nan"), float("inf")
# blocks of 32 inputs, 4 rows and 4 items at a time, 32 rows a thread, and remainders of each
SHAPES = [
    *((1, 4), (3, 8), (5, 28), (4, 32), (33, 36), (9, 1000)),
    *(
        pytest.param(*shape, marks=pytest.mark.not_emulated("rows enough for the threads of a CPU"))
        for shape in ((70, 60), (64, 128), (130, 1000), (600, 256))
    ),
]
# a GPU takes one item, or four at a time
ITEMS = [1, *(pytest.param(n, marks=pytest.mark.not_emulated("as 6")) for n in (2, 3, 4)), 6]


def _case(rng, n_out, n_in, n_items):
    """Order-one results: weights shrink with the root of the products."""
    weight = random_two_four(rng, n_out, n_in) / max(n_in // 2, 1) ** 0.5
    x, bias = torch.randn(n_items, n_in, generator=rng), torch.randn(n_out, generator=rng)
    matrix = pack_two_four(weight)
    return x, matrix.values, matrix.positions, bias


@pytest.mark.parametrize("relu", [False, True])
def test_twin_of_two_four_matvec(rng, relu):
    x, values, positions, bias = (part.double() for part in _case(rng, 5, 20, 3))
    positions = positions.to(torch.uint8)
    rows = zip(values.tolist(), positions.tolist(), strict=True)
    dense = [decode_row(some, packed, 20) for some, packed in rows]
    for shift in (bias, torch.zeros(5).double()):
        sums = [
            [
                sum(a * b for a, b in zip(row, item, strict=True)) + float(shift[r])
                for r, row in enumerate(dense)
            ]
            for item in x.tolist()
        ]
        expected = torch.tensor(
            [[max(0.0, v) if relu else v for v in row] for row in sums], dtype=torch.float64
        )
        given = None if not shift.any() else shift
        actual = reference.two_four_matvec(x, values, positions, given, relu)
        torch.testing.assert_close(actual, expected, **tolerance(torch.float64, 10))
    assert (expected == 0).any() == relu


@pytest.mark.parametrize("n_items", ITEMS)
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
@pytest.mark.parametrize("relu", [False, True])
def test_two_four_matvec_matches_twin(device, rng, n_out, n_in, n_items, relu):
    x, values, positions, bias = _case(rng, n_out, n_in, n_items)
    for shift in (bias, None):
        expected = reference.two_four_matvec(x.double(), values.double(), positions, shift, relu)
        moved = [None if part is None else part.to(device) for part in (x, values, positions, shift)]
        actual = backend_of(moved[0]).two_four_matvec(*moved, relu)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.cpu(), expected.float(), **tolerance(torch.float32, n_in // 2))


@pytest.mark.parametrize(("n_out", "n_in", "n_items"), [(0, 8, 2), (3, 0, 2), (3, 8, 0)])
def test_nothing_to_add(device, n_out, n_in, n_items):
    matrix = pack_two_four(torch.zeros(n_out, n_in))
    x, values, positions = (
        part.to(device) for part in (torch.ones(n_items, n_in), matrix.values, matrix.positions)
    )
    out = backend_of(x).two_four_matvec(x, values, positions, torch.full((n_out,), 2.0, device=device), False)
    assert torch.equal(out.cpu(), torch.full((n_items, n_out), 2.0))


def test_strided_inputs_are_as_good(device, rng):
    x, values, positions, bias = (part.to(device) for part in _case(rng, 9, 40, 3))
    backend = backend_of(x)
    expected = backend.two_four_matvec(x, values, positions, bias, False)
    turned = [part.T.contiguous().T for part in (x, values, positions)]
    spread = torch.stack([bias, bias], dim=1)[:, 0]
    assert torch.equal(backend.two_four_matvec(*turned, spread, False), expected)


@pytest.mark.parametrize("n_in", [40, 48])
def test_inputs_may_begin_anywhere(device, rng, n_in):
    x, values, positions, bias = (part.to(device) for part in _case(rng, 9, n_in, 3))
    backend = backend_of(x)
    expected = backend.two_four_matvec(x, values, positions, bias, False)
    # contiguous, but not where a vector of floats may lie
    moved = [torch.cat([part.new_zeros(1), part.reshape(-1)])[1:].view(part.shape) for part in (x, values)]
    assert torch.equal(backend.two_four_matvec(*moved, positions, bias, False), expected)


def test_what_is_not_chosen_is_not_read(device, rng):
    # 36 inputs: a whole block and a remainder
    weight = torch.zeros(2, 36)
    weight[:, ::4], weight[:, 2::4] = 1.0, 2.0
    matrix = pack_two_four(weight)
    x = torch.full((3, 36), NAN)
    x[:, ::4], x[:, 2::4] = 3.0, 4.0
    # the memory after the last input must not matter either
    room = torch.full((3 * 36 + 64,), NAN)
    room[: 3 * 36] = x.reshape(-1)
    x, values, positions = (
        part.to(device) for part in (room[: 3 * 36].view(3, 36), matrix.values, matrix.positions)
    )
    backend = backend_of(x)
    assert backend.two_four_matvec(x, values, positions, None, True).tolist() == [[99.0, 99.0]] * 3
    # what is chosen is: also by a stored zero
    x[1, 32], x[2, 4] = INF, NAN
    values[0, 16] = 0.0
    out = backend.two_four_matvec(x, values, positions, None, True)
    assert out[0].tolist() == [96.0, 99.0]
    assert out[1].isnan().tolist() == [True, False]
    assert out[1, 1] == INF
    # a ReLU does not hide it
    assert out[2].isnan().all()


def test_bits_depend_on_neither_threads_nor_batch(device, rng):
    x, values, positions, bias = (part.to(device) for part in _case(rng, 203, 1000, 7))
    backend = backend_of(x)
    expected = backend.two_four_matvec(x, values, positions, bias, False)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            assert torch.equal(backend.two_four_matvec(x, values, positions, bias, False), expected)
            for n_items in (1, 2, 3):
                part = backend.two_four_matvec(x[:n_items], values, positions, bias, False)
                assert torch.equal(part, expected[:n_items])
    finally:
        torch.set_num_threads(before)
    # few rows are added by one thread, in the same order
    few = backend.two_four_matvec(x[:1], values[9:14], positions[9:14], bias[9:14], False)
    assert torch.equal(few, expected[:1, 9:14])


def test_the_default_dtype_and_device_change_nothing(rng):
    weight = torch.randn(8, 16, generator=rng).view(8, 4, 4)
    weight[..., :2] = 0
    matrix = pack_two_four(weight.view(8, 16))
    x = torch.randn(3, 16, generator=rng)
    expected = cpu.two_four_matvec(x, matrix.values, matrix.positions, None, False)
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            found = cpu.two_four_matvec(x, matrix.values, matrix.positions, None, False)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
