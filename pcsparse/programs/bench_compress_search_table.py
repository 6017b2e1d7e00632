"""What the study of searches says: a table, intervals over sweeps and seeds, pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.compress.search.figures import search_figure
from pcsparse.compress.search.trials import SearchResult
from pcsparse.errors import RangeError
from pcsparse.train.sweep_counts import SweepCounts, draw_weights, interval_of, resampled_mean
from pcsparse.whole_file import write_whole

_SEED = 20231
_LEAST_GAIN = 0.01
"""How much more mIoU than uniform counts as beating it."""
_BASELINE = "uniform"


@dataclass(frozen=True, eq=False)
class Judged:
    """One search and what its answer is worth.

    Attributes:
        result: of the search.
        method: name of the row, presets told apart.
        share: budget as a share of the dense network's cost.
        held: counts of the answer on the held-out streets, a row a town.
        ms: measured, maps included; None where the budget is not in milliseconds.
    """

    result: SearchResult
    method: str
    share: float
    held: SweepCounts
    ms: float | None


@dataclass(frozen=True)
class Row:
    """All seeds of a method at one budget.

    Attributes:
        method, share: see `Judged`.
        seeds: searches.
        evaluations: made, mean.
        seconds: in evaluations, mean.
        cost: of the answers, by the space, mean.
        measured_ms: of the answers, mean; None where the budget is not in milliseconds.
        search_miou: of the answers on the search sweeps, mean.
        held_miou: on the held-out sweeps, mean over seeds.
        spread: least and most of the seeds on the held-out sweeps.
        gain: held-out mIoU above that of uniform at this budget.
        interval: of the gain, 95 %, over held-out towns and seeds.
    """

    method: str
    share: float
    seeds: int
    evaluations: float
    seconds: float
    cost: float
    measured_ms: float | None
    search_miou: float
    held_miou: float
    spread: tuple[float, float]
    gain: float
    interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """Whether it beats uniform, loses to it, or neither can be said."""
        if self.method == _BASELINE:
            return "baseline"
        if self.gain >= _LEAST_GAIN and self.interval[0] > 0:
            return "beats uniform"
        if self.gain < 0 and self.interval[1] < 0:
            return "loses to uniform"
        return "no difference shown"


def rows_of(judged: Sequence[Judged]) -> list[Row]:
    """A row a method and budget, in the order in which they come first.

    Intervals are percentiles of resamples in which towns are drawn with replacement, the same for both
    methods, and seeds too.

    Raises:
        RangeError: no search with uniform widths at one of the budgets.
    """
    groups: dict[tuple[float, str], list[Judged]] = {}
    for one in judged:
        groups.setdefault((one.share, one.method), []).append(one)
    bare = [share for share, _ in groups if (share, _BASELINE) not in groups]
    if bare or not judged:
        raise RangeError(
            f"gains are over {_BASELINE} widths, and there are none{f' at {bare[0]:g}' if bare else ''}; add "
            f"{_BASELINE} to the methods"
        )
    rng = np.random.default_rng(_SEED)
    weights = draw_weights(len(judged[0].held.right), rng)
    rows = []
    for share, method in sorted(groups, key=lambda key: -key[0]):
        group = groups[share, method]
        base = groups[share, _BASELINE]
        held = _held(group)
        mine, theirs = ([one.held for one in part] for part in (group, base))
        gains = resampled_mean(mine, weights, rng) - resampled_mean(theirs, weights, rng)
        best = [one.result.best for one in group]
        rows.append(
            Row(
                method,
                share,
                len(group),
                float(np.mean([one.result.evaluations for one in group])),
                float(np.mean([sum(trial.seconds for trial in one.result.trials) for one in group])),
                float(np.mean([trial.cost for trial in best])),
                _mean([one.ms for one in group]),
                float(np.mean([trial.counted_score for trial in best])),
                float(held.mean()),
                (float(held.min()), float(held.max())),
                float(held.mean() - _held(base).mean()),
                interval_of(gains),
            )
        )
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _held(group: Sequence[Judged]) -> npt.NDArray[np.float64]:
    return np.array([float(one.held.miou()[0]) for one in group])


def table_text(
    rows: Sequence[Row],
    dense: SweepCounts,
    full: float,
    dense_ms: float | None,
    metric: str = "mIoU",
    unit: str = "ms",
    per_unit: float = 1.0,
    drawn: str = "towns",
) -> str:
    """The rows as a Markdown table.

    Args:
        rows: see `rows_of`.
        dense: counts of the dense network.
        full: its cost, in `unit`.
        dense_ms: measured; None where the budget is not in milliseconds.
        metric: what the counts give.
        unit: of the column of costs.
        per_unit: costs of the space in one of `unit`.
        drawn: what a row of the counts is.
    """
    timed = "" if dense_ms is None else f", measured {dense_ms:.1f} ms"
    lines = [
        f"dense: {metric} {100 * float(dense.miou()[0]):.1f} % on {len(dense.right)} {drawn} held out, "
        f"{full:.1f} {unit}{timed}",
        "",
        f"| budget | method | seeds | evaluations | s | {unit} | measured ms | {metric} search | {metric} "
        "held out | least, most | gain over uniform | verdict |",
        "|" + "---|" * 12,
    ]
    for row in rows:
        low, high = (100 * value for value in row.interval)
        least, most = (100 * value for value in row.spread)
        gain = "" if row.method == _BASELINE else f"{100 * row.gain:+.1f} ({low:+.1f} to {high:+.1f})"
        measured = "" if row.measured_ms is None else f"{row.measured_ms:.1f}"
        lines.append(
            f"| {row.share:.0%} | {row.method} | {row.seeds} | {row.evaluations:.0f} | {row.seconds:.0f} "
            f"| {row.cost / per_unit:.1f} | {measured} | {100 * row.search_miou:.1f} "
            f"| {100 * row.held_miou:.1f} | {least:.1f}, {most:.1f} | {gain} | {row.verdict} |"
        )
    return "\n".join(lines)


def report(
    out: Path, dense: SweepCounts, full_ms: float, judged: Sequence[Judged], *, dense_ms: float
) -> list[Row]:
    """Print the table; write it, its numbers, and a picture a budget."""
    rows = rows_of(judged)
    text = table_text(rows, dense, full_ms, dense_ms)
    print(text)
    write_whole(out / "table.md", (text + "\n").encode())
    numbers = [{**row.__dict__, "verdict": row.verdict} for row in rows]
    write_whole(out / "table.json", (json.dumps(numbers, indent=1) + "\n").encode())
    for share in sorted({one.share for one in judged}):
        first = [one.result for one in judged if one.share == share and one.result.seed == 0]
        search_figure(first, out / f"search-{share:g}.png", title=f"budget {share:.0%} of the milliseconds")
    return rows
