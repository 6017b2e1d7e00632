"""A picture of a cloud without a display: perspective and bird's eye side by side, title and legend."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.errors import RangeError, ShapeError
from pcsparse.view.box_edges import edge_points
from pcsparse.view.page_sweep import Box
from pcsparse.view.palette import Legend, Ramp, class_colors, legible
from pcsparse.view.sheet import MARGIN, THEMES, Sheet, Theme
from pcsparse.view.splat import SUPERSAMPLING, Frame, birds_eye, paint, perspective, ring_step

Background = Literal["dark", "light"]

_MIN_WIDTH = 640
# of the whole picture's width, between two points of an edge: they touch from above, and in perspective as
# near as anything is drawn
_EDGE_PIXELS = 2


def draw(
    points: npt.NDArray[np.floating],
    colors: npt.NDArray[np.uint8],
    *,
    legend: Legend = (),
    title: str = "",
    background: Background = "dark",
    width: int = 1920,
    boxes: Sequence[Box] = (),
    box_colors: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw a cloud from behind and from above. The same input gives the same pixels.

    Points that are not finite are left out. The frame holds 94 of 100 of the rest.

    Args:
        points: (n, 3), metres, x forward, y left, z up.
        colors: (n, 3) uint8, RGB (`palette.class_colors`, `palette.height_colors`, `palette.value_colors`).
        legend: what the colours mean, as those functions return it.
        title: one line; cut where it is too long.
        background: dark or light. Colours too close to it are moved away from it, in the legend too.
        width: pixels; the height follows from it and from the legend.
        boxes: drawn by their edges, which points before them hide; the frame is that of the points.
        box_colors: (len(boxes), 3) uint8, RGB; None for one colour that no class has.

    Returns:
        (h, width, 3) uint8, RGB.

    Raises:
        ShapeError: `points` or `colors` is not (n, 3), or there is not a colour a box.
        RangeError: unknown background, or width below 640.
        UnsupportedError: Pillow is missing; the text names the extra `view`.
    """
    _check(points, colors, background, width)
    theme = THEMES[background]
    # first, so that a missing Pillow is told before the work
    sheet = Sheet(width, theme)
    finite = np.isfinite(points).all(axis=1)
    points, colors = points[finite], legible(colors[finite], theme.panel)
    frame = Frame.of(points)
    n_points = len(points)
    step = _EDGE_PIXELS * frame.reach / width
    points, colors = _with_boxes(points, colors, boxes, box_colors, step, theme)

    inner = width - 3 * MARGIN
    side = int(0.42 * inner)
    left, right = _panel(theme, inner - side, side), _panel(theme, side, side)
    _rings(right, frame, theme)
    sheet.title(title, f"{n_points:,} points")
    sheet.panels(
        _averaged(paint(perspective(points, frame, left.shape[1], left.shape[0]), colors, left)),
        _averaged(paint(birds_eye(points, frame, right.shape[1], right.shape[0]), colors, right)),
    )
    sheet.ring_labels(frame.reach, ring_step(frame.reach), side)
    if isinstance(legend, Ramp):
        sheet.ramp(legend)
    else:
        sheet.classes(legend)
    return sheet.pixels()


def draw_classes(
    points: npt.NDArray[np.floating],
    targets: npt.NDArray[np.integer],
    names: Sequence[str],
    palette: npt.NDArray[np.uint8],
    *,
    title: str = "",
    background: Background = "dark",
    width: int = 1920,
) -> npt.NDArray[np.uint8]:
    """Draw a cloud coloured by class, with a legend of the classes that occur and their shares.

    Args:
        points: (n, 3), metres.
        targets: (n,) class numbers, -1 for points without a class.
        names: of the classes.
        palette: (len(names), 3) RGB.
        title: one line.
        background: dark or light.
        width: pixels.

    Returns:
        (h, width, 3) uint8, RGB.

    Raises:
        ShapeError: lengths differ.
        RangeError: a class number without a name; see `draw`.
    """
    colors, legend = class_colors(targets, names, palette)
    return draw(points, colors, legend=legend, title=title, background=background, width=width)


def save_png(path: str | Path, image: npt.NDArray[np.uint8]) -> None:
    """Write a picture, whole or not at all: to a temporary name in the same folder, then renamed.

    Args:
        path: the `.png` file; its folder is made where it is missing.
        image: (h, w, 3) uint8, RGB.

    Raises:
        ShapeError: `image` is not (h, w, 3) uint8.
        UnsupportedError: Pillow is missing; the text names the extra `view`.
    """
    path = Path(path)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(f"a picture must be (h, w, 3) uint8, got {image.shape} {image.dtype}")
    pillow: Any = require_extra("PIL.Image", "view")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pillow.fromarray(image).save(temporary, format="PNG", compress_level=6)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(points: npt.NDArray, colors: npt.NDArray, background: str, width: int) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape:
        raise ShapeError(f"points and colors must both be (n, 3), got {points.shape} and {colors.shape}")
    if background not in THEMES:
        raise RangeError(f"background must be one of {', '.join(THEMES)}, got {background!r}")
    if width < _MIN_WIDTH:
        raise RangeError(f"width must be at least {_MIN_WIDTH} pixels, got {width}")


def _with_boxes(
    points: npt.NDArray[np.floating],
    colors: npt.NDArray[np.uint8],
    boxes: Sequence[Box],
    box_colors: npt.NDArray[np.uint8] | None,
    step: float,
    theme: Theme,
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.uint8]]:
    """Points and colours, those of the edges of boxes behind them."""
    if box_colors is None:
        box_colors = np.broadcast_to(np.array(theme.box, np.uint8), (len(boxes), 3))
    if box_colors.shape != (len(boxes), 3):
        raise ShapeError(f"box_colors must be ({len(boxes)}, 3), a colour a box, got {box_colors.shape}")
    if not boxes:
        return points, colors
    edges, owners = edge_points(boxes, step)
    drawn = legible(box_colors, theme.panel)[owners]
    return np.concatenate([points.astype(np.float64), edges]), np.concatenate([colors, drawn])


def _panel(theme: Theme, width: int, height: int) -> npt.NDArray[np.uint8]:
    shape = (height * SUPERSAMPLING, width * SUPERSAMPLING, 3)
    return np.broadcast_to(np.array(theme.panel, dtype=np.uint8), shape).copy()


def _averaged(fine: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    s = SUPERSAMPLING
    height, width = fine.shape[0] // s, fine.shape[1] // s
    total = np.zeros((height, width, 3), dtype=np.uint16)
    for dy in range(s):
        for dx in range(s):
            total += fine[dy::s, dx::s]
    return (total // (s * s)).astype(np.uint8)


def _rings(panel: npt.NDArray[np.uint8], frame: Frame, theme: Theme) -> None:
    """Draw range rings and the centre into a bird's-eye panel."""
    side = panel.shape[0]
    scale, step = 0.5 * side / frame.reach, ring_step(frame.reach)
    axis = np.arange(side) + 0.5 - 0.5 * side
    distance = np.hypot(axis[:, None], axis[None, :])
    for i in range(1, int(frame.reach / step) + 1):
        panel[np.abs(distance - i * step * scale) < 0.5 * SUPERSAMPLING] = theme.line
    panel[distance < 3 * SUPERSAMPLING] = theme.faint
