"""Figures of a run: the roofline, and how cost grows. Both PNG, drawn without a display."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pcsparse.bench.limits import Limits
from pcsparse.bench.outcome import Result
from pcsparse.bench.report import Report
from pcsparse.bench.scaling import MAP, ScalingPoint
from pcsparse.checks import require_extra
from pcsparse.whole_file import whole_file

_OURS, _NARROW, _PEERS = "#0b5cad", "#c2410c", ("#7a7a7a", "#3f8f4f", "#8a5fb0", "#b08d2e")
_WIDTHS = ("#93c5fd", "#3b82f6", "#1e3a8a", "#f59e0b", "#c2410c", "#7a7a7a")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def roofline(report: Report, path: Path) -> None:
    """Operations a second over operations a byte, for every timed case with a floor.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    figure, axes = new_figure()
    results = [
        r for r in (*report.layers, *report.nets, *report.steps) if r.works and r.ours.time is not None
    ]
    _roofs(axes, report.limits, [_intensity(result) for result in results])
    peers = list(dict.fromkeys(peer.name for result in results for peer in result.peers))
    for i, name in enumerate(peers):
        timed = [(r, p.time) for r in results if (p := r.peer(name)) is not None and p.time is not None]
        if timed:
            axes.scatter(
                [_intensity(result) for result, _ in timed],
                [_operations(result) / time.median / 1e9 for result, time in timed],
                s=18, marker=_MARKS[1 + i % 6], color=_PEERS[i % 4], alpha=0.8, label=name, zorder=3,
            )  # fmt: skip
    for narrow, color, label in ((False, _OURS, "pcsparse float32"), (True, _NARROW, "pcsparse bfloat16")):
        ours = [(r, r.ours.time) for r in results if r.ours.time is not None and _is_narrow(r) == narrow]
        points = [(_intensity(r), _operations(r) / time.median / 1e9) for r, time in ours]
        if points:
            axes.scatter(*zip(*points, strict=True), s=42, color=color, label=label, zorder=4)
        for i, ((result, _), (x, y)) in enumerate(zip(ours, points, strict=True)):
            # neighbours in the list are often neighbours in the figure
            offset = (5, 4) if i % 2 == 0 else (5, -9)
            axes.annotate(
                _short(result.case), (x, y), offset, textcoords="offset points", fontsize=6, color=color
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte (input, output, weights and map once)")
    axes.set_ylabel("GFLOP/s")
    machine = f"{report.environment.cpu}, {report.environment.threads} threads"
    axes.set_title(f"Roofline, {machine}\n{report.cloud}", fontsize=9)
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=7, loc="lower right")
    save_figure(figure, path)


def _roofs(axes: Any, limits: Limits, intensities: Sequence[float]) -> None:
    low, high = min(intensities, default=1.0) / 2, max(intensities, default=100.0) * 2
    roofs = [("float32 multiply-add", limits.fma, _OURS)]
    if limits.dot is not None:
        roofs.append(("bfloat16 dot product", limits.dot, _NARROW))
    for name, peak, color in roofs:
        ridge = peak / limits.bandwidth
        xs = sorted({low, min(max(ridge, low), high), high})
        axes.plot(xs, [min(peak, x * limits.bandwidth) / 1e9 for x in xs], color=color, linewidth=1)
        axes.annotate(
            f"{name} {peak / 1e9:.0f} GFLOP/s", (high, peak / 1e9), (0, 3), textcoords="offset points",
            fontsize=7, ha="right", color=color,
        )  # fmt: skip


def _operations(result: Result) -> float:
    return sum(work.operations for work in result.works)


def _intensity(result: Result) -> float:
    return _operations(result) / sum(work.bytes for work in result.works)


def _is_narrow(result: Result) -> bool:
    return any(work.narrow for work in result.works)


_SHORT = (
    ("submanifold 3^3 ", ""),
    ("forward+backward", "f+b"),
    ("training step", "step"),
    ("with its map ", "+map "),
    (" bf16", ""),
    ("MinkUNet-", "U"),
)


def _short(case: str) -> str:
    for long, short in _SHORT:
        case = case.replace(long, short)
    return case


def scaling_figure(points: Sequence[ScalingPoint], title: str, path: Path) -> None:
    """Cost over voxels, a line a width; to the right the map.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    figure, (layers, maps) = new_figure(columns=2)
    widths = sorted({point.channels for point in points} - {MAP})
    for i, channels in enumerate(widths):
        color = _WIDTHS[i % len(_WIDTHS)]
        _line(layers, _of(points, channels), 1e12, f"C = {channels}", color)
    _line(maps, _of(points, MAP), 1e9, "map 3^3", _OURS)
    layers.set_ylabel("ps a pair, input channel and output channel")
    maps.set_ylabel("ns a pair")
    for axes in (layers, maps):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("voxels")
        axes.grid(alpha=0.2)
        axes.legend(fontsize=7)
    layers.set_title(title, fontsize=9)
    save_figure(figure, path)


def _of(points: Iterable[ScalingPoint], channels: int) -> list[ScalingPoint]:
    return sorted(
        (p for p in points if p.channels == channels and p.time is not None), key=lambda p: p.n_voxels
    )


def _line(axes: Any, points: Sequence[ScalingPoint], unit: float, label: str, color: Any) -> None:
    costs = [unit * (point.cost or 0.0) for point in points]
    axes.plot([point.n_voxels for point in points], costs, marker="o", markersize=3, label=label, color=color)


def new_figure(columns: int = 1) -> tuple[Any, Any]:
    """A figure and its axes, two of them side by side if `columns` is 2.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    require_extra("matplotlib", "view")
    # not pyplot: that would pick a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    widths = [2, 1] if columns == 2 else [1]
    return figure, figure.subplots(1, columns, gridspec_kw={"width_ratios": widths})


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
