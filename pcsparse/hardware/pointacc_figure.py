"""A run of PointAcc's model as one picture, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcsparse.checks import require_extra
from pcsparse.hardware.pointacc import PointAccRun
from pcsparse.hardware.pointacc_study import (
    CACHE_BYTES,
    CACHE_POINTS,
    WIDTHS,
    CacheCurve,
    MapComparison,
    WidthCurve,
)
from pcsparse.whole_file import whole_file

_BLUE, _ORANGE, _GREEN, _GREY = "#3b82f6", "#ea580c", "#15803d", "#9ca3af"
_PALE = "#bcd3f5"


def pointacc_figure(
    run: PointAccRun,
    maps: Sequence[MapComparison],
    widths: WidthCurve,
    cache: CacheCurve,
    points: Sequence[PointAccRun],
    path: Path,
) -> None:
    """Six panels: cycles and bytes by stage, merger and hash by map and width, cache by size, fusion.

    Args:
        run: of the sparse network.
        maps: of it.
        widths: of its largest map.
        cache: of one of its layers.
        points: networks with chains of linear layers.
        path: of the PNG.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    require_extra("matplotlib", "view")
    # not pyplot: that would pick a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.0, 8.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    (stages, moved, fused), (mapping, width, size) = figure.subplots(2, 3)
    _stages(stages, run)
    _moved(moved, run)
    _fused(fused, points)
    _maps(mapping, maps)
    _widths(width, widths)
    _sizes(size, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _stages(axes: Any, run: PointAccRun) -> None:
    at = range(len(run.stages))
    for values, colour, mark, name in (
        ([s.matrix_cycles for s in run.stages], _BLUE, "o", "matrix"),
        ([s.memory_cycles for s in run.stages], _ORANGE, "s", "memory"),
        ([s.mapping_cycles for s in run.stages], _GREEN, "^", "mapping of the next"),
    ):
        # a stage without mapping has no mark on a logarithmic axis
        shown = [(i, value / 1e3) for i, value in zip(at, values, strict=True) if value]
        axes.plot(
            [i for i, _ in shown],
            [v for _, v in shown],
            color=colour,
            marker=mark,
            markersize=3.5,
            linewidth=0.8 if name != "mapping of the next" else 0,
            label=name,
        )
    axes.set_yscale("log")
    _ticks(axes, [_short(stage.layers) for stage in run.stages])
    axes.legend(fontsize=8, loc="upper left")
    _label(axes, f"{run.network}, {run.chip.name} chip: {run.milliseconds:.1f} ms", "", "thousands of cycles")


def _moved(axes: Any, run: PointAccRun) -> None:
    layers = [layer for layer in run.layers if layer.cached is not None]
    at = range(len(layers))
    series = (
        ([layer.gathered.total if layer.gathered else 0 for layer in layers], _GREY, "gather and scatter"),
        ([layer.uncached.total if layer.uncached else 0 for layer in layers], _ORANGE, "on demand, no cache"),
        ([layer.cached.traffic.total if layer.cached else 0 for layer in layers], _BLUE, "on demand, cache"),
    )
    for values, colour, name in series:
        axes.bar(at, [value / 1e6 for value in values], width=0.8, color=colour, label=name)
    axes.set_yscale("log")
    _ticks(axes, [_short((layer.name,)) for layer in layers])
    axes.legend(fontsize=8, loc="upper left")
    _label(axes, "DRAM bytes of layers with a map", "", "MB, one in front of the other")


def _fused(axes: Any, points: Sequence[PointAccRun]) -> None:
    names, at = [], 0
    for run in points:
        for plan in run.plans:
            alone, fused = plan.alone_bytes / 1e3, plan.fused_bytes / 1e3
            axes.barh(at - 0.2, alone, height=0.38, color=_GREY, label="layer by layer" if not at else None)
            axes.barh(at + 0.2, fused, height=0.38, color=_BLUE, label="fused" if not at else None)
            axes.annotate(f" -{plan.saved:.0%}", (alone, at), va="center", fontsize=8)
            first, last = plan.alone[0].layers[0], plan.alone[-1].layers[0]
            # long names leave no room for bars
            network = run.network.replace("PointNet", "PN").replace("segmentation", "seg.")
            # a chain may go on into the head
            same = first.rpartition(".")[0] == last.rpartition(".")[0]
            names.append(f"{network} {first}..{last.rpartition('.')[2] if same else last}")
            at += 1
    axes.set_yticks(range(at), names, fontsize=8)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.legend(fontsize=8, loc="upper right")
    _label(axes, "Chains of linear layers of PointNets (PN): temporal fusion", "KB of DRAM", "")


def _maps(axes: Any, maps: Sequence[MapComparison]) -> None:
    at = range(len(maps))
    bars = (
        ([each.merged.steps for each in maps], -0.27, _PALE, "merger, keys on chip"),
        ([each.merged.cycles for each in maps], 0.0, _BLUE, "merger, chip's memory"),
        ([each.hashed.cycles for each in maps], 0.27, _GREY, "hash, all on chip"),
    )
    for values, shift, colour, name in bars:
        axes.bar([i + shift for i in at], [v / 1e3 for v in values], width=0.26, color=colour, label=name)
    for i, each in enumerate(maps):
        top = max(each.merged.cycles, each.hashed.cycles) / 1e3
        axes.annotate(f"{each.speedup:.2f}", (i, top), ha="center", va="bottom", fontsize=7)
    axes.set_yscale("log")
    _ticks(axes, [_short((each.name.removesuffix(" map"),)) for each in maps])
    axes.legend(fontsize=8, loc="upper right")
    _label(axes, "Kernel maps; on top hash / merger on chip", "", "thousands of cycles")


def _widths(axes: Any, curve: WidthCurve) -> None:
    for values, colour, mark, name in (
        (curve.steps, _PALE, "o", "merger, keys on chip"),
        (curve.cycles, _BLUE, "o", "merger, chip's memory"),
        (curve.hashed, _GREY, "s", "hash, all on chip"),
    ):
        axes.plot(WIDTHS, [v / 1e3 for v in values], color=colour, marker=mark, markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
    axes.legend(fontsize=8)
    _label(axes, f"{curve.name}: width", "keys a cycle, or banks", "thousands of cycles")


def _sizes(axes: Any, curve: CacheCurve) -> None:
    looks = zip(CACHE_POINTS, curve.inputs, (_BLUE, _GREEN, _ORANGE), strict=True)
    for points, values, colour in looks:
        name = f"blocks of {points} row" + ("s" if points > 1 else "")
        axes.plot(CACHE_BYTES, [v / 1e6 for v in values], color=colour, marker="o", markersize=4, label=name)
    axes.axhline(curve.uncached / 1e6, color="#111111", linestyle=":", linewidth=1, label="no cache")
    axes.axhline(curve.once / 1e6, color="#111111", linestyle="--", linewidth=1, label="each row once a pass")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(CACHE_BYTES, [f"{size // 1024}" for size in CACHE_BYTES])
    axes.legend(fontsize=8)
    _label(axes, f"{curve.name}: input buffer", "KB", "MB of input features")


def _ticks(axes: Any, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=5.5 if len(names) > 20 else 8)
    axes.margins(x=0.01)


def _short(layers: Sequence[str]) -> str:
    if not layers:
        return "start"
    return layers[0].replace("encoder", "enc").replace("decoder", "dec").replace("shortcut.0", "short")


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)
