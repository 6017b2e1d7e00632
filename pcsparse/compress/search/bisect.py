"""Sensitivity bisection: every step may lose as much as every other."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pcsparse.compress.search.by_curves import ByCurves
from pcsparse.compress.search.curves import measure_curves
from pcsparse.compress.search.dominated import cheapest_from
from pcsparse.compress.search.space import Indices, Space
from pcsparse.compress.search.task import Task


@dataclass(frozen=True)
class Bisection(ByCurves):
    """The smallest common loss at which the cheapest widths that lose no more meet the budget.

    Where several steps come to that loss at once, as all do below what a scan looked at, no more of them are
    cut than the budget asks for: those that save most first, of equals the first in the network, and the last
    of them no further than it must be.

    Curves are measured within the evaluations where none are given. The cheapest widths are the narrowest
    where costs grow with them; milliseconds of channels sometimes fall, and then a wider width is taken,
    which loses no more. So the cost falls as the loss grows, and halving finds the smallest loss.

    Source: FastNAS in NVIDIA's ModelOpt.
    """

    name = "bisection"

    @property
    def facts(self) -> dict[str, str]:
        """With a word on the widths, which were others once."""
        widths = (
            "the cheapest that lose no more, of equal losses no more than must be; a log without this word "
            "cut all of them or took the narrowest"
        )
        return {**super().facts, "widths": widths}

    def reward(self, error: float, cost: float) -> float:
        """Less error is better."""
        return -error

    def run(self, task: Task) -> str:
        """Measure the curves, then ask once."""
        curves = self.curves or measure_curves(task, reserve=1)
        losses = curves.losses(task.space)
        thresholds = np.unique(np.concatenate(losses)).tolist()

        def least(most: float) -> Indices:
            return np.array([int((loss > most).sum()) for loss in losses])

        def fits(places: Indices) -> bool:
            return task.space.cost(cheapest_from(task.space, places)) <= task.budget

        # all of the largest threshold's widths are allowed, and the cheapest of all meets the budget
        last = len(thresholds) - 1
        place = bisect_left(range(last), True, key=lambda i: fits(least(thresholds[i])))
        # of what loses nothing at all, no more is cut either: together it may lose something
        wide = least(thresholds[place - 1]) if place else np.array(task.space.sizes) - 1
        found = wide if fits(wide) else _no_further(task.space, wide, least(thresholds[place]), fits)
        task.ask([cheapest_from(task.space, found)])
        return f"each step alone loses at most {thresholds[place]:.4g}"


def _no_further(space: Space, wide: Indices, narrow: Indices, fits: Callable[[Indices], bool]) -> Indices:
    """Between widths that do not fit and narrower ones that do: as few cuts as fit, see `Bisection`."""
    steps = np.flatnonzero(wide > narrow)
    rows = np.repeat(wide[None], len(steps), axis=0)
    rows[np.arange(len(steps)), steps] = narrow[steps]
    order = steps[np.argsort(space.costs(rows), kind="stable")]

    def cut(n: int) -> Indices:
        places = wide.copy()
        places[order[:n]] = narrow[order[:n]]
        return places

    # each cut allows more, so that the cheapest of what is allowed costs no more
    n = bisect_left(range(1, len(order)), True, key=lambda n: fits(cut(n))) + 1
    found, step = cut(n), order[n - 1]
    for wider in range(int(wide[step]) - 1, int(narrow[step]), -1):
        found[step] = wider
        if fits(found):
            return found
    return cut(n)
