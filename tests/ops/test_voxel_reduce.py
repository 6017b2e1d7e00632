"""voxel_reduce against loops over the points of each voxel."""

from collections import Counter

import pytest
import torch

from pcsparse.coords.voxelize import Voxels, voxelize
from pcsparse.errors import DtypeError, RangeError, ShapeError
from pcsparse.ops import voxel_reduce
from tests.tolerance import tolerance


def _voxels(rng, n: int) -> Voxels:
    return voxelize(torch.randn(n, 3, generator=rng), 1.5, batch=torch.randint(2, (n,), generator=rng))


def _members(voxels: Voxels) -> list[list[int]]:
    members: list[list[int]] = [[] for _ in range(len(voxels.coords))]
    for point, voxel in enumerate(voxels.inverse.tolist()):
        members[voxel].append(point)
    return members


def _on_device(voxels: Voxels, device: torch.device) -> Voxels:
    return Voxels(voxels.coords.to(device), voxels.inverse.to(device), voxels.first.to(device))


SIZES = [0, 1, 7, 500]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("how", ["mean", "max", "first"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_floats(device, rng, n, how, dtype):
    voxels = _voxels(rng, n)
    values = torch.randn(n, 3, generator=rng, dtype=torch.float64).to(dtype)
    reduce = {"mean": lambda x: x.mean(0), "max": lambda x: x.max(0).values, "first": lambda x: x[0]}[how]
    rows = [reduce(values[members].double()) for members in _members(voxels)]
    expected = torch.stack(rows).to(dtype) if rows else values.new_zeros(0, 3)

    actual = voxel_reduce(values.to(device), _on_device(voxels, device), how)

    assert actual.dtype == dtype
    torch.testing.assert_close(actual.cpu(), expected, **tolerance(dtype, terms=max(n, 1)))


@pytest.mark.parametrize("how", ["mean", "max", "first"])
def test_gradcheck(rng, how):
    voxels = _voxels(rng, 30)
    assert 1 < len(voxels.coords) < 30
    values = torch.randperm(60, generator=rng).double().view(30, 2) / 7
    assert torch.autograd.gradcheck(lambda v: voxel_reduce(v, voxels, how), (values.requires_grad_(),))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16], ids=str)
def test_majority(device, rng, n, classes, dtype):
    voxels = _voxels(rng, n)
    labels = torch.randint(-1, classes, (n,), generator=rng).to(dtype)
    actual = voxel_reduce(labels.to(device), _on_device(voxels, device), "majority")

    expected = []
    for members in _members(voxels):
        votes = Counter(label for label in labels[members].tolist() if label != -1)
        # most votes, then the smallest label
        expected.append(min(votes, key=lambda label: (-votes[label], label)) if votes else -1)
    assert actual.tolist() == expected
    assert actual.dtype == dtype


def _one_voxel(n: int) -> Voxels:
    return voxelize(torch.zeros(n, 3), 1.0)


@pytest.mark.parametrize(
    ("labels", "winner"),
    [
        ([3, 1, 3, 1], 1),
        ([3, 3, 1], 3),
        ([-1, -1, -1, 5], 5),
        ([-1, -1, 7, 2, -1], 2),
        ([-1, -1], -1),
        ([0, -1], 0),
    ],
)
def test_a_tie_takes_the_smallest_and_ignore_never_wins(labels, winner):
    assert voxel_reduce(torch.tensor(labels), _one_voxel(len(labels)), "majority").tolist() == [winner]


def test_labels_of_bytes_and_far_apart():
    voxels = voxelize(torch.tensor([[0.0, 0, 0], [5.0, 0, 0], [0.1, 0, 0]]), 1.0)
    raw = torch.tensor([255, 3, 255], dtype=torch.uint8)
    assert voxel_reduce(raw, voxels, "majority").tolist() == [255, 3]
    far = torch.tensor([2**31 - 1, 0, 2**31 - 1], dtype=torch.int64)
    assert voxel_reduce(far, voxels, "majority").tolist() == [2**31 - 1, 0]


def test_first_takes_any_dtype_and_shape(rng):
    voxels = _voxels(rng, 20)
    labels, flags = torch.arange(20), torch.arange(20) % 2 == 0
    assert voxel_reduce(labels, voxels, "first").tolist() == [members[0] for members in _members(voxels)]
    assert voxel_reduce(flags, voxels, "first").dtype == torch.bool
    assert voxel_reduce(torch.zeros(20, 2, 3), voxels, "first").shape == (len(voxels.coords), 2, 3)


def test_a_mean_of_many_halves_does_not_overflow():
    values = torch.full((200, 1), 1000.0, dtype=torch.float16)
    assert voxel_reduce(values, _one_voxel(200), "mean").item() == 1000


@pytest.mark.parametrize("how", ["mean", "max", "first", "majority"])
def test_values_that_do_not_match_the_points(how):
    with pytest.raises(ShapeError, match=r"one row for each of the 4 points, got shape \(3, 2\)"):
        voxel_reduce(torch.zeros(3, 2), _one_voxel(4), how)


def test_dtypes_and_ranges():
    voxels = _one_voxel(4)
    with pytest.raises(DtypeError, match=r"'mean' takes \(n, c\) floats, got torch\.int64 \(4, 2\)"):
        voxel_reduce(torch.zeros(4, 2, dtype=torch.int64), voxels, "mean")
    with pytest.raises(DtypeError, match=r"'max' takes \(n, c\) floats, got torch\.float32 \(4,\)"):
        voxel_reduce(torch.zeros(4), voxels, "max")
    with pytest.raises(DtypeError, match="labels must be int64, int32, int16, uint8, got float32"):
        voxel_reduce(torch.zeros(4), voxels, "majority")
    with pytest.raises(ShapeError, match=r"majority takes labels \(n,\), got \(4, 1\)"):
        voxel_reduce(torch.zeros(4, 1, dtype=torch.int64), voxels, "majority")
    with pytest.raises(RangeError, match=r"labels must be at least -1 \(ignore\), got -100"):
        voxel_reduce(torch.tensor([0, -100, 0, 0]), voxels, "majority")
    with pytest.raises(RangeError, match="got 'median'"):
        voxel_reduce(torch.zeros(4, 1), voxels, "median")  # type: ignore[arg-type]
