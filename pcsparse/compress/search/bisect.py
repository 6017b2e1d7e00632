"""Sensitivity bisection: every step may lose as much as every other."""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from pcsparse.compress.search.by_curves import ByCurves
from pcsparse.compress.search.curves import measure_curves
from pcsparse.compress.search.dominated import cheapest_from
from pcsparse.compress.search.space import Assignment
from pcsparse.compress.search.task import Task


@dataclass(frozen=True)
class Bisection(ByCurves):
    """The smallest common loss at which the cheapest widths that lose no more meet the budget.

    Curves are measured within the evaluations where none are given. The cheapest widths are the narrowest
    where costs grow with them; milliseconds of channels sometimes fall, and then a wider width is taken,
    which loses no more. So the cost falls as the loss grows, and halving finds the smallest loss.

    Source: FastNAS in NVIDIA's ModelOpt.
    """

    name = "bisection"

    @property
    def facts(self) -> dict[str, str]:
        """With a word on the widths, which were others once."""
        widths = "the cheapest that lose no more; a log without this word took the narrowest"
        return {**super().facts, "widths": widths}

    def reward(self, error: float, cost: float) -> float:
        """Less error is better."""
        return -error

    def run(self, task: Task) -> str:
        """Measure the curves, then ask once."""
        curves = self.curves or measure_curves(task, reserve=1)
        losses = curves.losses(task.space)
        thresholds = np.unique(np.concatenate(losses)).tolist()

        def widths(most: float) -> Assignment:
            return cheapest_from(task.space, np.array([int((loss > most).sum()) for loss in losses]))

        # all of the largest threshold's widths are allowed, and the cheapest of all meets the budget
        last = len(thresholds) - 1
        place = bisect_left(
            range(last), True, key=lambda i: task.space.cost(widths(thresholds[i])) <= task.budget
        )
        task.ask([widths(thresholds[place])])
        return f"each step alone loses at most {thresholds[place]:.4g}"
