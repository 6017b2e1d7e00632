"""Sums and maxima over ragged rows: twins against Python, backends against twins."""

import sys
from itertools import accumulate

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.tolerance import tolerance

_LONG = pytest.mark.not_emulated("a long loop; segments in parts are")
LENGTHS = {
    "none": [],
    "one-empty": [0],
    "empty-ends": [0, 5, 0],
    "many-short": [1] * 65,
    "one-long": [1000, 0, 1],
    "mixed": [3, 0, 0, 17, 1, 2, 64, 33, 0],
}
of_any_lengths = pytest.mark.parametrize(
    "lengths",
    [pytest.param(part, id=name, marks=[_LONG] * (name == "one-long")) for name, part in LENGTHS.items()],
)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
N = 13


def _cases(channels):
    """Every number of channels with every type; an interpreter shows each of both once."""
    shown = pytest.mark.not_emulated("another type or another number of channels is")
    for c in channels:
        for dtype in DTYPES:
            alone = (c == 7) != (dtype == torch.float32)
            yield pytest.param(c, dtype, marks=[] if alone else [shown], id=f"{c}-{dtype}")


def _case(rng, lengths, channels, dtype):
    """Fewer rows than reads, so that some rows are read twice and the gather is really tested."""
    values = torch.randn(N, channels, generator=rng, dtype=torch.float64).to(dtype)
    order = torch.randint(N, (sum(lengths),), generator=rng, dtype=torch.int32)
    return values, order, torch.tensor([0, *accumulate(lengths)])


@of_any_lengths
def test_twin_of_segment_sum(rng, lengths):
    values, order, starts = _case(rng, lengths, 3, torch.float64)
    out = reference.segment_sum(values, order, starts)

    assert out.shape == (len(lengths), 3)
    for row in range(len(lengths)):
        members = order[starts[row] : starts[row + 1]].tolist()
        for c in range(3):
            expected = sum(values[i, c].item() for i in members)
            assert out[row, c].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("channels", "dtype"), list(_cases([1, 7, 160])))
@of_any_lengths
def test_segment_sum_matches_twin(device, rng, lengths, channels, dtype):
    values, order, starts = _case(rng, lengths, channels, dtype)
    values = values / max(lengths, default=1) ** 0.5
    expected = reference.segment_sum(values.double(), order, starts).to(dtype)

    inputs = [part.to(device) for part in (values, order, starts)]
    actual = backend_of(*inputs).segment_sum(*inputs)

    assert actual.dtype == dtype
    close = tolerance(dtype, terms=max(lengths, default=1))
    torch.testing.assert_close(actual.cpu(), expected, **close)


@of_any_lengths
def test_twin_of_segment_weighted_sum(rng, lengths):
    values, order, starts = _case(rng, lengths, 3, torch.float64)
    weights = torch.randn(len(order), generator=rng, dtype=torch.float64)
    out = reference.segment_weighted_sum(values, order, weights, starts)

    assert out.shape == (len(lengths), 3)
    for row in range(len(lengths)):
        members = range(int(starts[row]), int(starts[row + 1]))
        for c in range(3):
            expected = sum(weights[i].item() * values[order[i], c].item() for i in members)
            assert out[row, c].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("channels", "dtype"), list(_cases([1, 7, 160])))
@of_any_lengths
def test_segment_weighted_sum_matches_twin(device, rng, lengths, channels, dtype):
    values, order, starts = _case(rng, lengths, channels, dtype)
    weights = torch.rand(len(order), generator=rng, dtype=torch.float64) / max(lengths, default=1) ** 0.5
    expected = reference.segment_weighted_sum(values.double(), order, weights, starts).to(dtype)

    inputs = [part.to(device) for part in (values, order, weights, starts)]
    actual = backend_of(*inputs).segment_weighted_sum(*inputs)

    assert actual.dtype == dtype
    # weights are rounded too
    close = tolerance(dtype, terms=2 * max(lengths, default=1))
    torch.testing.assert_close(actual.cpu(), expected, **close)


def test_segment_sum_adds_halves_in_float32(device):
    # 4096 + 1 + 1 + ... stays at 4096 where each step is rounded to 16 bits
    values = torch.tensor([[4096.0], [1.0]], dtype=torch.bfloat16, device=device)
    order = torch.tensor([0] + [1] * 512, dtype=torch.int32, device=device)
    starts = torch.tensor([0, 513], device=device)

    assert backend_of(values).segment_sum(values, order, starts).item() == 4608
    assert reference.segment_sum(values, order, starts).item() == 4608


@of_any_lengths
def test_twin_of_segment_max(rng, lengths):
    values, order, starts = _case(rng, lengths, 3, torch.float64)
    out, arg = reference.segment_max(values, order, starts)

    for row in range(len(lengths)):
        members = order[starts[row] : starts[row + 1]].tolist()
        for c in range(3):
            best = max(members, key=lambda i: values[i, c].item(), default=-1)
            assert arg[row, c] == best
            assert out[row, c] == (values[best, c] if members else 0)
    assert out.shape == arg.shape == (len(lengths), 3)


