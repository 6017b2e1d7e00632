"""Assignments that meet a budget: what is left to choose, and how to get back below it.

Measured costs need not grow with every width, so nothing here bisects: what fits is tried.
"""

import math

import numpy as np
import numpy.typing as npt

from pcsparse.compress.search.space import Indices, Space
from pcsparse.errors import RangeError


def check_budget(space: Space, budget: float) -> None:
    """Raise RangeError unless some assignment costs `budget` or less."""
    if not (math.isfinite(budget) and budget > 0):
        raise RangeError(f"a budget is finite and above 0, got {budget} {space.unit}")
    least = space.cost(space.cheapest)
    if least > budget:
        raise RangeError(
            f"a budget of {budget:.6g} {space.unit} cannot be met: the smallest reachable cost is "
            f"{least:.6g}, the whole network costs {space.cost(space.largest):.6g}; raise the budget or "
            "allow smaller widths"
        )


def fitting(space: Space, indices: Indices, step: int, budget: float) -> npt.NDArray[np.bool_]:
    """Which widths of one step meet the budget while the others are as in `indices`, (widths,)."""
    tried = np.repeat(indices[None], space.sizes[step], axis=0)
    tried[:, step] = np.arange(space.sizes[step])
    return space.costs(tried) <= budget


def clamp(fits: npt.NDArray[np.bool_], wanted: int) -> int:
    """The largest place that fits up to `wanted`, else the smallest above it; one must fit."""
    below = np.flatnonzero(fits[: wanted + 1])
    return int(below[-1]) if len(below) else int(np.flatnonzero(fits)[0])


def to_budget(space: Space, indices: Indices, budget: float, rng: np.random.Generator) -> Indices:
    """Narrow, then widen random steps so that the budget is met and used.

    Too costly assignments first go towards the cheapest one, a random step by one place at a time; then
    random steps widen by one place at a time, each until it no longer fits. Where costs grow with widths no
    step could be wider in the end.
    """
    changed = indices.copy()
    cheapest = space.indices(space.cheapest)
    while space.costs(changed[None])[0] > budget:
        # not empty: the cheapest meets the budget
        step = int(rng.choice(np.flatnonzero(changed != cheapest)))
        changed[step] += np.sign(cheapest[step] - changed[step])
    growing = np.flatnonzero(changed < np.array(space.sizes) - 1)
    while len(growing):
        step = int(rng.choice(growing))
        changed[step] += 1
        full = changed[step] == space.sizes[step] - 1
        if space.costs(changed[None])[0] > budget:
            changed[step] -= 1
            full = True
        if full:
            growing = growing[growing != step]
    return changed
