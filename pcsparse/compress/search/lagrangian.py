"""The least sum of losses within a budget where too many groups hang together to be exact.

The budget becomes a price: loss + price * cost is minimised over all assignments, exactly where elimination
can, and the price is bisected. That reaches the lower convex hull of loss over cost; from its best point
single steps and pairs of steps are changed while that helps. The prices also bound what could be reached.

Source: Everett, "Generalized Lagrange multiplier method", Operations Research 11, 1963.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from pcsparse.compress.search.elimination import Factor, descend, minimise
from pcsparse.compress.search.knapsack import Allocation, Floats
from pcsparse.compress.search.space import Indices, Space

_PRICES = 50


def allocate_by_price(space: Space, losses: Sequence[Floats], budget: float) -> Allocation:
    """Find widths whose losses have a small sum within the budget.

    Args:
        space: some assignment of which meets the budget.
        losses: of each width of each step, as long as its grid.
        budget: most cost.

    Returns:
        The answer, with a bound where every price could be minimised exactly.
    """
    best = space.indices(space.cheapest)
    bound: float | None = 0.0
    low, high = 0.0, math.inf
    # at the first price above 0 the whole budget is worth half of all losses
    price, first = 0.0, sum(float(loss.max()) for loss in losses) / budget / 2
    for _ in range(_PRICES):
        found, exact = _at_price(space, losses, price)
        cost, loss = float(space.costs(found[None])[0]), _loss(losses, found)
        bound = max(bound, loss + price * (cost - budget)) if exact and bound is not None else None
        if cost <= budget:
            high = price
            best = min(best, found, key=lambda indices: _loss(losses, indices))
        else:
            low = price
        if high == 0.0 or first == 0.0:
            break
        price = max(first, 2 * low) if high == math.inf else (low + high) / 2
    best = _improve(space, losses, best, budget)
    return Allocation(best, _loss(losses, best), bound)


def _loss(losses: Sequence[Floats], indices: Indices) -> float:
    return float(sum(loss[i] for loss, i in zip(losses, indices, strict=True)))


def _at_price(space: Space, losses: Sequence[Floats], price: float) -> tuple[Indices, bool]:
    factors = [Factor((i,), loss) for i, loss in enumerate(losses)]
    factors += [Factor(f.variables, price * f.table) for f in space.factors]
    found = minimise(space.sizes, factors)
    if found is not None:
        return found, True
    return descend(space.sizes, factors, np.array(space.sizes) - 1), False


def _improve(space: Space, losses: Sequence[Floats], indices: Indices, budget: float) -> Indices:
    """Change one or two steps at a time to what loses least within the budget, until nothing helps."""
    n = len(indices)
    groups = [(i,) for i in range(n)] + list(combinations(range(n), 2))
    improved = True
    while improved:
        improved = False
        for group in groups:
            grid = np.stack(np.meshgrid(*(np.arange(space.sizes[i]) for i in group), indexing="ij"), axis=-1)
            values = grid.reshape(-1, len(group))
            rows = np.repeat(indices[None], len(values), axis=0)
            rows[:, list(group)] = values
            lost = np.sum([losses[i][values[:, k]] for k, i in enumerate(group)], axis=0)
            lost[space.costs(rows) > budget] = np.inf
            now = sum(losses[i][indices[i]] for i in group)
            if lost.min() < now - 1e-12:
                indices = rows[int(lost.argmin())]
                improved = True
    return indices
