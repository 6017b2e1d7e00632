"""What a sensitivity scan found: points, their intervals, and the ratios that they suggest."""

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pcsparse.errors import RangeError
from pcsparse.whole_file import write_whole

_SEED = 20231
_RESAMPLES = 2000
_SHARE = 95.0
_COLUMNS = (
    "axis", "name", "ratio", "kept", "size", "metric", "low", "high", "loss", "macs", "ms", "seconds",
    "failed",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """How good a network is.

    Attributes:
        metric: higher is better.
        loss: lower is better; None where it was not taken.
        per_sweep: the metric of each sweep, always of the same sweeps in the same order; none where it is not
            known. From it come intervals.
    """

    metric: float
    loss: float | None = None
    per_sweep: tuple[float, ...] = ()


@dataclass(frozen=True)
class Point:
    """One evaluation of a pruned network.

    Attributes:
        name: of the layer or group that was pruned, alone.
        kept: weights or channels that stayed.
        size: weights or channels that it has.
        macs, ms: of the network; None where they are not known.
        metric: None where it was not finite.
        loss, per_sweep: see `Evaluation`.
        seconds: of the evaluation.
    """

    name: str
    kept: int
    size: int
    macs: float | None
    ms: float | None
    metric: float | None
    loss: float | None
    per_sweep: tuple[float, ...]
    seconds: float

    @staticmethod
    def of(
        name: str,
        kept: int,
        size: int,
        macs: float | None,
        ms: float | None,
        found: Evaluation,
        seconds: float,
    ) -> "Point":
        """A point from what an evaluation returned."""
        loss = found.loss if found.loss is not None and math.isfinite(found.loss) else None
        if not math.isfinite(found.metric):
            return Point(name, kept, size, macs, ms, None, loss, (), seconds)
        return Point(name, kept, size, macs, ms, found.metric, loss, found.per_sweep, seconds)

    @property
    def ratio(self) -> float:
        """The share that was removed."""
        return 1.0 - self.kept / self.size


@dataclass(frozen=True)
class Suggestion:
    """A ratio for every layer or group.

    Attributes:
        ratios: shares to remove, by name.
        kept: weights or channels that stay, by name; what `prune_channels` takes.
        degradation: the most that any of them alone loses, by the scan.
        cost: of the network, in the unit that was asked for; None where no cost was.
    """

    ratios: Mapping[str, float]
    kept: Mapping[str, int]
    degradation: float
    cost: float | None = None


@dataclass(frozen=True)
class SensitivityTable:
    """All points of a scan.

    Attributes:
        axis: what was pruned.
        dense: the network as it is.
        points: layer by layer, ratios ascending.
        worst: what a failed evaluation counts as in curves, unless others are worse; suggestions never take
            one, whatever this is.
        labels: what figures call layers or groups whose names say too little, such as maps that several
            layers read; a table that comes from a log has none.
    """

    axis: str
    dense: Evaluation
    points: tuple[Point, ...]
    worst: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def curves(self) -> dict[str, tuple[Point, ...]]:
        """The points of each layer or group, ratios ascending."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.name, []).append(point)
        return {name: tuple(sorted(points, key=lambda p: p.ratio)) for name, points in found.items()}

    def metric(self, point: Point) -> float:
        """The metric of a point; of one that failed `worst`, or the least in the table if that is less."""
        return self._least if point.metric is None else point.metric

    @cached_property
    def _least(self) -> float:
        """What failed never looks better than what did not: metrics may be negative, and `worst` be 0."""
        known = [point.metric for point in self.points if point.metric is not None]
        return min(self.worst, self.dense.metric, *known)

    def score_at(self, name: str, kept: int) -> float | None:
        """The metric where one layer or group alone keeps so much, on straight lines between its points.

        The whole network is a point too. From a failed evaluation up to the next wider one that did not fail
        all counts as failed, see `metric`: nothing is known between them.

        Args:
            name: of the layer or group.
            kept: weights or channels, up to all.

        Returns:
            The metric; None below the narrowest point, and where the layer or group was not scanned.
        """
        points = sorted(self.curves.get(name, ()), key=lambda point: point.kept)
        if not points or kept < points[0].kept:
            return None
        whole = points[0].size
        narrower = [point for point in points if point.kept < whole]
        if kept < whole:
            below = [point for point in narrower if point.kept <= kept]
            if below and below[-1].metric is None:
                return self.metric(below[-1])
        at = [*(point.kept for point in narrower), whole]
        return float(np.interp(kept, at, [*(self.metric(point) for point in narrower), self.dense.metric]))

    def interval(self, point: Point) -> tuple[float, float] | None:
        """95 % interval of the metric over sweeps, None without values by sweep.

        Sweeps are resampled in pairs with those of the dense network, so it is the interval of the *change*;
        that a sweep is hard for both does not widen it.
        """
        if len(point.per_sweep) < 2 or len(point.per_sweep) != len(self.dense.per_sweep):
            return None
        change = np.array(point.per_sweep) - np.array(self.dense.per_sweep)
        draws = np.random.default_rng(_SEED).integers(len(change), size=(_RESAMPLES, len(change)))
        spread = change[draws].mean(axis=1) - change.mean()
        low, high = np.percentile(spread, (50 - _SHARE / 2, 50 + _SHARE / 2)).tolist()
        return self.metric(point) + low, self.metric(point) + high

    def suggest(self, threshold: float) -> Suggestion:
        """The largest ratio of each layer up to which the metric stays at or above a threshold.

        What failed, and whatever lies behind it, is below any threshold.

        Args:
            threshold: a value of the metric, such as 0.95 times that of the dense network.

        Raises:
            RangeError: the dense network is below it.
        """
        if not threshold <= self.dense.metric:
            raise RangeError(
                f"the network as it is has a metric of {self.dense.metric:.4f}, below the threshold "
                f"{threshold}; choose a lower one"
            )
        return self._at(self.dense.metric - threshold)

    def suggest_within(self, budget: float, cost: Callable[[Mapping[str, int]], float]) -> Suggestion:
        """The least common degradation at which the network meets a budget.

        Every layer gets what costs least of all ratios up to which it alone loses no more than that: the
        largest, but where measured costs say that a smaller one is cheaper: a cut is taken if it saves beside
        those taken before. So this is the search for a common degradation, over all that the points tell.
        Each curve is of one layer alone; all cuts together lose more than any of them, and often more than
        their sum. Score the network that comes of it, or let a search do so (`search.interface`).

        Args:
            budget: the most the network may cost.
            cost: of a network by what each layer or group keeps, such as
                `lambda kept: table.total("ms", graph.widths(kept))`; called about once a point.

        Raises:
            RangeError: no ratios of the scan that did not fail meet the budget; the text says the smallest
                cost there is.

        Source: the search of FastNAS in NVIDIA's Model Optimizer, by its documentation, where it bisects:
            here degradations are tried from the least on, as a measured cost need not fall with them.
        """
        kept = {name: points[0].size for name, points in self.curves.items()}
        total, most = cost(kept), 0.0
        for level, cuts in self._levels:
            if total <= budget and level > 0.0:
                break
            for name, point in cuts:
                changed = {**kept, name: point.kept}
                if (less := cost(changed)) < total:
                    kept, total, most = changed, less, level
        if not total <= budget:
            raise RangeError(
                f"the budget of {budget:g} cannot be met: the ratios that were scanned and did not fail cost "
                f"{total:g} at least; scan larger ratios or allow more"
            )
        ratios = {name: 1.0 - kept[name] / points[0].size for name, points in self.curves.items()}
        return Suggestion(ratios, kept, most, total)

    @cached_property
    def _levels(self) -> list[tuple[float, list[tuple[str, Point]]]]:
        """Degradations, ascending, and the points at which a layer alone comes to just that."""
        found: dict[float, list[tuple[str, Point]]] = {}
        for name, points in self.curves.items():
            for point, lost in zip(points, self._drops[name], strict=True):
                if lost < math.inf:
                    found.setdefault(lost, []).append((name, point))
        return sorted(found.items(), key=lambda level: level[0])

    @cached_property
    def _drops(self) -> dict[str, tuple[float, ...]]:
        """How much each layer loses up to each of its points: never less at a larger ratio.

        Infinitely much where an evaluation failed: metrics may be negative, and then no number is the worst.
        """
        found = {}
        for name, points in self.curves.items():
            lost = [
                math.inf if point.metric is None else max(0.0, self.dense.metric - point.metric)
                for point in points
            ]
            found[name] = tuple(np.maximum.accumulate(lost).tolist())
        return found

    def _at(self, degradation: float) -> Suggestion:
        ratios: dict[str, float] = {}
        kept: dict[str, int] = {}
        most = 0.0
        for name, points in self.curves.items():
            ratios[name], kept[name] = 0.0, points[0].size
            for point, lost in zip(points, self._drops[name], strict=True):
                if lost <= degradation:
                    ratios[name], kept[name] = point.ratio, point.kept
                    most = max(most, lost)
        return Suggestion(ratios, kept, most)

    def to_csv(self) -> str:
        """A line a point, empty where a value is not known."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for point in self.points:
            low, high = self.interval(point) or ("", "")
            values = (
                self.axis, point.name, point.ratio, point.kept, point.size, self.metric(point), low, high,
                point.loss, point.macs, point.ms, point.seconds, int(point.metric is None),
            )  # fmt: skip
            writer.writerow(["" if value is None else value for value in values])
        return out.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write `to_csv`, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.to_csv().encode())

    def __str__(self) -> str:
        """A line a layer: the metric at each of its ratios."""
        lines = [f"{self.axis}, dense {self.dense.metric:.4f}"]
        for name, points in self.curves.items():
            values = "  ".join(f"{p.ratio:.2f}: {self.metric(p):.4f}" for p in points)
            lines.append(f"{name:<24} {points[0].size:>8}  {values}")
        return "\n".join(lines)
