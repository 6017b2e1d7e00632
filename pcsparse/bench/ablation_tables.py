"""Tables of the ablations: groupings of gather-GEMM-scatter, row orders of a sorted implicit GEMM."""

import math
from collections.abc import Sequence

from pcsparse.bench.groupings import GroupingResult
from pcsparse.bench.limits import Limits
from pcsparse.bench.redundancy import RedundancyResult
from pcsparse.bench.tables import ms, name_failure, quartiles, table


def grouping_table(results: Sequence[GroupingResult], limits: Limits) -> str:
    """Fixed groupings, the grid's best and the default in rows; then padding and ms for each (epsilon, S)."""
    rows = [(result.name, result) for result in results if result.epsilon is None]
    grid = [result for result in results if result.epsilon is not None]
    if grid:
        best = min(grid, key=lambda result: math.inf if result.time is None else result.time.median)
        rows += [(f"best: {best.name}", best), (f"default: {grid[-1].name}", grid[-1])]
    lines = [
        (
            name,
            str(result.n_groups),
            str(result.n_batched),
            f"{result.padding:.1%}",
            *_grouping_time(result, limits),
        )
        for name, result in rows
    ]
    text = table(("grouping", "groups", "batched", "padding", "ms", "quartiles", "ms/floor"), lines)
    if grid:
        text += "\n\n" + _grid(grid[:-1])
    return text + "".join(
        f"\nFAILED  {result.name}: {name_failure(result.check)}" for result in results if result.time is None
    )


def _grouping_time(result: GroupingResult, limits: Limits) -> tuple[str, str, str]:
    if result.time is None:
        return "FAILED", "-", "-"
    return (
        ms(result.time.median),
        quartiles(result.time),
        f"{result.time.median / result.work.floor(limits):.1f}",
    )


def _grid(results: Sequence[GroupingResult]) -> str:
    thresholds = sorted({result.batch_below for result in results if result.batch_below is not None})
    epsilons = sorted({result.epsilon for result in results if result.epsilon is not None})
    cells = {(result.epsilon, result.batch_below): result for result in results}

    def cell(result: GroupingResult) -> str:
        return "FAILED" if result.time is None else f"{result.padding:.1%} {ms(result.time.median)}"

    rows = [(f"{epsilon:g}", *(cell(cells[epsilon, below]) for below in thresholds)) for epsilon in epsilons]
    return table(("epsilon \\ S (padding, ms)", *(str(below) for below in thresholds)), rows)


def redundancy_table(results: Sequence[RedundancyResult]) -> str:
    """Orders in rows, tile heights in columns: share of redundant multiply-adds, and run over useful ones."""
    tiles = sorted({result.tile for result in results})
    names = list(dict.fromkeys((result.order, result.splits) for result in results))
    cells = {(result.order, result.splits, result.tile): result for result in results}

    def cell(result: RedundancyResult) -> str:
        if result.share is None or result.overhead is None:
            return "FAILED"
        return f"{result.share:.1%} ({result.overhead:.2f}x)"

    labels = {"no masks": "all offsets, no masks", "none": "unsorted"}
    rows = [
        (labels.get(order, f"{order}, S={splits}"), *(cell(cells[order, splits, tile]) for tile in tiles))
        for order, splits in names
    ]
    text = table(("row order", *(f"tile {tile}" for tile in tiles)), rows)
    return text + "".join(
        f"\nFAILED  {name_failure(result.check)}" for result in results if not result.check.passed
    )
