"""Widths that nobody should choose: they cost no less than wider ones."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pcsparse.compress.search.budget import fitting
from pcsparse.compress.search.elimination import Factor
from pcsparse.compress.search.space import Assignment, CostTerm, Indices, Space


def without_dominated(space: Space) -> Space:
    """The same space without widths that cost no less than a wider one of their step, whatever others have.

    Methods that go by losses alone take the narrowest width that loses little enough; where measured costs do
    not grow with the width, as of layers in which choosing rows costs more than skipping them saves, that
    would lose score and milliseconds at once.

    Args:
        space: not changed.

    Returns:
        A space whose full widths and whose cheapest cost are those of `space`; steps in which nothing
        narrower saves anything have their full width alone.
    """
    stays = [_undominated(space, place) for place in range(len(space.steps))]
    return _restricted(space, [np.flatnonzero(kept) for kept in stays])


def cheapest_from(space: Space, least: Indices) -> Assignment:
    """The cheapest of all assignments that are nowhere narrower than one.

    It is that one itself where costs grow with widths; where they do not, what is wider may cost less. Of
    equally cheap ones it is one that no single step can leave for a wider width. Exact as
    `Space.cheapest` is.

    Args:
        space: of choices.
        least: places of the narrowest widths, (n_steps,).
    """
    places = [np.arange(low, size) for low, size in zip(least, space.sizes, strict=True)]
    found = space.indices(_restricted(space, places).cheapest)
    for step in range(len(found)):
        cost = float(space.costs(found[None])[0])
        found[step] = np.flatnonzero(fitting(space, found, step, cost))[-1]
    return space.assignment(found)


def _restricted(space: Space, stays: Sequence[Indices]) -> Space:
    """The same space with some places of each step's grid."""
    steps = tuple(
        replace(step, widths=tuple(np.array(step.widths)[kept].tolist()))
        for step, kept in zip(space.steps, stays, strict=True)
    )
    terms = tuple(
        CostTerm(term.name, term.groups, factor.table[np.ix_(*(stays[i] for i in factor.variables))])
        for term, factor in zip(space.terms, space.factors, strict=True)
    )
    return Space(steps, terms, space.unit)


def _undominated(space: Space, place: int) -> npt.NDArray[np.bool_]:
    """Which widths of a step no wider one undercuts for sure, (widths,)."""
    size = space.sizes[place]
    factors = [factor for factor in space.factors if place in factor.variables]
    stays = np.ones(size, np.bool_)
    for narrow in range(size - 1):
        wider = range(narrow + 1, size)
        stays[narrow] = not any(_saves_at_least(factors, place, wide, narrow) >= 0 for wide in wider)
    return stays


def _saves_at_least(factors: list[Factor], place: int, wide: int, narrow: int) -> float:
    """A bound from below of what the wider width costs less than the narrower one."""
    total = 0.0
    for factor in factors:
        rows = np.moveaxis(factor.table, factor.variables.index(place), 0)
        total += float((rows[narrow] - rows[wide]).min())
    return total
