"""The least sum of tables that share variables: variables are eliminated one after the other.

Source: Dechter, "Bucket elimination", Artificial Intelligence 113, 1999.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MOST_ENTRIES = 1 << 22
"""Of a table on the way, 32 MB: five groups of 16 widths that hang together, or a few more of fewer."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A table over some variables.

    Attributes:
        variables: numbers, each once, in the order of the axes.
        table: float64.
    """

    variables: tuple[int, ...]
    table: npt.NDArray[np.float64]


def minimise(
    sizes: Sequence[int], factors: Sequence[Factor], *, most_entries: int = _MOST_ENTRIES
) -> npt.NDArray[np.int64] | None:
    """Values of all variables for which the sum of the factors is least.

    Exact. Of equal sums the one whose variables, the last eliminated first, are smallest.

    Args:
        sizes: values of variable i are 0 to sizes[i] - 1.
        factors: tables over the variables.
        most_entries: of a table on the way.

    Returns:
        (n,) int64, or None where a table would have more entries: too many variables hang together.
    """
    open_factors = list(factors)
    left = set(range(len(sizes)))
    decided: list[tuple[int, tuple[int, ...], npt.NDArray[np.int64]]] = []
    while left:
        variable = min(left, key=lambda v: (_joined_size(v, open_factors, sizes), v))
        if _joined_size(variable, open_factors, sizes) > most_entries:
            return None
        touched = [factor for factor in open_factors if variable in factor.variables]
        open_factors = [factor for factor in open_factors if variable not in factor.variables]
        others = tuple(sorted({v for factor in touched for v in factor.variables} - {variable}))
        axes = (*others, variable)
        joined = np.zeros([sizes[v] for v in axes])
        for factor in touched:
            joined += _spread(factor, axes)
        decided.append((variable, others, joined.argmin(axis=-1)))
        open_factors.append(Factor(others, joined.min(axis=-1)))
        left.remove(variable)
    values = np.zeros(len(sizes), np.int64)
    for variable, others, best in reversed(decided):
        values[variable] = best[tuple(values[v] for v in others)]
    return values


def descend(
    sizes: Sequence[int], factors: Sequence[Factor], start: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Change one variable at a time to where the sum is least, until none gains: a local minimum."""
    values = start.copy()
    touching = [[f for f in factors if v in f.variables] for v in range(len(sizes))]
    improved = True
    while improved:
        improved = False
        for variable, touched in enumerate(touching):
            line = np.zeros(sizes[variable])
            for factor in touched:
                line += factor.table[
                    tuple(slice(None) if v == variable else values[v] for v in factor.variables)
                ]
            best = int(line.argmin())
            if line[best] < line[values[variable]]:
                values[variable] = best
                improved = True
    return values


def _joined_size(variable: int, factors: Sequence[Factor], sizes: Sequence[int]) -> int:
    joined = {v for factor in factors if variable in factor.variables for v in factor.variables}
    entries = sizes[variable]
    for v in joined - {variable}:
        entries *= sizes[v]
    return entries


def _spread(factor: Factor, axes: Sequence[int]) -> npt.NDArray[np.float64]:
    """The table with its axes where `axes` has them, and axes of length 1 for the others."""
    order = sorted(range(len(factor.variables)), key=lambda i: axes.index(factor.variables[i]))
    shape = [1] * len(axes)
    for i in order:
        shape[axes.index(factor.variables[i])] = factor.table.shape[i]
    return factor.table.transpose(order).reshape(shape)
