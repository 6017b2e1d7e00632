"""Widths that cost no less than wider ones are left out, and only those."""

import itertools

import numpy as np
import pytest

from pcsparse.compress.search.bisect import Bisection
from pcsparse.compress.search.curves import SensitivityCurves
from pcsparse.compress.search.dominated import cheapest_from, without_dominated
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import CostTerm, Space
from tests.compress.search.spaces import chain, everything, steps, unet

WIDTHS = (8, 16, 24, 32)


def alone(*tables):
    """Steps that do not touch each other."""
    terms = tuple(CostTerm(f"t{i}", (f"g{i}",), table) for i, table in enumerate(tables))
    return Space(steps(len(tables), WIDTHS), (*terms, CostTerm("map", (), 5.0)), "ms")


def test_what_costs_no_less_than_wider_goes():
    space = without_dominated(alone([1, 3, 2, 2], [9, 8, 7, 6], [1, 2, 3, 4], [5, 1, 6, 3]))
    assert [step.widths for step in space.steps] == [(8, 32), (32,), WIDTHS, (16, 32)]
    assert space.cost((8, 32, 16, 16)) == 1 + 6 + 2 + 1 + 5
    assert space.steps[0].voxels == 1000


@pytest.mark.parametrize("space", [chain(3), unet()])
def test_of_costs_that_grow_with_widths_nothing_goes(space):
    assert without_dominated(space).fingerprint == space.fingerprint


def test_between_two_groups_it_goes_only_where_it_never_saves():
    rng = np.random.default_rng(3)
    for _ in range(20):
        # whole numbers, of which sums are exact
        pair = rng.integers(1, 9, (4, 4))
        terms = (CostTerm("pair", ("g0", "g1"), pair), CostTerm("one", ("g1",), rng.integers(1, 9, 4)))
        space = Space(steps(2, WIDTHS), terms)
        less = without_dominated(space)
        assert less.largest == space.largest
        assert less.cost(less.cheapest) == space.cost(space.cheapest)
        for place, (step, whole) in enumerate(zip(less.steps, space.steps, strict=True)):
            for width in set(whole.widths) - set(step.widths):
                assert any(never_less(space, place, width, wide) for wide in whole.widths if wide > width)


def never_less(space, place, narrow, wide):
    """By trying all that the others can be."""
    others = [step.widths if i != place else (None,) for i, step in enumerate(space.steps)]
    return all(
        space.cost([narrow if w is None else w for w in both])
        >= space.cost([wide if w is None else w for w in both])
        for both in itertools.product(*others)
    )


def test_a_bisection_pays_for_nothing_that_loses():
    # narrower costs more in the first step, and loses a little
    space = alone([9, 8, 7, 4], [1, 2, 3, 4])
    second = (0.5, 0.7, 0.8, None)
    less = without_dominated(space)
    result = search(less, half, 11.0, 1, method=Bisection(SensitivityCurves(0.9, ((None,), second))))
    assert result.best.widths == (32, 16)
    # in the whole space, too: what the narrower ones of the first step lose is lost for nothing
    first = (0.88, 0.89, 0.895, None)
    whole = search(space, half, 11.0, 1, method=Bisection(SensitivityCurves(0.9, (first, second))))
    assert (whole.best.widths, whole.note) == ((32, 16), "each step alone loses at most 0.2")


def test_what_is_as_wide_and_cheapest_is_what_trying_all_finds():
    rng = np.random.default_rng(5)
    for _ in range(20):
        terms = (
            CostTerm("pair", ("g0", "g1"), rng.integers(1, 9, (4, 4))),
            CostTerm("next", ("g1", "g2"), rng.integers(1, 9, (4, 4))),
        )
        space = Space(steps(3, WIDTHS), terms)
        least = rng.integers(4, size=3)
        wider = [w for w in everything(space) if (space.indices(w) >= least).all()]
        found = cheapest_from(space, least)
        cost = min(space.cost(w) for w in wider)
        assert found in wider
        assert space.cost(found) == cost
        # nothing can be had for it
        for place, step in enumerate(space.steps):
            for width in step.widths[step.widths.index(found[place]) + 1 :]:
                assert space.cost((*found[:place], width, *found[place + 1 :])) > cost


def half(widths):
    return 0.5
