"""Projection, depth order, point size, shaded edges."""

import numpy as np
import pytest

from pcsparse.view.splat import Frame, Projection, birds_eye, paint, perspective, ring_step

RED, BLUE = (200, 0, 0), (0, 0, 200)


def _projection(column, row, depth, radius):
    n = len(depth)
    arrays = (np.array(v, np.float64) for v in (column, row, depth, depth, radius, np.zeros(n)))
    return Projection(*arrays, source=np.arange(n))


def _painted(projection, colors, size=20):
    canvas = np.full((size, size, 3), 9, np.uint8)
    image = paint(projection, np.array(colors, np.uint8), canvas)
    assert (canvas == 9).all()
    return image


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_point_is_seen_whatever_the_order(order):
    colors = np.array([RED, BLUE])[list(order)]
    image = _painted(_projection([10, 10], [10, 10], np.array([1.0, 5.0])[list(order)], [2, 2]), colors)
    assert image[10, 10].tolist() == list(RED)


def test_a_far_point_fills_what_the_near_one_leaves():
    image = _painted(_projection([10, 10], [10, 10], [1.0, 1.1], [1, 4]), [RED, BLUE])
    assert image[10, 10, 0] > 0
    assert image[10, 13, 2] > 0
    assert image[10, 16].tolist() == [9, 9, 9]


@pytest.mark.parametrize(("column", "row"), [(8, 10), (12, 10), (10, 8), (10, 12)])
def test_a_far_disc_does_not_cover_a_near_point(column, row):
    image = _painted(_projection([10, column], [10, row], [1.0, 5.0], [0.8, 4]), [RED, BLUE])
    assert image[10, 10].tolist() == list(RED)
    assert image[row, column, 2] > 0


@pytest.mark.parametrize("radius", [0.8, 2, 5])
def test_points_are_discs_of_their_radius(radius):
    image = _painted(_projection([10.5], [10.5], [1.0], [radius]), [RED])
    row, column = np.nonzero(image[:, :, 0] == 200)
    distance = np.hypot(row - 10, column - 10)
    assert distance.max() <= radius
    assert len(row) == sum(dx * dx + dy * dy <= radius**2 for dx in range(-9, 10) for dy in range(-9, 10))


@pytest.mark.parametrize("at", [(-0.5, 10), (10, 20.5), (-50, -50), (1e9, 3)])
def test_points_at_and_beyond_the_edge(at):
    image = _painted(_projection([at[0]], [at[1]], [1.0], [3]), [RED])
    near = abs(at[0]) < 30 and abs(at[1]) < 30
    assert bool((image[:, :, 0] == 200).any()) == near


def test_an_edge_before_a_far_surface_is_dark_and_a_flat_surface_is_not():
    column, row = (a.ravel() + 0.5 for a in np.meshgrid(np.arange(20), np.arange(20)))
    flat = _painted(_projection(column, row, np.full(400, 5.0), np.full(400, 0.8)), [BLUE] * 400)
    assert (flat[:, :, 2] == 200).all()
    depth = np.where(column < 10, 1.0, 5.0)
    stepped = _painted(_projection(column, row, depth, np.full(400, 0.8)), [BLUE] * 400)
    # the far side of the step is in the shade, the near side is not
    assert stepped[10, 10, 2] < 150
    assert stepped[10, 9, 2] == 200
    assert stepped[10, 15, 2] == 200


class TestFrame:
    def test_a_sweep_is_centred_on_the_sensor(self):
        rng = np.random.default_rng(0)
        points = rng.uniform([-30, -20, -2], [50, 20, 3], (5000, 3))
        frame = Frame.of(points)
        assert frame.center[:2] == (0.0, 0.0)
        assert frame.center[2] == pytest.approx(-1.75, abs=0.1)
        distance = np.hypot(points[:, 0], points[:, 1])
        assert (distance < frame.reach).mean() == pytest.approx(0.94, abs=0.01)

    def test_a_cloud_elsewhere_is_centred_on_itself(self):
        points = np.random.default_rng(0).uniform([400, 90, 0], [500, 110, 9], (5000, 3))
        assert Frame.of(points).center[0] == pytest.approx(450, abs=2)

    @pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros((1, 3)), np.full((9, 3), 5.0)])
    def test_degenerate_clouds_have_a_frame(self, points):
        frame = Frame.of(points)
        assert frame.reach > 0
        assert perspective(points, frame, 40, 20).column.shape == birds_eye(points, frame, 20, 20).row.shape


def test_birds_eye_has_x_up_and_y_left():
    frame = Frame((0.0, 0.0, 0.0), 10.0)
    view = birds_eye(np.array([[0.0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 3]]), frame, 100, 100)
    assert (view.column[0], view.row[0]) == (50, 50)
    assert (view.column[1], view.row[1]) == (50, 25)
    assert (view.column[2], view.row[2]) == (25, 50)
    # the higher point hides the lower one
    assert view.depth[3] < view.depth[0]


def test_perspective_looks_forward_and_shrinks_with_distance():
    frame = Frame((0.0, 0.0, -1.7), 40.0)
    points = np.array([[20.0, 0, -1.7], [20, 6, -1.7], [20, 0, 3], [60, 0, -1.7], [-100, 0, 0]])
    view = perspective(points, frame, 200, 100)
    centre, left, above, far = range(4)
    assert view.source.tolist() == [0, 1, 2, 3]
    assert view.column[centre] == pytest.approx(100)
    assert view.column[left] < view.column[centre]
    assert view.row[above] < view.row[centre]
    assert view.row[far] < view.row[centre]
    assert view.depth[far] > view.depth[centre]
    assert view.radius[far] <= view.radius[centre]
    assert view.haze[far] >= view.haze[centre] == 0


@pytest.mark.parametrize(("reach", "step"), [(30, 10), (26, 5), (14.9, 2), (3.1, 1), (0.35, 0.1), (700, 200)])
def test_ring_steps_are_round_numbers(reach, step):
    assert ring_step(reach) == pytest.approx(step)
