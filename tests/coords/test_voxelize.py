"""Points to voxels against a dictionary of voxels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.coords.voxelize import Voxels, voxelize
from pcsparse.errors import DtypeError, RangeError, ShapeError
from tests import oracle
from tests.cuda_division import CudaDivision


def _check(voxels: Voxels, expected: dict[tuple[int, ...], list[int]], n: int) -> None:
    assert voxels.coords.dtype == torch.int32
    assert voxels.inverse.dtype == voxels.first.dtype == torch.int64
    assert voxels.coords.shape == (len(expected), 4)
    assert voxels.inverse.shape == (n,)
    assert list(map(tuple, voxels.coords.tolist())) == list(expected)
    assert voxels.first.tolist() == [members[0] for members in expected.values()]
    for voxel, members in enumerate(expected.values()):
        assert voxels.inverse[members].tolist() == [voxel] * len(members)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 4097])
@pytest.mark.parametrize("voxel_size", [0.05, 0.3, 7.0])
def test_voxels_are_the_dictionary(device, rng, dtype, n, voxel_size):
    points = (torch.randn(n, 3, generator=rng, dtype=torch.float64) * 3).to(dtype)
    batch = torch.randint(3, (n,), generator=rng)
    origin = (0.123, -4.0, 1.7)
    # some on faces, where a bit decides
    faces = torch.arange(n // 2)[:, None] * voxel_size + torch.tensor(origin, dtype=torch.float64)
    points[: n // 2] = faces.to(dtype)
    expected = oracle.voxelize(points.tolist(), voxel_size, batch.tolist(), origin)

    with CudaDivision():
        voxels = voxelize(points.to(device), voxel_size, batch=batch.to(device), origin=origin)

    _check(voxels, expected, n)


def _faces(size: float, dtype: torch.dtype) -> torch.Tensor:
    """Points on faces of voxels, and next to them: where a bit of a quotient decides."""
    # as decimal metres are written, too
    places = torch.cat([torch.arange(-4000, 4000).double() * size, torch.arange(-2000, 2000).double() / 20])
    places = places.to(dtype)
    far = torch.tensor(math.inf, dtype=dtype)
    near = torch.cat([places, places.nextafter(far), places.nextafter(-far)])
    return torch.stack([near, near.flip(0), near], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [0.03, 0.05, 0.07, 0.1, 0.16, 0.3])
def test_points_on_faces_have_the_same_voxels_on_every_device(device, dtype, size):
    points = _faces(size, dtype)
    cells = np.floor(points.double().numpy() / size).astype(np.int32)

    # a GPU divides as it does by itself
    with CudaDivision():
        voxels = voxelize(points.to(device), size)

    assert np.array_equal(voxels.coords[voxels.inverse, 1:].cpu().numpy(), cells)


def test_a_product_with_the_inverse_would_find_other_voxels():
    with CudaDivision():
        inverse = torch.tensor([1.75, -60.0], dtype=torch.float64)
        assert torch.floor(inverse / torch.tensor([0.07, 0.03], dtype=torch.float64)).tolist() == [24, -2000]
        assert math.floor(inverse[:1] / 0.07) == 25
        assert math.floor(inverse[1:] / 0.03) == -2001


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(*[st.floats(-1500, 1500, width=32)] * 3), max_size=30),
    st.floats(0.05, 20, allow_nan=False),
)
def test_voxels_of_any_points(points, voxel_size):
    expected = oracle.voxelize(points, voxel_size, [0] * len(points))

    _check(voxelize(torch.tensor(points).view(-1, 3), voxel_size), expected, len(points))


def _tensor64(numbers: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("kind", [tuple, list, np.array, _tensor64])
def test_three_voxel_sizes_are_numpys_floor(device, rng, kind):
    # SECOND's published grid
    sizes, origin = (0.075, 0.075, 0.2), (-54.0, -54.0, -5.0)
    points = torch.rand(4097, 3, generator=rng, dtype=torch.float64) * 108 - 54
    points[:64] = _tensor64(origin) + torch.arange(64)[:, None] * _tensor64(sizes)

    voxels = voxelize(points.to(device), kind(sizes), origin=kind(origin))

    cells = np.floor((points.numpy() - np.array(origin)) / np.array(sizes)).astype(np.int32)
    unique, inverse = np.unique(cells, axis=0, return_inverse=True)
    assert np.array_equal(voxels.coords[:, 1:].cpu().numpy(), unique)
    assert np.array_equal(voxels.inverse.cpu().numpy(), inverse.reshape(-1))
    assert not voxels.coords[:, 0].any()


def test_three_equal_sizes_are_one(device):
    points = _faces(0.07, torch.float64)
    with CudaDivision():
        one, three = (voxelize(points.to(device), size) for size in (0.07, (0.07, 0.07, 0.07)))
        # whose first size stands for itself only
        apart = voxelize(points.to(device), (0.07, 0.07, 0.14))
    cells = apart.coords[apart.inverse, :3]
    assert torch.equal(three.coords[three.inverse, :3], cells)
    assert torch.equal(one.coords, three.coords)
    assert torch.equal(one.inverse, three.inverse)


@pytest.mark.parametrize(
    "given", [(0.1, 0.2), (0.1, 0.2, 0.3, 0.4), (), "0.1", None, (0.1, 0.2, "a")], ids=str
)
def test_a_voxel_size_is_one_number_or_three(given):
    with pytest.raises(ShapeError, match=r"voxel_size must be one number or three \(x, y, z\)") as error:
        voxelize(torch.zeros(1, 3), given)
    assert repr(given) in str(error.value)


@pytest.mark.parametrize("given", [(0.0, 0.0), 0.0, None], ids=str)
def test_an_origin_is_three_numbers(given):
    with pytest.raises(ShapeError, match=r"origin must be three numbers \(x, y, z\) in metres") as error:
        voxelize(torch.zeros(1, 3), 0.1, origin=given)
    assert repr(given) in str(error.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_origin_that_is_not_finite_is_named(bad):
    with pytest.raises(RangeError, match="origin must be finite metres, got") as error:
        voxelize(torch.zeros(1, 3), 0.1, origin=(bad, 0.0, 0.0))
    assert str(bad) in str(error.value)


def test_voxels_of_next_to_nothing_do_not_blame_the_points():
    with pytest.raises(RangeError, match=r"1 of 2 points lie beyond the key's range at voxel_size=1e-310 m"):
        voxelize(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), 1e-310)


def test_a_point_on_a_face_belongs_to_the_voxel_above(device):
    points = torch.tensor([[0.0, 0.5, -0.5], [-0.0, 0.4999, -0.5001], [1.0, -1.0, 1.5]], device=device)
    voxels = voxelize(points, 0.5)

    assert voxels.coords[voxels.inverse].tolist() == [[0, 0, 1, -1], [0, 0, 0, -2], [0, 2, -2, 3]]


def test_a_face_of_a_voxel_far_away_is_met_in_float64():
    # 5 cm at 1.6 km: float32 arithmetic would put several of these into the voxel below
    cells = torch.arange(31_900, 32_000)
    points = torch.stack([cells.double() * 0.05, torch.zeros(100), torch.zeros(100)], dim=1)
    inside = points + torch.tensor([0.01, 0.01, 0.01], dtype=torch.float64)

    assert voxelize(inside, 0.05).coords[:, 1].tolist() == cells.tolist()
    assert (
        voxelize(inside - torch.tensor([0.02, 0.0, 0.0]), 0.05).coords[:, 1].tolist() == (cells - 1).tolist()
    )


def test_negative_coordinates_floor():
    points = torch.tensor([[-0.01, -1.0, -1.01], [0.01, 0.99, -0.99]])

    assert voxelize(points, 1.0).coords.tolist() == [[0, -1, -1, -2], [0, 0, 0, -1]]


def test_clouds_of_a_batch_do_not_share_voxels():
    points = torch.zeros(4, 3)
    voxels = voxelize(points, 1.0, batch=torch.tensor([2, 0, 2, 2046], dtype=torch.int32))

    assert voxels.coords.tolist() == [[0, 0, 0, 0], [2, 0, 0, 0], [2046, 0, 0, 0]]
    assert voxels.inverse.tolist() == [1, 0, 1, 2]
    assert voxels.first.tolist() == [1, 0, 3]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", range(3))
def test_points_that_are_not_finite_name_their_row(bad, axis):
    points = torch.zeros(5, 3)
    points[3, axis] = bad
    points[4, axis] = bad

    with pytest.raises(RangeError, match="2 of 5 points are not finite, first at row 3") as error:
        voxelize(points, 0.1)
    assert str(bad) in str(error.value)
    assert "drop them" in str(error.value)


@pytest.mark.parametrize(
    ("axis", "value", "cell"), [(0, 130_816.5, 130_816), (1, -130_816.5, -130_817), (2, 32_512.0, 32_512)]
)
def test_points_beyond_the_key_name_row_point_and_voxel(axis, value, cell):
    points = torch.zeros(3, 3)
    points[1, axis] = value
    with pytest.raises(
        RangeError, match=r"1 of 3 points lie beyond the key's range at voxel_size=1\.0 m"
    ) as error:
        voxelize(points, 1.0)
    text = str(error.value)
    assert "first at row 1" in text
    assert str(value) in text
    assert str(cell) in text
    assert "subtract an origin" in text

    points[1, axis] += -1 if value > 0 else 1
    assert len(voxelize(points, 1.0).coords) == 2


def test_a_float_too_large_for_an_integer_does_not_wrap():
    with pytest.raises(RangeError, match="lie beyond the key's range"):
        voxelize(torch.tensor([[1e30, 0.0, 0.0]]), 0.05)


def test_world_coordinates_come_near_by_an_origin():
    # UTM: float32 would be metres off, so float64 points and an origin
    points = torch.tensor(
        [[500_000.26, 5_400_000.26, 310.26], [500_000.24, 5_400_000.26, 310.26]], dtype=torch.float64
    )
    voxels = voxelize(points, 0.25, origin=(500_000.0, 5_400_000.0, 310.0))

    assert voxels.coords.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
    assert voxels.first.tolist() == [1, 0]


@pytest.mark.parametrize("voxel_size", [0.0, -0.05, math.nan, math.inf, (0.1, 0.1, 0.0)])
def test_voxel_size_must_be_positive(voxel_size):
    with pytest.raises(RangeError, match="voxel_size must be positive and finite metres, got"):
        voxelize(torch.zeros(1, 3), voxel_size)


def test_shapes_and_dtypes():
    with pytest.raises(ShapeError, match=r"points must have shape \(\*, 3\), got \(2, 4\)"):
        voxelize(torch.zeros(2, 4), 1.0)
    with pytest.raises(ShapeError, match=r"batch must have shape \(2\), got \(3,\)"):
        voxelize(torch.zeros(2, 3), 1.0, batch=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DtypeError, match="points must be float32, float64, got float16"):
        voxelize(torch.zeros(2, 3, dtype=torch.float16), 1.0)
    with pytest.raises(DtypeError, match="batch must be int32, int64, got float32"):
        voxelize(torch.zeros(2, 3), 1.0, batch=torch.zeros(2))


@pytest.mark.parametrize("cloud", [-1, 2047])
def test_batch_indices_beyond_the_key(cloud):
    with pytest.raises(RangeError, match=f"batch of the coordinates spans {cloud} to {cloud}"):
        voxelize(torch.zeros(1, 3), 1.0, batch=torch.tensor([cloud]))


def test_points_stay_as_they_were(rng):
    points = torch.randn(50, 3, generator=rng).requires_grad_()
    kept = points.detach().clone()
    voxelize(points, 0.2)

    assert torch.equal(points, kept)
