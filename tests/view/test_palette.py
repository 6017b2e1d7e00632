"""Colours and legends."""

import numpy as np
import pytest

from pcsparse.errors import RangeError, ShapeError
from pcsparse.view.palette import UNLABELLED, Ramp, class_colors, height_colors, legible, value_colors

NAMES = ("road", "car", "tree")
COLORS = np.array([[255, 0, 255], [100, 150, 245], [0, 175, 0]], np.uint8)


def test_points_take_their_class_colour_and_the_legend_lists_those_there():
    colors, legend = class_colors(np.array([2, 0, 2, -1, 2]), NAMES, COLORS)
    np.testing.assert_array_equal(colors, [COLORS[2], COLORS[0], COLORS[2], UNLABELLED, COLORS[2]])
    assert [(e.name, e.color, e.share) for e in legend] == [
        ("tree", (0, 175, 0), 0.6),
        ("road", (255, 0, 255), 0.2),
        ("unlabelled", UNLABELLED, 0.2),
    ]


def test_no_points_no_legend():
    colors, legend = class_colors(np.zeros(0, np.int64), NAMES, COLORS)
    assert colors.shape == (0, 3)
    assert legend == ()


@pytest.mark.parametrize("wrong", [-2, 3])
def test_class_without_a_name(wrong):
    with pytest.raises(RangeError, match=rf"-1 \.\.\. 2, got .*{wrong}"):
        class_colors(np.array([0, wrong]), NAMES, COLORS)


def test_palette_must_fit_the_names():
    with pytest.raises(ShapeError, match=r"\(3, 3\) for 3 names, got \(2, 3\)"):
        class_colors(np.array([0]), NAMES, COLORS[:2])


def test_ramp_runs_from_end_to_end():
    ramp = Ramp("height (m)", -2.0, 2.0)
    low, middle, high, below, above, hole = ramp.colors(np.array([-2, 0, 2, -9, 9, np.nan]))
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert middle[1] > 180
    np.testing.assert_array_equal((below, above, hole), (low, high, low))
    # a flat cloud has one colour and no division by zero
    assert len(np.unique(Ramp("", 1.0, 1.0).colors(np.ones(4)), axis=0)) == 1


def test_value_colours_ignore_outliers_and_invalid_points():
    values = np.append(np.linspace(0, 1, 1000), [1e6, np.nan])
    _, ramp = value_colors(values, "intensity")
    assert 0 <= ramp.low < 0.05
    assert 0.95 < ramp.high <= 1
    points = np.zeros((100, 3))
    points[:, 2] = np.arange(100)
    colors, ramp = height_colors(points)
    assert ramp.label == "height (m)"
    np.testing.assert_array_equal(colors, ramp.colors(points[:, 2]))
    assert value_colors(np.zeros(0), "none")[0].shape == (0, 3)


@pytest.mark.parametrize("background", [(20, 23, 29), (246, 247, 249)], ids=["dark", "light"])
def test_legible_colours_differ_from_the_background(background):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (200, 3)).astype(np.uint8)
    colors[0] = background
    weights = np.array([0.299, 0.587, 0.114])
    shown = legible(colors, background)
    contrast = np.abs(shown @ weights - np.dot(background, weights))
    assert contrast.min() > 59
    # what was legible stays as it was
    fine = np.abs(colors @ weights - np.dot(background, weights)) > 61
    np.testing.assert_array_equal(shown[fine], colors[fine])
