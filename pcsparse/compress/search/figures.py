"""Searches as one picture: what each found in the course of its evaluations, and score over cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcsparse.checks import require_extra
from pcsparse.compress.search.trials import SearchResult
from pcsparse.errors import RangeError
from pcsparse.whole_file import whole_file

_COLOURS = ("#0b5cad", "#c2410c", "#3f8f4f", "#8a5fb0", "#b08d2e", "#7a7a7a", "#111111")


def search_figure(results: Sequence[SearchResult], path: Path, *, title: str = "") -> None:
    """Draw searches of one space side by side, as PNG and without a display.

    To the left a dot a rollout and the highest reward so far as a line; probes, which exceed the budget, are
    no part of it, but take their place on the axis. To the right score over cost with the front that all
    trials of a search make, and the budgets as lines.

    Args:
        results: of one space, so that costs compare.
        path: of the picture, written whole or not at all.
        title: over it.

    Raises:
        RangeError: no results, or costs in different units.
        UnsupportedError: matplotlib is not installed.
    """
    units = {result.unit for result in results}
    if len(units) != 1:
        raise RangeError(f"a figure shows searches with costs in one unit, got {sorted(units)}")
    require_extra("matplotlib", "view")
    # not pyplot: that would pick a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 5.4), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    rewards, front = figure.subplots(1, 2)
    for i, result in enumerate(results):
        colour = _COLOURS[i % len(_COLOURS)]
        label = f"{result.method}, seed {result.seed}"
        _rewards(rewards, result, colour, label)
        _front(front, result, colour, label)
    for budget in sorted({result.budget for result in results}):
        front.axvline(budget, color="#bbbbbb", linewidth=1, zorder=0)
    _label(rewards, "Reward", "rollouts", "reward: each, and the highest so far")
    _label(front, "Cost and score; lines: budgets", f"cost ({units.pop()})", "score")
    handles, names = rewards.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(len(names), 6), fontsize=8, frameon=False
    )
    if title:
        figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _rewards(axes: Any, result: SearchResult, colour: str, label: str) -> None:
    shown = [trial for trial in result.trials if not trial.probe]
    at = [trial.index + 1 for trial in shown]
    values = [trial.reward for trial in shown]
    axes.scatter(at, values, s=7, color=colour, alpha=0.35, linewidths=0)
    # a search that asks once has no line
    axes.step(at, np.maximum.accumulate(values), where="post", color=colour, linewidth=1.4, label=label,
              marker="o" if len(shown) == 1 else None)  # fmt: skip


def _front(axes: Any, result: SearchResult, colour: str, label: str) -> None:
    able = [trial for trial in result.trials if trial.score is not None]
    axes.scatter(
        [t.cost for t in able], [t.counted_score for t in able], s=7, color=colour, alpha=0.25, linewidths=0
    )
    front = result.pareto()
    axes.plot(
        [t.cost for t in front], [t.counted_score for t in front], color=colour, marker="o", markersize=3,
        linewidth=1.2, label=label,
    )  # fmt: skip


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)