@pytest.mark.parametrize(("channels", "dtype"), list(_cases([1, 7, 33])))
@of_any_lengths
def test_segment_max_matches_twin(device, rng, lengths, channels, dtype):
    inputs = [part.to(device) for part in _case(rng, lengths, channels, dtype)]
    out, arg = backend_of(*inputs).segment_max(*inputs)
    expected_out, expected_arg = reference.segment_max(*inputs)

    assert out.dtype == dtype
    assert arg.dtype == torch.int32
    assert torch.equal(out, expected_out)
    assert torch.equal(arg, expected_arg)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_segments_that_are_summed_in_parts(device, rng, monkeypatch, dtype):
    lengths = LENGTHS["mixed"]
    values, order, starts, grads = _max_case(rng, lengths, 5, dtype)
    values[order[70], 1] = float("nan")
    grads = (*grads[:1], reference.segment_max(values, order, starts)[1], *grads[2:])
    weights = torch.rand(len(order), generator=rng)
    module = sys.modules[backend_of(values.to(device)).segment_sum.__module__]
    # where there is no such number nothing is changed by it
    monkeypatch.setattr(module, "_PART", 4, raising=False)

    close = tolerance(dtype, terms=max(lengths)) | {"equal_nan": True}
    cases = {"segment_sum": (values, order, starts), "segment_weighted_sum": (values, order, weights, starts)}
    cases |= {"segment_max": (values, order, starts), "segment_max_grad": grads}
    for name, arguments in cases.items():
        moved = [part.to(device) for part in arguments]
        actual, expected = (
            function(*given)
            for function, given in (
                (getattr(backend_of(*moved), name), moved),
                (getattr(reference, name), arguments),
            )
        )
        if name == "segment_max":
            assert torch.equal(actual[1].cpu(), expected[1])
            actual, expected = actual[0], expected[0]
        torch.testing.assert_close(actual.cpu(), expected, **close)


def test_segment_max_ties_nan_and_minus_infinity(device):
    nan, inf = float("nan"), float("inf")
    values = torch.tensor([[1.0, nan, -inf, 0.0], [2.0, 3.0, -inf, -5.0], [2.0, nan, -inf, nan]])
    order, starts = torch.tensor([1, 0, 2], dtype=torch.int32), torch.tensor([0, 3, 3])
    inputs = [part.to(device) for part in (values, order, starts)]

    for segment_max in (reference.segment_max, backend_of(*inputs).segment_max):
        out, arg = segment_max(*inputs)
        # the first of two equals wins, the first NaN wins, an empty segment is zero
        assert arg.tolist() == [[1, 0, 1, 2], [-1] * 4]
        torch.testing.assert_close(
            out.cpu(), torch.tensor([[2.0, nan, -inf, nan], [0.0] * 4]), equal_nan=True, rtol=0, atol=0
        )


def _max_case(rng, lengths, channels, dtype):
    values, order, starts = _case(rng, lengths, channels, dtype)
    _, arg = reference.segment_max(values, order, starts)
    segments = torch.repeat_interleave(torch.arange(len(lengths)), starts.diff()).int()
    by_row, row_starts = reference.group_rows(order, N)
    grad_out = torch.randn(len(lengths), channels, generator=rng, dtype=torch.float64).to(dtype)
    return values, order, starts, (grad_out, arg, segments[by_row.long()].contiguous(), row_starts)


@pytest.mark.parametrize("lengths", [[], [0], [0, 5, 0], [3, 0, 2, 9]], ids=str)
def test_twin_of_segment_max_grad(rng, lengths):
    # rows are read once a segment, so that the gradient of torch's own maximum is well defined
    values = torch.randn(N, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    members = [torch.randperm(N, generator=rng)[:length].int() for length in lengths]
    order = torch.cat([torch.zeros(0, dtype=torch.int32), *members])
    starts = torch.tensor([0, *accumulate(lengths)])
    grad_out = torch.randn(len(lengths), 4, generator=rng, dtype=torch.float64)
    expected = torch.zeros(N, 4, dtype=torch.float64)
    for row, part in enumerate(members):
        if len(part):
            best = values[part.long()].max(dim=0).values
            expected += torch.autograd.grad(best, values, grad_out[row])[0]

    _, arg = reference.segment_max(values.detach(), order, starts)
    segments = torch.repeat_interleave(torch.arange(len(lengths)), starts.diff()).int()
    by_row, row_starts = reference.group_rows(order, N)
    actual = reference.segment_max_grad(grad_out, arg, segments[by_row.long()], row_starts)

    torch.testing.assert_close(actual, expected, **tolerance(torch.float64, terms=len(lengths)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@of_any_lengths
def test_segment_max_grad_matches_twin(device, rng, lengths, dtype):
    *_, inputs = _max_case(rng, lengths, 7, dtype)
    expected = reference.segment_max_grad(inputs[0].double(), *inputs[1:]).to(dtype)

    inputs = [part.to(device) for part in inputs]
    actual = backend_of(*inputs).segment_max_grad(*inputs)

    assert actual.dtype == dtype
    torch.testing.assert_close(actual.cpu(), expected, **tolerance(dtype, terms=max(len(lengths), 1)))
