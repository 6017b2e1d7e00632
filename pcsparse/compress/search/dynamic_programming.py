"""Losses taken from sensitivity curves, their sum made least within the budget."""

from dataclasses import dataclass

from pcsparse.compress.search.by_curves import ByCurves
from pcsparse.compress.search.curves import measure_curves
from pcsparse.compress.search.knapsack import allocate
from pcsparse.compress.search.lagrangian import allocate_by_price
from pcsparse.compress.search.task import Task


@dataclass(frozen=True)
class DynamicProgramming(ByCurves):
    """The widths with the least sum of losses, each taken from its step's curve as if the others were whole.

    Exact for these curves on chains and on networks with few skips under way at once; beyond that by prices,
    with a bound on what was missed. The note says which. Whether the sum predicts the score is another
    matter: what is cut elsewhere changes what a cut costs.

    Source: the knapsack of HALP (Shen et al., NeurIPS 2022) over latencies; here with those of pairs.
    """

    name = "dynamic programming"

    def reward(self, error: float, cost: float) -> float:
        """Less error is better."""
        return -error

    def run(self, task: Task) -> str:
        """Measure the curves, then ask once."""
        curves = self.curves or measure_curves(task, reserve=1)
        losses = curves.losses(task.space)
        found, how = allocate(task.space, losses, task.budget), "exact for these curves"
        if found is None:
            found, how = allocate_by_price(task.space, losses, task.budget), "by prices"
        if found.bound is None:
            how = "by prices without a bound" if how == "by prices" else "choices thinned by cost"
        elif how == "by prices":
            how += f", at most {max(0.0, found.loss - found.bound):.4g} above the least sum"
        task.ask([task.space.assignment(found.indices)])
        return f"sum of losses {found.loss:.4g}, {how}"
