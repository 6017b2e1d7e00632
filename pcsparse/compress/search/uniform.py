"""The same ratio everywhere: what every other method has to beat."""

from dataclasses import dataclass

import numpy as np

from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.search.task import Method, Task


@dataclass(frozen=True)
class Uniform(Method):
    """The largest common keep ratio that meets the budget; one evaluation."""

    name = "uniform"

    def takes(self, evaluations: int) -> int:
        """One."""
        return 1

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


@dataclass(frozen=True)
class FilledUniform(Method):
    """As uniform as widths can be that use the budget; one evaluation.

    Where grids are coarse, as of 16 channels in steps of 8, groups of one size become wider all at once and
    `Uniform` may leave a third of the budget. A search that beats that alone has shown little.
    """

    name = "uniform, filled"

    def takes(self, evaluations: int) -> int:
        """One."""
        return 1

    def reward(self, error: float, cost: float) -> float:
        """Less error is better."""
        return -error

    def run(self, task: Task) -> str:
        """Ask once."""
        task.ask([filled_widths(task.space, task.budget)])
        return ""


def filled_widths(space: Space, budget: float) -> Assignment:
    """Uniform widths, then one step after the other a place wider, the one that ends up narrowest first.

    Narrowest is what keeps the smallest share of its width; of equal ones the first in the network. A step
    is passed over once its next width does not fit.
    """
    places = space.indices(uniform_widths(space, budget))
    open_ = {i for i, step in enumerate(space.steps) if places[i] + 1 < len(step.widths)}
    while open_:
        step = min(open_, key=lambda i: (space.steps[i].widths[places[i] + 1] / space.steps[i].full, i))
        places[step] += 1
        fits = space.costs(places[None])[0] <= budget
        if not fits:
            places[step] -= 1
        if not fits or places[step] + 1 == len(space.steps[step].widths):
            open_.remove(step)
    return space.assignment(places)
