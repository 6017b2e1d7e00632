"""The whole picture: layout, determinism, bad input, the file."""

import subprocess
import sys

import numpy as np
import pytest

from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.view.box_edges import edge_points
from pcsparse.view.page_sweep import Box
from pcsparse.view.palette import height_colors
from pcsparse.view.raster import draw, draw_classes, save_png
from pcsparse.view.sheet import THEMES
from pcsparse.view.splat import Frame

Image = pytest.importorskip("PIL.Image")

NAMES = ("road", "car", "tree")
COLORS = np.array([[255, 0, 255], [100, 150, 245], [0, 175, 0]], np.uint8)
WIDTH = 800


def _street(n=6000):
    """A road, a car's box before the sensor and a tree on its left."""
    rng = np.random.default_rng(3)
    road = rng.uniform([-20, -4, -1.7], [20, 4, -1.7], (n, 3))
    car = rng.uniform([8, -1, -1.7], [12, 1, -0.2], (n, 3))
    tree = rng.uniform([5, 8, -1], [9, 12, 3], (n, 3))
    points = np.concatenate([road, car, tree]).astype(np.float32)
    return points, np.repeat([0, 1, 2], n)


def _has(image, rgb):
    return bool((np.abs(image.astype(int) - np.array(rgb)).max(axis=2) <= 1).any())


def test_panels_show_every_class_where_it_is():
    points, targets = _street()
    image = draw_classes(points, targets, NAMES, COLORS, title="a street", width=WIDTH)
    assert image.shape[1:] == (WIDTH, 3)
    assert image.dtype == np.uint8
    for color in COLORS:
        assert _has(image, color)
    # bird's eye, the right panel: the tree is on the left of the sensor, which is its middle
    side = int(0.42 * (WIDTH - 48))
    panel = image[58 : 58 + side, -16 - side : -16]
    rows, columns = np.nonzero((panel[:, :, 1] > 150) & (panel[:, :, 0] < 50) & (panel[:, :, 2] < 60))
    assert len(rows) > 50
    assert rows.max() < side / 2
    assert columns.max() < side / 2


def test_legend_lists_only_what_is_there_and_grows_with_it():
    points, targets = _street()
    names = [f"a rather long name {i}" for i in range(40)]
    colors = np.tile(COLORS, (14, 1))[:40]
    few = draw_classes(points, targets, names, colors, width=WIDTH)
    many = draw_classes(points, np.arange(len(points)) % 40, names, colors, width=WIDTH)
    bare = draw(points, np.full(points.shape, 200, np.uint8), width=WIDTH)
    assert many.shape[0] > few.shape[0] > bare.shape[0]
    legend = few[bare.shape[0] - 1 :]
    assert _has(legend, COLORS[0])


def test_edges_of_a_box_stand_where_it_is_and_behind_what_hides_them():
    points, _ = _street()
    gray = np.full(points.shape, 120, np.uint8)
    box = Box((-8.0, -6.0, -1.0), (4.0, 2.0, 1.5), 0.0)
    hidden = Box((10.0, 0.0, -3.0), (2.0, 1.0, 0.5), 0.0)
    bare = draw(points, gray, width=WIDTH)
    shown = draw(points, gray, width=WIDTH, boxes=[box], box_colors=np.array([[255, 40, 60]], np.uint8))
    side = int(0.42 * (WIDTH - 48))
    panel = (slice(58, 58 + side), slice(WIDTH - 16 - side, WIDTH - 16))
    rows, columns = np.nonzero((bare[panel] != shown[panel]).any(axis=2))
    # bird's eye: x up, y to the left, the middle is the sensor
    scale = 0.5 * side / Frame.of(points).reach
    assert rows.min() == pytest.approx(0.5 * side - scale * -5.2, abs=2)  # the line to where it heads
    assert rows.max() == pytest.approx(0.5 * side - scale * -10, abs=2)
    assert columns.min() == pytest.approx(0.5 * side - scale * -5, abs=2)
    assert columns.max() == pytest.approx(0.5 * side - scale * -7, abs=2)
    left = (slice(58, 58 + side), slice(16, WIDTH - 32 - side))
    ahead = Box((12.0, -6.0, -1.0), (4.0, 2.0, 1.5), 0.0)
    seen = draw(points, gray, width=WIDTH, boxes=[ahead])[left]
    assert _has(seen, THEMES["dark"].box)
    assert not _has(bare[left], THEMES["dark"].box)
    assert _has(draw(points, gray, width=WIDTH, boxes=[ahead], background="light")[left], THEMES["light"].box)
    # the title counts the cloud's points alone
    assert np.array_equal(bare[:58], shown[:58])
    below = draw(points, gray, width=WIDTH, boxes=[hidden])
    assert (below[panel] != bare[panel]).any(axis=2).sum() < 0.05 * (shown[panel] != bare[panel]).any(
        axis=2
    ).sum()
    with pytest.raises(ShapeError, match=r"box_colors must be \(1, 3\)"):
        draw(points, gray, boxes=[box], box_colors=np.zeros((2, 3), np.uint8))


