"""The curves of a scan as one picture, drawn without a display, and as one page."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcsparse.checks import require_extra
from pcsparse.compress.sensitivity_table import Point, SensitivityTable
from pcsparse.whole_file import write_whole

_COLOURS = (
    "#0b5cad", "#ea580c", "#15803d", "#b91c1c", "#7e22ce", "#854d0e", "#0e7490", "#be185d", "#4b5563",
    "#65a30d",
)  # fmt: skip
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# more curves than this in one panel cannot be told apart
_MOST_CURVES = 10
_ACROSS = 3
# the line of the lecture
_GOOD_ENOUGH = 0.95


def sensitivity_figure(table: SensitivityTable, path: Path, title: str = "") -> None:
    """Write a PNG: the metric over the ratio, a curve a layer or group, a panel for those of one part.

    Intervals are shaded where sweeps were counted apart; crosses are evaluations that failed.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _png(table, title))


def sensitivity_page(
    table: SensitivityTable, path: Path, title: str = "", picture: bytes | None = None
) -> None:
    """Write one HTML file that needs no other: the picture, and every value in a table.

    Args:
        table: of a scan.
        path: of the file.
        title: over it.
        picture: what `sensitivity_figure` wrote, where that is there; drawn if None.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    shown = base64.b64encode(_png(table, "") if picture is None else picture).decode()
    name = html.escape(title or f"Sensitivity of {table.axis}")
    body = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{name}</h1>\n"
        "<p>One layer or group pruned at a time, nothing trained. "
        f"The network as it is: {table.dense.metric:.4f}. Shades say how much of that is left.</p>\n"
        f'<img alt="curves of the metric over the ratio" src="data:image/png;base64,{shown}">\n'
        f"{_html_table(table)}\n</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, body.encode())


_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2em;color:#181c22}img{max-width:100%}"
    "table{border-collapse:collapse;margin-top:1em}th,td{padding:.25em .6em;text-align:right;"
    "border-bottom:1px solid #d0d4da}th:first-child,td:first-child{text-align:left}"
    "caption{text-align:left;color:#68707c;padding-bottom:.4em}"
)


def _html_table(table: SensitivityTable) -> str:
    with_ms = any(point.ms is not None for point in table.points)
    columns = ["name", "size", "kept", "ratio", "metric", "interval", "loss", "ms"]
    head = "".join(f"<th>{text}</th>" for text in columns[: 8 if with_ms else 7])
    rows = []
    for points in table.curves.values():
        for point in points:
            metric = table.metric(point)
            left = min(1.0, max(0.0, metric / table.dense.metric)) if table.dense.metric > 0 else 0.0
            shade = f"background:rgba(11,92,173,{0.45 * left:.2f})"
            interval = table.interval(point)
            cells = [
                html.escape(point.name),
                str(point.size),
                str(point.kept),
                f"{point.ratio:.3f}",
                f"{metric:.4f}" + (" (failed)" if point.metric is None else ""),
                "" if interval is None else f"{interval[0]:.4f} … {interval[1]:.4f}",
                "" if point.loss is None else f"{point.loss:.4f}",
                "" if point.ms is None else f"{point.ms:.2f}",
            ][: 8 if with_ms else 7]
            styles = [f' style="{shade}"' if i == 4 else "" for i in range(len(cells))]
            rows.append(
                "<tr>" + "".join(f"<td{s}>{c}</td>" for s, c in zip(styles, cells, strict=True)) + "</tr>"
            )
    caption = "95 % intervals over sweeps, of the change against the dense network."
    return f"<table><caption>{caption}</caption>\n<tr>{head}</tr>\n" + "\n".join(rows) + "\n</table>"


def panels_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Names that are drawn together: those with one first part, of two parts where they are too many."""

    def split(parts: int, of: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in of:
            found.setdefault(".".join(name.split(".")[:parts]), []).append(name)
        return found

    panels: dict[str, list[str]] = {}
    for key, members in split(1, names).items():
        panels |= {key: members} if len(members) <= _MOST_CURVES else split(2, members)
    return panels


def legend_of(table: SensitivityTable, panel: str, name: str) -> str:
    """What a curve is called in its panel, whose title says what all names begin with."""
    return table.labels.get(name, name.removeprefix(f"{panel}."))


def _png(table: SensitivityTable, title: str) -> bytes:
    require_extra("matplotlib", "view")
    # not pyplot: that would pick a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = panels_of(list(table.curves))
    across = min(_ACROSS, max(len(panels), 1))
    down = -(-max(len(panels), 1) // across)
    figure = Figure(figsize=(4.6 * across, 3.2 * down + 0.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    for axes, (panel, names) in zip(all_axes, panels.items(), strict=False):
        _panel(axes, table, panel, names)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _panel(axes: Any, table: SensitivityTable, panel: str, names: Sequence[str]) -> None:
    axes.axhline(table.dense.metric, color="#111111", linewidth=0.9, linestyle="--")
    axes.axhline(_GOOD_ENOUGH * table.dense.metric, color="#9a9a9a", linewidth=0.9, linestyle=":")
    for i, name in enumerate(names):
        points = table.curves[name]
        xs = [0.0, *(point.ratio for point in points if point.ratio > 0)]
        ys = [table.dense.metric, *(table.metric(point) for point in points if point.ratio > 0)]
        colour = _COLOURS[i % len(_COLOURS)]
        label = legend_of(table, panel, name)
        axes.plot(
            xs, ys, color=colour, marker=_MARKS[i % len(_MARKS)], markersize=3, linewidth=1.1, label=label
        )
        _shade(axes, table, points, colour)
        failed = [point for point in points if point.metric is None]
        axes.scatter(
            [point.ratio for point in failed],
            [table.metric(point) for point in failed],
            marker="x",
            color=colour,
            s=40,
            zorder=4,
        )
    axes.set_title(panel, fontsize=9)
    axes.set_xlabel(f"share of {table.axis} removed", fontsize=8)
    axes.set_ylabel("metric", fontsize=8)
    axes.set_xlim(0, 1)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.2)
    axes.legend(fontsize=6, loc="lower left")


def _shade(axes: Any, table: SensitivityTable, points: Sequence[Point], colour: str) -> None:
    known = [(point.ratio, found) for point in points if (found := table.interval(point)) is not None]
    if known:
        xs, bounds = zip(*known, strict=True)
        lows, highs = zip(*bounds, strict=True)
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.12, linewidth=0)
