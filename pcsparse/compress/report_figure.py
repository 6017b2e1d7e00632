"""A compression in one picture: time and multiply-adds of each layer before and after, and scores."""

import io
from collections.abc import Sequence
from typing import Any

from pcsparse.checks import require_extra
from pcsparse.compress.measured import LayerPair
from pcsparse.compress.report_facts import Measured, ReportFacts

_BEFORE, _AFTER, _IDLE, _INK = "#b4bac4", "#0b5cad", "#c2410c", "#181c22"
_BAR = 0.38
_ROW_INCHES = 0.23


def report_png(facts: ReportFacts) -> bytes:
    """Draw it, as PNG and without a display.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    require_extra("matplotlib", "view")
    # not pyplot: that would pick a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = facts.measured
    height = max(6.0, _ROW_INCHES * len(found.layers) + 2.2)
    figure = Figure(figsize=(15.0, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3, width_ratios=(1.5, 1.0, 1.0))
    times = figure.add_subplot(grid[:, 0])
    _milliseconds(times, found)
    # below the bars, which may fill their panel
    handles, labels = times.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), fontsize=8, frameon=False)
    _macs(figure.add_subplot(grid[:, 1]), found.layers)
    _scores(figure.add_subplot(grid[0, 2]), found)
    _sweeps(figure.add_subplot(grid[1, 2]), found)
    warning = "\nthe machine was BUSY: these milliseconds are worth nothing" if found.busy else ""
    figure.suptitle(f"{facts.title}{warning}", fontsize=11, color=_IDLE if found.busy else _INK)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _rows(axes: Any, layers: Sequence[LayerPair]) -> None:
    """A row a layer, the first on top; idle ones in another colour."""
    axes.set_yticks(range(len(layers)), [_label(layer) for layer in layers], fontsize=7)
    for text, layer in zip(axes.get_yticklabels(), layers, strict=True):
        text.set_color(_IDLE if layer.idle else _INK)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _label(layer: LayerPair) -> str:
    name = layer.name if layer.kind == "conv" else f"{layer.name} ({layer.kind})"
    return f"! {name}" if layer.idle else name


def _bars(axes: Any, before: Sequence[float], after: Sequence[float]) -> None:
    places = range(len(before))
    axes.barh([place - _BAR / 2 for place in places], before, _BAR, color=_BEFORE, label="before")
    axes.barh([place + _BAR / 2 for place in places], after, _BAR, color=_AFTER, label="after")


def _milliseconds(axes: Any, found: Measured) -> None:
    layers = found.layers
    after = [0.0 if layer.after is None else 1e3 * layer.after.time.median for layer in layers]
    _bars(axes, [1e3 * layer.before.time.median for layer in layers], after)
    known = [(i, ms) for i, ms in enumerate(found.predicted) if ms is not None]
    axes.scatter([ms for _, ms in known], [i + _BAR / 2 for i, _ in known], marker="|", s=34, color=_INK,
                 linewidths=1.1, label="after, predicted", zorder=3)  # fmt: skip
    _rows(axes, layers)
    axes.set_xlabel("milliseconds, map there (median)", fontsize=8)
    marked = f"; ! = fewer multiply-adds, no less time ({found.n_idle})" if found.n_idle else ""
    axes.set_title(f"Time of each layer{marked}", fontsize=9)


def _macs(axes: Any, layers: Sequence[LayerPair]) -> None:
    after = [0.0 if layer.after is None else layer.after.macs / 1e6 for layer in layers]
    _bars(axes, [layer.before.macs / 1e6 for layer in layers], after)
    _rows(axes, layers)
    # the names stand at the left of the picture
    axes.set_yticklabels([])
    axes.set_xlabel("million multiply-adds", fontsize=8)
    axes.set_title("Multiply-adds of each layer", fontsize=9)


def _scores(axes: Any, found: Measured) -> None:
    for i, network in enumerate(found.networks):
        score = network.score
        errors = [[100 * (score.value - score.low)], [100 * (score.high - score.value)]]
        colour = _AFTER if network.smaller else "#6b7280"
        axes.errorbar([i], [100 * score.value], yerr=errors, fmt="o", color=colour, capsize=4, markersize=5)
        axes.annotate(f"{100 * score.value:.1f}", (i, 100 * score.value), xytext=(7, 0),
                      textcoords="offset points", fontsize=8, va="center")  # fmt: skip
    axes.set_xticks(range(len(found.networks)), [network.name for network in found.networks], fontsize=8)
    axes.set_xlim(-0.5, len(found.networks) - 0.3)
    axes.set_ylabel("per cent", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(axis="y", alpha=0.25)
    axes.set_title("Score with 95 % interval", fontsize=9)


def _sweeps(axes: Any, found: Measured) -> None:
    places = range(len(found.sweeps))
    for shift, colour, side in ((-_BAR / 2, _BEFORE, "before"), (_BAR / 2, _AFTER, "after")):
        maps = [1e3 * getattr(sweep, f"maps_{side}").median for sweep in found.sweeps]
        rest = [1e3 * getattr(sweep, side).median for sweep in found.sweeps]
        at = [place + shift for place in places]
        axes.bar(at, maps, _BAR, color=colour, alpha=0.45, hatch="///", edgecolor="white",
                 label=f"{side}: maps")  # fmt: skip
        axes.bar(at, rest, _BAR, bottom=maps, color=colour, label=f"{side}: network")
    axes.set_xticks(places, [f"{sweep.n_voxels:,}" for sweep in found.sweeps], fontsize=8)
    axes.set_xlabel("voxels of the sweep", fontsize=8)
    axes.set_ylabel("milliseconds", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.25)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_title("Whole networks", fontsize=9)
    axes.legend(fontsize=7, ncols=2, loc="upper left")
