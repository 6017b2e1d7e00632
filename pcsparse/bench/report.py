"""What a benchmark run leaves: tables as text, and a JSON file."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pcsparse.bench.groupings import GroupingResult
from pcsparse.bench.layers import Result
from pcsparse.bench.limits import Limits, floor_of
from pcsparse.bench.redundancy import RedundancyResult
from pcsparse.bench.verify import Check
from pcsparse.timing import Environment, Timing

FORMAT = 1


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        environment: where it ran.
        cloud: name of the cloud.
        n_points: its points.
        n_voxels: its voxels.
        n_pairs: pairs of its submanifold 3^3 map.
        voxel_size: metres.
        limits: of the machine.
        maps: kernel maps.
        layers: single convolutions.
        nets: whole networks.
        groupings: gather-GEMM-scatter.
        redundancy: sorted implicit GEMM.
    """

    environment: Environment
    cloud: str
    n_points: int
    n_voxels: int
    n_pairs: int
    voxel_size: float
    limits: Limits
    maps: tuple[Result, ...] = ()
    layers: tuple[Result, ...] = ()
    nets: tuple[Result, ...] = ()
    groupings: tuple[GroupingResult, ...] = ()
    redundancy: tuple[RedundancyResult, ...] = ()

    def failures(self) -> tuple[Check, ...]:
        """Every check that did not pass."""
        checks = [check for result in (*self.maps, *self.layers, *self.nets) for check in result.checks]
        checks += [result.check for result in self.groupings]
        checks += [result.check for result in self.redundancy]
        return tuple(check for check in checks if not check.passed)

    def write(self, path: Path) -> None:
        """Write JSON; times in seconds, null where a check failed. The file appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        content = _plain({"format": FORMAT, **asdict(self)})
        unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        unfinished.replace(path)


def _plain(value: object) -> object:
    """JSON has no nan and no inf."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def result_table(results: Sequence[Result], limits: Limits) -> str:
    """Cases in rows: ours beside the peer and the floor. A failed case shows its errors and no time."""
    columns = ("case", "pcsparse ms", "quartiles", "torch ms", "quartiles", "torch/ours", "floor ms",
               "ours/floor", "error/limit", "runs")  # fmt: skip
    return table(columns, [_row(result, limits) for result in results if result.passed]) + "".join(
        f"\nFAILED  {result.case}: {_failure(check)}"
        for result in results
        for check in result.checks
        if not check.passed
    )


def _row(result: Result, limits: Limits) -> tuple[str, ...]:
    ours, peer, floor = result.ours, result.peer, floor_of(result.works, limits)
    if ours is None:
        return (result.case, *("-" for _ in range(9)))
    worst = max((check.error / check.limit for check in result.checks if check.limit), default=0.0)
    return (
        result.case,
        _ms(ours.median),
        _quartiles(ours),
        "-" if peer is None else _ms(peer.median),
        "-" if peer is None else _quartiles(peer),
        "-" if peer is None else f"{peer.median / ours.median:.2f}",
        _ms(floor) if floor else "-",
        f"{ours.median / floor:.1f}" if floor else "-",
        f"{worst:.3f}" if any(check.limit for check in result.checks) else "equal",
        str(ours.runs),
    )


def _failure(check: Check) -> str:
    return f"{check.what} is off by {check.error:.3g}, allowed is {check.limit:.3g}; not timed"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def _quartiles(timing: Timing) -> str:
    return f"{_ms(timing.q1)}-{_ms(timing.q3)}"


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
        f"\nFAILED  {result.name}: {_failure(result.check)}" for result in results if result.time is None
    )


def _grouping_time(result: GroupingResult, limits: Limits) -> tuple[str, str, str]:
    if result.time is None:
        return "FAILED", "-", "-"
    return (
        _ms(result.time.median),
        _quartiles(result.time),
        f"{result.time.median / result.work.floor(limits):.1f}",
    )


def _grid(results: Sequence[GroupingResult]) -> str:
    thresholds = sorted({result.batch_below for result in results if result.batch_below is not None})
    epsilons = sorted({result.epsilon for result in results if result.epsilon is not None})
    cells = {(result.epsilon, result.batch_below): result for result in results}

    def cell(result: GroupingResult) -> str:
        return "FAILED" if result.time is None else f"{result.padding:.1%} {_ms(result.time.median)}"

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
        f"\nFAILED  {_failure(result.check)}" for result in results if not result.check.passed
    )
