"""The comparison of simulated and real sweeps as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcsparse.bench.figures import save_figure
from pcsparse.checks import require_extra
from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.band import Verdict
from pcsparse.data.synthetic.figures import Turn
from pcsparse.data.synthetic.sensor import Sensor
from pcsparse.programs.synth_compare_measure import Comparison, Measured

_BAND, _REAL, _INSIDE, _OUTSIDE = "#cfe3d4", "#1a1a1a", "#15803d", "#c2410c"
# in widths of the band beyond its ends; what lies further is drawn at the edge
_MARGIN = 1.0
_BEV_METRES = 40.0
_SIDE_BY_SIDE = 3


def _figure(width: float, height: float) -> Any:
    require_extra("matplotlib", "view")
    # not pyplot: that would pick a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_bands(comparison: Comparison, path: Path) -> None:
    """Write a PNG: a strip a figure, the real band in the middle, the simulated sweeps as dots over it.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    half = -(-len(comparison.verdicts) // 2)
    figure = _figure(19.0, 1.5 + 0.3 * half)
    axes = figure.subplots(1, 2)
    for axis, part in zip(axes, (comparison.verdicts[:half], comparison.verdicts[half:]), strict=True):
        _strips(axis, part, half)
    figure.suptitle(
        f"{len(comparison.simulated)} simulated {comparison.sensor.name} sweeps (dots, mean: bar) against "
        f"{len(comparison.real)} real ones (black) and their band widened by a tenth (green)",
        fontsize=11,
    )
    save_figure(figure, path)


def _strips(axis: Any, verdicts: Sequence[Verdict], rows: int) -> None:
    jitter = np.random.default_rng(0)
    for row, verdict in enumerate(verdicts):
        width = max(verdict.high - verdict.low, 1e-9)

        def place(values: Sequence[float], low: float = verdict.low, width: float = width) -> Floats:
            return np.clip((np.array(values) - low) / width, -_MARGIN, 1 + _MARGIN)

        colour = _INSIDE if verdict.holds else _OUTSIDE
        axis.barh(row, 1.0, left=0.0, height=0.7, color=_BAND, zorder=0)
        dots = place(verdict.simulated)
        axis.plot(
            dots, row + jitter.uniform(-0.25, 0.25, len(dots)), ".", color=colour, alpha=0.45, markersize=4
        )
        axis.plot(place([verdict.mean]), [row], "|", color=colour, markersize=13, markeredgewidth=2.5)
        axis.plot(place(verdict.real), [row] * len(verdict.real), "D", color=_REAL, markersize=3.5)
        told = f"{verdict.figure.text(verdict.low)} .. {verdict.figure.text(verdict.high)}"
        axis.text(1.03 + _MARGIN, row, f"{told} {verdict.figure.unit}", fontsize=7, va="center")
    axis.set_yticks(range(len(verdicts)), [verdict.figure.name for verdict in verdicts], fontsize=7.5)
    for label, verdict in zip(axis.get_yticklabels(), verdicts, strict=True):
        label.set_color(_INSIDE if verdict.holds else _OUTSIDE)
    axis.set_ylim(rows - 0.4, -0.6)
    axis.set_xlim(-_MARGIN - 0.05, 1 + _MARGIN + 0.02)
    axis.set_xticks([0, 1], ["least", "most"], fontsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)


def draw_sweeps(comparison: Comparison, path: Path) -> None:
    """Write a PNG: range, intensity and the view from above of real sweeps (left) and simulated ones (right).

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    real = [sweep for sweep in comparison.real if sweep.turn is not None][:_SIDE_BY_SIDE]
    simulated = [sweep for sweep in comparison.simulated if sweep.turn is not None][:_SIDE_BY_SIDE]
    rows = max(len(real), len(simulated))
    figure = _figure(19.0, 9.0 * rows)
    grid = figure.add_gridspec(3 * rows, 2, height_ratios=[1, 1, 4] * rows)
    for column, sweeps in enumerate((real, simulated)):
        for row, sweep in enumerate(sweeps):
            axes = [figure.add_subplot(grid[3 * row + part, column]) for part in range(3)]
            _sweep(axes, sweep, comparison.sensor, "real" if column == 0 else "simulated")
    save_figure(figure, path)


def _sweep(axes: Sequence[Any], sweep: Measured, sensor: Sensor, kind: str) -> None:
    turn = sweep.turn
    if turn is None:
        return
    distance = np.linalg.norm(turn.points, axis=1)
    for axis, values, most, name in (
        (axes[0], distance, 50.0, "range to 50 m"),
        (axes[1], turn.intensity, 0.7, "intensity to 0.7"),
    ):
        axis.imshow(
            range_image(turn, sensor, values),
            aspect="auto",
            cmap="turbo",
            vmin=0,
            vmax=most,
            interpolation="none",
        )
        axis.set_title(f"{kind}: {sweep.name}, {name}", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    near = (np.abs(turn.points[:, :2]) < _BEV_METRES).all(1)
    points = turn.points[near]
    axes[2].scatter(
        -points[:, 1], points[:, 0], c=points[:, 2], s=0.25, cmap="turbo", vmin=-2.2, vmax=3.0, linewidths=0
    )
    axes[2].set_facecolor("#101418")
    axes[2].set_aspect("equal")
    axes[2].set_xlim(-_BEV_METRES, _BEV_METRES)
    axes[2].set_ylim(-_BEV_METRES, _BEV_METRES)
    axes[2].set_title(f"{kind}: {sweep.name}, height from above, ahead is up, metres", fontsize=8)


def range_image(turn: Turn, sensor: Sensor, values: Floats) -> Floats:
    """(rings, columns / 2) float64: the smallest value per beam and double azimuth step, NaN where none is.

    Args:
        turn: n points.
        sensor: whose turn.
        values: (n,).
    """
    columns = sensor.columns // 2
    azimuth = np.arctan2(turn.points[:, 1], turn.points[:, 0])
    # ahead in the middle, the left side on the left
    column = ((0.5 - azimuth / (2 * np.pi)) * columns).astype(np.int64).clip(0, columns - 1)
    image = np.full((sensor.rings, columns), np.inf)
    np.minimum.at(image, (turn.ring, column), values)
    return np.where(np.isinf(image), np.nan, image)
