"""Important rows: scores and selections, twins against Python, backends against twins."""

import math

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.tolerance import tolerance

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# lanes of 16 or 8, whole vectors and remainders; a block of rows holds 1024
_LARGE = pytest.param((1025, 33), marks=pytest.mark.not_emulated("many tiles, as others are"))
SHAPES = [(0, 3), (1, 1), (5, 16), (7, 17), _LARGE, (3, 100), (65, 33), (3, 300)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_twin_of_mean_magnitude(rng, shape):
    feats = torch.randn(shape, generator=rng, dtype=torch.float64)
    expected = [sum(abs(value) for value in row) / shape[1] for row in feats.tolist()]

    assert reference.mean_magnitude(feats).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_magnitude_matches_twin(device, rng, shape, dtype):
    feats = torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)
    expected = reference.mean_magnitude(feats.double()).to(_wide(dtype))
    actual = backend_of(feats.to(device)).mean_magnitude(feats.to(device))

    assert actual.dtype == _wide(dtype)
    torch.testing.assert_close(actual.cpu(), expected, **tolerance(_wide(dtype), shape[1]))


def test_magnitudes_of_strided_rows_and_of_what_is_no_number(device):
    feats = torch.tensor([[1.0, -2.0, 9.0], [-math.inf, 1.0, 9.0], [math.nan, 1.0, 9.0], [-0.0, 0.0, 9.0]])
    strided = feats.to(device)[:, :2]
    scores = backend_of(strided).mean_magnitude(strided).cpu()

    assert scores[:2].tolist() == [1.5, math.inf]
    assert bool(scores[2].isnan())
    assert scores[3] == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_without_channels_have_no_magnitude(device, dtype):
    feats = torch.zeros(3, 0, dtype=dtype)
    for backend in (reference, backend_of(feats.to(device))):
        scores = backend.mean_magnitude(feats if backend is reference else feats.to(device))
        assert scores.dtype == _wide(dtype)
        assert scores.shape == (3,)
        assert bool(scores.isnan().all())


SELECTIONS = {  # scores, groups of rows, how many of each
    "nothing": ([], [], []),
    "no-rows": ([], [[]], [0]),
    "one-group": ([3.0, 1.0, 2.0, 5.0], [[0, 1, 2, 3]], [2]),
    "all-and-none": ([3.0, 1.0, 2.0, 5.0], [[1, 3], [0, 2]], [2, 0]),
    "ties": ([1.0, 2.0, 1.0, 2.0, 1.0, 0.0], [[0, 1, 2, 3, 4, 5]], [4]),
    "equal": ([7.0] * 6, [[1, 4, 5], [0, 2, 3]], [2, 1]),
    "zeros": ([0.0, 0.0, 1e-38, 0.0], [[0, 1, 2, 3]], [2]),
    "no-numbers": ([1.0, math.nan, math.inf, -math.nan, 9.0], [[0, 1, 2, 3, 4]], [3]),
    "first-of-no-numbers": ([1.0, math.nan, math.inf, -math.nan, 9.0], [[0, 1, 2, 3, 4]], [1]),
    "signs-of-zeros": ([0.0, -0.0, 0.0, -0.0], [[0, 1, 2, 3]], [1]),
    "empty-between": ([4.0, 6.0, 5.0], [[2], [], [0, 1]], [1, 0, 1]),
}


def _arguments(groups: list[list[int]], counts: list[int]) -> tuple[torch.Tensor, ...]:
    order = torch.tensor([row for group in groups for row in group], dtype=torch.int32)
    starts = torch.tensor([0, *(len(group) for group in groups)]).cumsum(0)
    return order, starts, torch.tensor(counts, dtype=torch.int64)


@pytest.mark.parametrize(("scores", "groups", "counts"), SELECTIONS.values(), ids=SELECTIONS.keys())
def test_twin_of_top_rows(scores, groups, counts):
    mask = reference.top_rows(torch.tensor(scores), *_arguments(groups, counts))

    chosen = set()
    for group, count in zip(groups, counts, strict=True):
        # a NaN is above all numbers; of equal ones the lower row comes first
        ranked = sorted(group, key=lambda row: (not math.isnan(scores[row]), -scores[row], row))
        nans = [row for row in sorted(group) if math.isnan(scores[row])]
        chosen |= set((nans + [row for row in ranked if row not in nans])[:count])
    assert mask.dtype == torch.bool
    assert {row for row in range(len(scores)) if mask[row]} == chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("scores", "groups", "counts"), SELECTIONS.values(), ids=SELECTIONS.keys())
def test_top_rows_matches_twin(device, scores, groups, counts, dtype):
    arguments = torch.tensor(scores, dtype=dtype), *_arguments(groups, counts)
    expected = reference.top_rows(*arguments)
    inputs = [part.to(device) for part in arguments]

    actual = backend_of(*inputs).top_rows(*inputs)
    assert actual.dtype == torch.bool
    assert torch.equal(actual.cpu(), expected)


def test_top_rows_of_many_that_are_often_equal(device, rng):
    scores = torch.randint(50, (3001,), generator=rng).float() / 8
    group = torch.randint(3, (3001,), generator=rng)
    groups = [torch.nonzero(group == g).squeeze(1).tolist() for g in range(3)]
    for share in (0.1, 0.5, 0.9):
        arguments = scores, *_arguments(groups, [round(share * len(rows)) for rows in groups])
        inputs = [part.to(device) for part in arguments]
        actual, expected = backend_of(*inputs).top_rows(*inputs), reference.top_rows(*arguments)
        assert torch.equal(actual.cpu(), expected)
