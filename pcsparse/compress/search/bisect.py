"""Sensitivity bisection: every step may lose as much as every other."""

from dataclasses import dataclass

import numpy as np

from pcsparse.compress.search.curves import SensitivityCurves, measure_curves
from pcsparse.compress.search.task import Task


@dataclass(frozen=True)
class Bisection:
    """The smallest common loss at which the narrowest widths that lose no more meet the budget.

    Curves are measured within the evaluations where none are given. All thresholds at which something changes
    are tried, a few hundred: measured costs need not fall with them, so that halving could go astray.

    In a space where a wider width of a step may cost less than a narrower one, as milliseconds of channels
    sometimes do, the narrowest is taken all the same: logs of earlier searches hold that choice. What such a
    step should not choose can be left out of the space, see `dominated.without_dominated`.

    Attributes:
        curves: of a scan of the same space.

    Source: FastNAS in NVIDIA's ModelOpt; there a binary search.
    """

    curves: SensitivityCurves | None = None
    name = "bisection"

    def reward(self, error: float, cost: float) -> float:
        """Less error is better."""
        return -error

    def run(self, task: Task) -> str:
        """Measure the curves, then ask once."""
        curves = self.curves or measure_curves(task, reserve=1)
        losses = curves.losses(task.space)
        thresholds = np.unique(np.concatenate(losses))
        rows = np.array([[int((loss > most).sum()) for loss in losses] for most in thresholds])
        fits = np.flatnonzero(task.space.costs(rows) <= task.budget)
        if not len(fits):
            task.ask([task.space.cheapest])
            return "no common loss meets the budget; this is the cheapest network"
        task.ask([task.space.assignment(rows[fits[0]])])
        return f"each step alone loses at most {thresholds[fits[0]]:.4g}"
