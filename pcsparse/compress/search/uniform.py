"""The same ratio everywhere: what every other method has to beat."""

from dataclasses import dataclass

import numpy as np

from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.search.task import Task


@dataclass(frozen=True)
class Uniform:
    """The largest common keep ratio that meets the budget; one evaluation."""

    name = "uniform"

    def reward(self, error: float, cost: float) -> float:
        """Less error is better."""
        return -error

    def run(self, task: Task) -> str:
        """Ask once."""
        task.ask([uniform_widths(task.space, task.budget)])
        return ""


def uniform_widths(space: Space, budget: float) -> Assignment:
    """Each step at its widest that keeps at most one common ratio, the largest ratio that meets the budget.

    A step whose smallest width keeps more stays at that. Where no ratio meets the budget, as measured costs
    may have it, the cheapest assignment.
    """
    ratios = sorted({width / step.full for step in space.steps for width in step.widths}, reverse=True)
    grids = [np.array(step.widths) / step.full for step in space.steps]
    rows = np.array([[max(0, int((grid <= r).sum()) - 1) for grid in grids] for r in ratios])
    fits = np.flatnonzero(space.costs(rows) <= budget)
    return space.assignment(rows[fits[0]]) if len(fits) else space.cheapest
