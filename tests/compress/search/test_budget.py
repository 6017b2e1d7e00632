"""What fits a budget, and how to get there."""

import numpy as np
import pytest

from pcsparse.compress.search.budget import check_budget, clamp, fitting, to_budget
from pcsparse.compress.search.space import CostTerm, Space
from pcsparse.errors import RangeError
from tests.compress.search.spaces import chain, steps, unet


def rugged() -> Space:
    """Costs that do not grow with the width, as measured ones may."""
    rng = np.random.default_rng(1)
    terms = [CostTerm(f"t{i}", (f"g{i}", f"g{(i + 1) % 4}"), rng.random((4, 4))) for i in range(4)]
    return Space(steps(4), tuple(terms), "ms")


def test_an_impossible_budget_names_the_smallest_reachable():
    space = chain(3)
    least = space.cost((8, 8, 8))
    check_budget(space, least)
    with pytest.raises(RangeError, match=rf"smallest reachable cost is {least:.6g}, the whole network costs"):
        check_budget(space, least * 0.99)
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(RangeError, match="finite and above 0"):
            check_budget(space, budget)


def test_what_fits_one_step_while_the_others_stay():
    space = chain(2)
    # 3 a + a b + 19 b with b = 8: 11 a + 152
    assert fitting(space, space.indices((8, 8)), 0, 11 * 16 + 152.0).tolist() == [True, True, False, False]
    assert fitting(space, space.indices((8, 8)), 0, 11 * 16 + 151.9).tolist() == [True, False, False, False]


def test_the_clamp_prefers_less_to_more():
    fits = np.array([False, True, False, True, True])
    assert [clamp(fits, wanted) for wanted in range(5)] == [1, 1, 1, 3, 4]


@pytest.mark.parametrize("space", [chain(4), unet(), rugged()], ids=["chain", "unet", "rugged"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_any_draw_comes_to_meet_and_use_the_budget(space, share):
    rng = np.random.default_rng(0)
    least = space.cost(space.cheapest)
    budget = least + share * (space.cost(space.largest) - least)
    for _ in range(20):
        found = to_budget(space, rng.integers(space.sizes), budget, rng)
        cost = space.costs(found[None])[0]
        assert cost <= budget
        if space.unit == "ms":
            # a step that did not fit may fit once another is wider
            continue
        for step in range(len(found)):
            wider = found.copy()
            wider[step] = min(found[step] + 1, space.sizes[step] - 1)
            assert space.costs(wider[None])[0] > budget or np.array_equal(wider, found)
