"""Unit, axes, origin, range and height: from a file's coordinates to a sensor's frame."""

from pathlib import Path

import numpy as np
import pytest

from pcsparse.data.placement import UP_AXES, Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import RangeError


def cloud_of(points, origin=(0.0, 0.0, 0.0)):
    points = np.asarray(points, np.float32)
    n = len(points)
    return PointCloud(points, np.array(origin), None, None, np.arange(n), n, Path("cloud.npy"))


@pytest.mark.parametrize("up", [*UP_AXES, "0.1,-0.2,0.97", "0.1 -0.9 0.3", "-0.3,0.1,-2"])
def test_every_up_is_a_rotation_that_ends_in_z(up):
    rotation = Placement(up=up).rotation()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    axes = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}
    if up in UP_AXES:
        vector = np.array(axes[up[-1]]) * (-1 if up[0] == "-" else 1)
    else:
        vector = np.array([float(part) for part in up.replace(",", " ").split()])
    np.testing.assert_allclose(rotation @ vector / np.linalg.norm(vector), (0, 0, 1), atol=1e-12)


def test_a_camera_looks_forward_and_a_tilt_keeps_the_heading():
    np.testing.assert_allclose(Placement(up="-y")(cloud_of([(1, 2, 3)])), [(3, -1, -2)])
    forward = Placement(up="0.1,0,0.995").rotation() @ (1, 0, 0)
    assert forward[1] == 0
    assert forward[0] > 0.99


def test_steps_come_in_their_order():
    placed = Placement(scale=0.001, up="y", origin=(1.0, 2.0, 3.0), z_offset=10.0)(
        cloud_of([(1000, 2000, 3000)])
    )
    # y up: forward is -z, left -x
    np.testing.assert_allclose(placed, [(-3 - 1, -1 - 2, 2 - 3 + 10)], rtol=1e-6)


def test_ranges_are_those_from_the_origin_before_the_offset():
    points = [(0, 0, 0), (0.4, 0, 0), (3, 0, 0), (0, 0, 40)]
    placed = Placement(min_range=0.5, max_range=30.0, z_offset=5.0)(cloud_of(points))
    assert np.isnan(placed).all(axis=1).tolist() == [True, True, False, True]
    np.testing.assert_array_equal(placed[2], (3, 0, 5))


def test_world_coordinates_are_turned_as_a_whole():
    cloud = cloud_of([(1, 2, 3)], origin=(9000.0, 0.0, 20000.0))
    np.testing.assert_allclose(Placement(scale=0.01)(cloud), [(90.01, 0.02, 200.03)], rtol=1e-6)
    # without a turn the reader's origin stays subtracted
    np.testing.assert_array_equal(Placement(z_offset=-1.0)(cloud), [(1, 2, 2)])
    assert Placement()(cloud) is cloud.points


@pytest.mark.parametrize("values", [{}, {"scale": 0.5}, {"up": "-z"}, {"z_offset": 1.0}])
def test_an_origin_lies_in_the_coordinates_of_the_file_whatever_else_is_given(values):
    cloud = cloud_of([(1, 2, 3), (4, 5, 6)], origin=(512000.0, 5400000.0, 0.0))
    bare = Placement(scale=values.get("scale", 1.0), up=values.get("up", "z"))
    first = tuple(float(v) for v in bare.scale * bare.rotation() @ (512001, 5400002, 3))
    placed = Placement(origin=first, **values)(cloud)
    np.testing.assert_array_equal(placed[0], (0, 0, values.get("z_offset", 0)))
    np.testing.assert_allclose(np.linalg.norm(placed[1] - placed[0]), bare.scale * 27**0.5, rtol=1e-6)


def test_far_points_keep_their_millimetres_beside_an_origin():
    steps = 0.001 * np.arange(2000)
    cloud = cloud_of(np.column_stack([steps, steps, steps]), origin=(512000.0, 5400000.0, 0.0))
    points, origin = Placement(up="-z").centred(cloud)
    np.testing.assert_array_equal(origin, (512001, -5400001, 0))
    np.testing.assert_allclose(points + origin, cloud.world() * (1, -1, -1), atol=1e-6, rtol=0)
    points, origin = Placement().centred(cloud)
    assert points is cloud.points
    assert origin is cloud.origin


def test_flags_are_those_of_the_command_line():
    assert Placement().flags() == ()
    given = Placement(0.001, "-y", (512345.5, -3.0, 0.0), 0.5, 300.0, -1.7).flags()
    assert given == (
        "--scale 0.001", "--up=-y", "--origin=512345.5,-3,0", "--min-range 0.5", "--max-range 300",
        "--z-offset -1.70",
    )  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"scale": 0.0},
        {"up": "w"},
        {"up": "0,0,0"},
        {"up": "1,2"},
        {"origin": (np.nan, 0.0, 0.0)},
        {"min_range": 5.0, "max_range": 4.0},
        {"min_range": -1.0},
        {"z_offset": np.inf},
    ],
)
def test_what_cannot_be_applied_is_refused(values):
    with pytest.raises(RangeError, match=next(iter(values)).replace("min_range", "range")):
        Placement(**values)
