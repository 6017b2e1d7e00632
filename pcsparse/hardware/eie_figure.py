"""The sweeps of EIE as one picture, drawn without a display."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pcsparse.checks import require_extra
from pcsparse.hardware.eie_report import PUBLISHED_DEPTH, PUBLISHED_PES, PUBLISHED_WIDTH, width_energies
from pcsparse.hardware.eie_study import DEPTHS, PES, WIDTHS, LayerCurves, LayerResult
from pcsparse.whole_file import whole_file

# Alex in blues, VGG in oranges, NeuralTalk in greens, the one apart in black
_COLOURS = ("#1e3a8a", "#3b82f6", "#93c5fd", "#7c2d12", "#ea580c", "#fdba74", "#111111", "#15803d", "#86efac")
_MARKS = ("o", "s", "^", "o", "s", "^", "X", "s", "^")


def eie_figure(results: Sequence[LayerResult], curves: Sequence[LayerCurves], path: Path) -> None:
    """Six panels: queues, SRAM width, speed-up, padding, load balance, and the nine layers beside the paper.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    require_extra("matplotlib", "view")
    # not pyplot: that would pick a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 8.0), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    (depth, width, speed), (work, balance, layers) = figure.subplots(2, 3)
    _lines(depth, DEPTHS, curves, lambda c: c.efficiency, PUBLISHED_DEPTH)
    _label(depth, "Fig. 8: depth of the queues, 64 PEs", "queue depth", "cycles with an entry / all cycles")
    _widths(width, curves)
    _lines(speed, PES, curves, lambda c: c.speedup, PUBLISHED_PES)
    speed.plot(PES, PES, color="#000000", linestyle=":", linewidth=1, zorder=3, label="linear")
    speed.set_yscale("log", base=2)
    speed.set_yticks(PES, [str(n) for n in PES])
    _label(speed, "Fig. 11: speed-up", "PEs", "over one PE")
    _lines(work, PES, curves, lambda c: c.real_work, PUBLISHED_PES)
    _label(work, "Fig. 12: work that is no padding", "PEs", "weights / entries")
    _lines(balance, PES, curves, lambda c: c.balance, PUBLISHED_PES)
    _label(
        balance,
        f"Fig. 13: load balance, queues of {PUBLISHED_DEPTH}",
        "PEs",
        "cycles with an entry / all cycles",
    )
    for axes in (depth, work, balance):
        axes.set_ylim(0, 1.03)
    _bars(layers, results)
    handles, names = speed.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _lines(
    axes: Any,
    xs: Sequence[int],
    curves: Sequence[LayerCurves],
    values: Callable[[LayerCurves], Sequence[float]],
    chosen: int,
) -> None:
    axes.axvline(chosen, color="#bbbbbb", linewidth=1, zorder=0)
    for i, curve in enumerate(curves):
        look = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKS[i % len(_MARKS)]}
        axes.plot(xs, values(curve), label=curve.name, markersize=4, linewidth=1.2, **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [str(x) for x in xs])


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)


def _widths(axes: Any, curves: Sequence[LayerCurves]) -> None:
    fresh, kept = width_energies(curves), width_energies(curves, kept=True)
    at = range(len(WIDTHS))
    colours = ["#3b82f6" if width == PUBLISHED_WIDTH else "#bcd3f5" for width in WIDTHS]
    axes.bar(at, fresh, width=0.62, color=colours, label="each column reads anew")
    axes.plot(at, kept, color="#ea580c", marker="o", markersize=4, label="the row read last is kept")
    for i, value in enumerate(fresh):
        axes.annotate(f"{value:.1f}", (i, value), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(at, [str(width) for width in WIDTHS])
    axes.legend(fontsize=8, loc="upper left")
    _label(
        axes, "Fig. 9: width of the sparse-matrix SRAM", "bits a read", "uJ of its reads, all layers (CACTI)"
    )


def _bars(axes: Any, results: Sequence[LayerResult]) -> None:
    at = range(len(results))
    ours = [result.ratio for result in results]
    paper = [result.layer.actual_us / result.layer.theory_us for result in results]
    axes.bar([i - 0.2 for i in at], ours, width=0.38, color="#3b82f6", label="simulated")
    axes.bar([i + 0.2 for i in at], paper, width=0.38, color="#c4c4c4", label="published")
    axes.set_ylim(0.9, 1.7)
    axes.set_xticks(at, [result.layer.name for result in results], rotation=45, ha="right", fontsize=8)
    axes.legend(fontsize=8, loc="upper left")
    _label(axes, "Actual over theoretical time, 64 PEs", "", "")