def test_edges_are_close_rows_of_points_turned_with_the_box():
    box = Box((10.0, 5.0, 1.0), (4.0, 2.0, 1.0), np.pi / 2)
    points, owners = edge_points([box, box], 0.1)
    first = points[owners == 0]
    assert (owners == 1).sum() == len(first)
    # along y after a quarter turn; 0.8 m further on the ground to where it heads
    assert first.min(axis=0) == pytest.approx([9, 3, 0.5])
    assert first.max(axis=0) == pytest.approx([11, 7.8, 1.5])
    on = np.isclose(np.abs(first - [10, 5, 1]), [1, 2, 0.5]).sum(axis=1)
    # all but the 2.8 m to where it heads
    assert (on[29:] >= 2).all()
    gaps = np.linalg.norm(np.diff(first, axis=0), axis=1)
    # from one line to the next it jumps
    assert (gaps > 0.1 + 1e-9).sum() <= 12
    assert len(edge_points([Box((0, 0, 0), (1e6, 1, 1), 0.0)], 0.1)[0]) < 12000
    assert edge_points([], 0.1)[0].shape == (0, 3)


def test_same_input_same_bytes_in_another_process(tmp_path):
    points, targets = _street(500)
    np.savez(tmp_path / "in.npz", points=points, targets=targets, colors=COLORS)
    program = (
        "import numpy as np, sys\n"
        "from pcsparse.view.raster import draw_classes, save_png\n"
        "print([m for m in ('PIL', 'matplotlib', 'open3d') if m in sys.modules])\n"
        "f = np.load(sys.argv[1] + '/in.npz')\n"
        "names = ('road', 'car', 'tree')\n"
        "image = draw_classes(f['points'], f['targets'], names, f['colors'], title='x', width=640)\n"
        "save_png(sys.argv[1] + '/there.png', image)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # and nothing heavy came with the module
    assert printed.strip() == "[]"
    save_png(tmp_path / "here.png", draw_classes(points, targets, NAMES, COLORS, title="x", width=640))
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()


def test_backgrounds_differ_and_dark_colours_stay_visible():
    points, _ = _street()
    black = np.zeros(points.shape, np.uint8)
    dark, light = (draw(points, black, background=b, width=640) for b in ("dark", "light"))
    assert dark[-1, -1].max() < 30
    assert light[-1, -1].min() > 240
    # black points on a dark page are lifted: some pixels are much brighter than the panel
    assert (dark[60:300, 20:300].max(axis=2) > 60).mean() > 0.01


@pytest.mark.parametrize(
    "points",
    [np.zeros((0, 3)), np.zeros((1, 3)), np.full((4, 3), np.nan), np.array([[0, 0, 0], [0, 0, 1.0]])],
    ids=["empty", "one", "all invalid", "vertical"],
)
def test_degenerate_clouds(points):
    colors, ramp = height_colors(points)
    assert draw(points.astype(np.float32), colors, legend=ramp, width=640).shape[1] == 640


def test_invalid_points_are_left_out():
    points, targets = _street(500)
    holed = np.concatenate([points, np.full((3, 3), np.nan, np.float32), np.full((3, 3), np.inf, np.float32)])
    colors = COLORS[np.append(targets, np.zeros(6, int))]
    np.testing.assert_array_equal(draw(holed, colors, width=640), draw(points, colors[:-6], width=640))


def test_a_long_title_is_cut():
    points, targets = _street(100)
    long, longer = (
        draw_classes(points, targets, NAMES, COLORS, title="word " * n, width=640) for n in (200, 300)
    )
    np.testing.assert_array_equal(long, longer)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"colors": np.zeros((4, 3), np.uint8)}, ShapeError, r"\(5, 3\) and \(4, 3\)"),
        ({"points": np.zeros((5, 4))}, ShapeError, r"\(5, 4\)"),
        ({"background": "pink"}, RangeError, "dark, light, got 'pink'"),
        ({"width": 100}, RangeError, "at least 640 pixels, got 100"),
    ],
)
def test_refusals(change, error, said):
    given = {"points": np.zeros((5, 3)), "colors": np.zeros((5, 3), np.uint8)} | change
    with pytest.raises(error, match=said):
        draw(given.pop("points"), given.pop("colors"), **given)


def test_missing_pillow_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UnsupportedError, match=r"pcsparse\[view\]"):
        draw(np.zeros((1, 3)), np.zeros((1, 3), np.uint8))


def test_png_holds_the_pixels_and_is_written_whole(tmp_path, monkeypatch):
    image = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    save_png(tmp_path / "deep" / "a.png", image)
    with Image.open(tmp_path / "deep" / "a.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), image)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]
    with pytest.raises(ShapeError, match=r"\(8, 9\)"):
        save_png(tmp_path / "b.png", image[:, :, 0])

    def die(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", die)
    with pytest.raises(OSError, match="disk full"):
        save_png(tmp_path / "c.png", image)
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
