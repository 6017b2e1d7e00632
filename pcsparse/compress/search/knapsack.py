"""The least sum of losses within a budget, exact where few groups hang together.

Steps are taken one after the other. What was chosen so far matters to the rest only by the widths of those
groups that share a cost term with a later step, the open ones, and by its cost and its loss. For each
combination of open widths only the choices are kept that no other beats in cost and loss both. A chain has
one open group, a network with skip connections one more for each skip that is under way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcsparse.compress.search.elimination import Factor
from pcsparse.compress.search.space import Indices, Space

Floats = npt.NDArray[np.float64]

_MOST_STATES = 4096
_MOST_CHOICES = 100_000
"""Kept after a step, 2 MB each of a few arrays; beyond it the choices of a state are thinned by cost."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """An answer.

    Attributes:
        indices: (n_steps,) places in the grids.
        loss: the sum of the losses there.
        bound: no assignment within the budget loses less; equal to `loss` where the answer is exact, None
            where nothing is known.
    """

    indices: Indices
    loss: float
    bound: float | None


@dataclass(frozen=True, eq=False)
class _Stage:
    """The choices kept after a step, a row each."""

    digits: npt.NDArray[np.int64]  # (rows, open groups)
    cost: Floats
    loss: Floats
    parent: npt.NDArray[np.int64]
    choice: npt.NDArray[np.int64]


def allocate(
    space: Space,
    losses: Sequence[Floats],
    budget: float,
    *,
    most_states: int = _MOST_STATES,
    most_choices: int = _MOST_CHOICES,
) -> Allocation | None:
    """Find the widths whose losses have the least sum within the budget.

    Args:
        space: some assignment of which meets the budget.
        losses: of each width of each step, as long as its grid.
        budget: most cost.
        most_states: combinations of open widths after a step.
        most_choices: kept after a step; the answer is no longer exact where there would be more, and still
            meets the budget.

    Returns:
        The answer; None where more states would be needed.
    """
    n = len(space.steps)
    due = [[f for f in space.factors if max(f.variables, default=-1) == i] for i in range(n)]
    opened = [_open_after(space.factors, i) for i in range(n)]
    if max(math.prod(space.sizes[v] for v in group) for group in opened) > most_states:
        return None
    fixed = math.fsum(float(f.table) for f in space.factors if not f.variables)
    start = np.zeros(1, np.int64)
    stage = _Stage(start[:, None][:, :0], np.array([fixed]), np.zeros(1), start, start)
    stages, exact = [], True
    before: tuple[int, ...] = ()
    for i in range(n):
        rest = sum(float(f.table.min()) for later in due[i + 1 :] for f in later)
        grown = _grow(stage, i, before, opened[i], due[i], losses[i], budget - rest)
        kept = _undominated(grown, [space.sizes[v] for v in opened[i]])
        thinned = _thin(grown, kept, [space.sizes[v] for v in opened[i]], budget, most_choices)
        exact &= len(thinned) == len(kept)
        stage = _rows(grown, thinned)
        stages.append(stage)
        before = opened[i]
    for last in np.lexsort((stage.cost, stage.loss)):
        found = _trace(stages, int(last))
        # sums in another order may differ in their last bit
        if space.costs(found[None])[0] <= budget:
            loss = float(stage.loss[last])
            return Allocation(found, loss, loss if exact else None)
    cheapest = space.indices(space.cheapest)
    return Allocation(cheapest, float(sum(loss[i] for loss, i in zip(losses, cheapest, strict=True))), None)


def _open_after(factors: Sequence[Factor], step: int) -> tuple[int, ...]:
    later = [f for f in factors if max(f.variables, default=-1) > step]
    return tuple(sorted({v for f in later for v in f.variables if v <= step}))


def _grow(
    stage: _Stage,
    step: int,
    before: tuple[int, ...],
    after: tuple[int, ...],
    due: Sequence[Factor],
    losses: Floats,
    most: float,
) -> _Stage:
    """Every kept choice with every width of the step, where that may still meet the budget."""
    n_rows, n_widths = len(stage.cost), len(losses)
    choice = np.broadcast_to(np.arange(n_widths), (n_rows, n_widths))
    values = {v: stage.digits[:, i, None] for i, v in enumerate(before)} | {step: choice}
    cost = np.broadcast_to(stage.cost[:, None], (n_rows, n_widths)).copy()
    for factor in due:
        cost += factor.table[tuple(values[v] for v in factor.variables)]
    # the bound is a sum in another order too
    able = (cost <= most + 1e-9 * abs(most)).ravel()
    columns = [np.broadcast_to(values[v], (n_rows, n_widths)).ravel()[able] for v in after]
    digits = np.stack(columns, axis=1) if columns else np.zeros((int(able.sum()), 0), np.int64)
    loss = (stage.loss[:, None] + losses).ravel()[able]
    parent = np.repeat(np.arange(n_rows), n_widths)[able]
    return _Stage(digits, cost.ravel()[able], loss, parent, choice.ravel()[able])


def _codes(stage: _Stage, sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    code = np.zeros(len(stage.cost), np.int64)
    for i, size in enumerate(sizes):
        code = code * size + stage.digits[:, i]
    return code


def _undominated(stage: _Stage, sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """Rows that no row of the same state beats or equals in cost and loss, by state and ascending cost."""
    code = _codes(stage, sizes)
    order = np.lexsort((stage.loss, stage.cost, code))
    _, rank = np.unique(stage.loss[order], return_inverse=True)
    state = np.concatenate([[0], np.cumsum(np.diff(code[order]) != 0)]) if len(order) else order
    # a state later in the order ranks below all before it, so that one running minimum serves all states
    rank = rank - state * (len(order) + 1)
    least = np.minimum.accumulate(rank)
    better = np.concatenate([[True], least[1:] < least[:-1]]) if len(order) else order.astype(bool)
    return order[better]


def _thin(
    stage: _Stage, kept: npt.NDArray[np.int64], sizes: Sequence[int], budget: float, most: int
) -> npt.NDArray[np.int64]:
    """About `most` rows: of each state and slice of cost the one that loses least, and the cheapest."""
    if len(kept) <= most:
        return kept
    code = _codes(stage, sizes)[kept]
    n_slices = max(1, most // len(np.unique(code)))
    place = code * n_slices + np.minimum(stage.cost[kept] / budget * n_slices, n_slices - 1).astype(np.int64)
    last = np.concatenate([np.diff(place) != 0, [True]])
    first = np.concatenate([[True], np.diff(code) != 0])
    return kept[last | first]


def _rows(stage: _Stage, rows: npt.NDArray[np.int64]) -> _Stage:
    return _Stage(
        stage.digits[rows], stage.cost[rows], stage.loss[rows], stage.parent[rows], stage.choice[rows]
    )


def _trace(stages: Sequence[_Stage], row: int) -> Indices:
    found = np.empty(len(stages), np.int64)
    for i in range(len(stages) - 1, -1, -1):
        found[i] = stages[i].choice[row]
        row = int(stages[i].parent[row])
    return found
