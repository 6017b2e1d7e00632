"""The least sum of losses within a budget, against trying everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.compress.search.knapsack import allocate
from pcsparse.compress.search.lagrangian import allocate_by_price
from pcsparse.compress.search.space import CostTerm, Space
from tests.compress.search.spaces import chain, everything, steps, unet


def random_losses(space: Space, rng: np.random.Generator, *, monotone: bool = True) -> list[np.ndarray]:
    """Whole numbers, so that equal sums are equal, and many ties."""
    drawn = [rng.integers(0, 12, size).astype(float) for size in space.sizes]
    return [np.sort(loss)[::-1] for loss in drawn] if monotone else drawn


def least(space: Space, losses: list[np.ndarray], budget: float) -> float:
    rows = [space.indices(widths) for widths in everything(space)]
    return min(
        sum(loss[i] for loss, i in zip(losses, row, strict=True))
        for row in rows
        if space.costs(row[None])[0] <= budget
    )


def tangled(rng: np.random.Generator) -> Space:
    """Terms between any steps, costs that need not grow."""
    groups = [("g0", "g3"), ("g1",), ("g1", "g2", "g4"), ("g0", "g4"), ()]
    terms = [
        CostTerm(f"t{i}", g, rng.integers(0, 50, [3] * len(g)).astype(float)) for i, g in enumerate(groups)
    ]
    return Space(steps(5, (8, 16, 24)), tuple(terms))


@given(
    seed=st.integers(0, 1 << 32), share=st.floats(0, 1), kind=st.sampled_from(["chain", "unet", "tangled"])
)
@settings(max_examples=60, deadline=None)
def test_nothing_within_the_budget_loses_less(seed, share, kind):
    rng = np.random.default_rng(seed)
    space = {"chain": lambda: chain(4, (8, 16, 24)), "unet": unet, "tangled": lambda: tangled(rng)}[kind]()
    losses = random_losses(space, rng, monotone=kind != "tangled")
    cheapest, largest = space.cost(space.cheapest), space.cost(space.largest)
    budget = cheapest + share * max(0.0, largest - cheapest) + 1e-6
    best = least(space, losses, budget)

    found = allocate(space, losses, budget)
    assert found.loss == found.bound == best
    assert sum(loss[i] for loss, i in zip(losses, found.indices, strict=True)) == best
    assert space.costs(found.indices[None])[0] <= budget

    priced = allocate_by_price(space, losses, budget)
    assert space.costs(priced.indices[None])[0] <= budget
    assert priced.bound <= best + 1e-9
    assert priced.loss >= best
    assert priced.loss == sum(loss[i] for loss, i in zip(losses, priced.indices, strict=True))


def test_prices_come_close():
    gaps = []
    for seed in range(30):
        space = unet((8, 16, 24, 32))
        # concave, as real curves are
        weight = np.random.default_rng(seed).random(5)
        losses = [w * (1 - np.arange(1, 5) / 4) ** 2 for w in weight]
        budget = 0.4 * space.cost(space.largest)
        priced, best = allocate_by_price(space, losses, budget), allocate(space, losses, budget)
        assert priced.bound <= best.loss + 1e-12
        gaps.append(priced.loss - best.loss)
    assert sum(gap < 1e-12 for gap in gaps) >= 24
    assert max(gaps) < 0.05


@pytest.mark.parametrize("method", [allocate, allocate_by_price])
def test_a_budget_of_exactly_the_cheapest_or_the_largest(method):
    rng = np.random.default_rng(0)
    terms = [CostTerm(f"t{i}", (f"g{i}",), np.cumsum(rng.random(3))) for i in range(6)]
    space = Space(steps(6, (8, 16, 24)), tuple(terms), "ms")
    losses = [np.array([3.0, 1.0, 0.0])] * 6
    for widths in (space.smallest, space.largest):
        found = method(space, losses, space.cost(widths))
        assert space.assignment(found.indices) == widths
    # nothing lost anywhere: the whole network is not needed
    flat = method(space, [np.zeros(3)] * 6, space.cost(space.smallest))
    assert flat.loss == 0


def test_too_many_states_are_refused_and_too_many_choices_thinned():
    space = chain(12, tuple(range(8, 72, 8)), pairs=np.random.default_rng(0).random(13))
    losses = [w * (1 - np.arange(1, 9) / 8) ** 2 for w in np.random.default_rng(1).random(12)]
    budget = 0.4 * space.cost(space.largest)
    assert allocate(space, losses, budget, most_states=7) is None
    exact = allocate(space, losses, budget)
    assert exact.bound == exact.loss
    thinned = allocate(space, losses, budget, most_choices=1000)
    assert thinned.bound is None
    assert space.costs(thinned.indices[None])[0] <= budget
    assert exact.loss <= thinned.loss < 1.02 * exact.loss
    priced = allocate_by_price(space, losses, budget)
    assert priced.bound <= exact.loss <= priced.loss < 1.02 * exact.loss


def test_what_hangs_together_too_much_is_priced_without_a_bound(monkeypatch):
    monkeypatch.setattr("pcsparse.compress.search.lagrangian.minimise", lambda *_: None)
    space = unet()
    losses = [np.array([2.0, 0.5, 0.0])] * 5
    budget = 0.5 * space.cost(space.largest)
    found = allocate_by_price(space, losses, budget)
    assert found.bound is None
    assert space.costs(found.indices[None])[0] <= budget
    assert least(space, losses, budget) <= found.loss <= 1.5 * least(space, losses, budget)
