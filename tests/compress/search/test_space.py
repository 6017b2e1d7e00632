"""Steps, cost terms, and the cost of an assignment."""

import numpy as np
import pytest

from pcsparse.compress.search.space import CostTerm, Space, Step
from pcsparse.errors import RangeError, ShapeError
from tests.compress.search.spaces import chain, everything, products, steps, unet


def test_the_cost_of_a_chain_is_that_of_its_layers():
    space = chain(3, pairs=[2.0, 5.0, 7.0, 1.0])
    for a, b, c in everything(space):
        assert space.cost((a, b, c)) == 2 * 3 * a + 5 * a * b + 7 * b * c + 19 * c
    assert space.smallest == (8, 8, 8)
    assert space.largest == (32, 32, 32)
    assert space.cheapest == space.smallest


def test_ties_concatenations_and_what_nothing_changes():
    space = unet()
    for a, b, c, d, e in everything(space):
        wanted = (
            9 * 4 * a + 3 * a * b + 5 * b * b + 2 * 5 * b * c + 3 * b * d + 9 * (a + d) * e + 19 * e + 1234
        )
        assert space.cost((a, b, c, d, e)) == wanted


def test_rows_cost_what_they_cost_alone():
    space = unet()
    rows = np.array([space.indices(widths) for widths in everything(space)[::7]])
    assert space.costs(rows).tolist() == [space.cost(space.assignment(row)) for row in rows]


def test_ratios_become_widths():
    step = Step.from_ratios("g", 100, [0.0, 0.5, 0.9, 0.91, 0.3], multiple=16, c_in=7)
    # kept 100, 50, 10, 9, 70
    assert step.widths == (16, 64, 80, 100)
    assert step.c_in == 7
    assert Step.from_ratios("g", 10, [0.1, 0.99], multiple=1).widths == (1, 9, 10)
    assert Step.from_ratios("g", 6, [0.5]).widths == (6,)


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5, float("nan")])
def test_a_ratio_that_leaves_nothing_or_too_much_is_refused(ratio):
    with pytest.raises(RangeError, match=r"from 0 to below 1; step 'conv3' has \["):
        Step.from_ratios("conv3", 64, [0.5, ratio])
    with pytest.raises(RangeError, match="full and multiple"):
        Step.from_ratios("conv3", 64, [0.5], multiple=0)


@pytest.mark.parametrize("widths", [(), (0, 8), (8, 8), (16, 8)])
def test_wrong_grids_are_refused(widths):
    with pytest.raises(RangeError, match="widths of step 'conv3' must ascend"):
        Step("conv3", widths)


def test_wrong_terms_are_refused():
    two = steps(2)
    with pytest.raises(RangeError, match=r"depends on \['g7'\]; the steps are \['g0', 'g1'\]"):
        Space(two, (CostTerm("x", ("g7",), np.ones(4)),))
    with pytest.raises(ShapeError, match=r"shape \(3,\), the grids of \('g0',\) have \(4,\)"):
        Space(two, (CostTerm("x", ("g0",), np.ones(3)),))
    with pytest.raises(RangeError, match="each with a name of its own"):
        Space((two[0], two[0]), ())
    with pytest.raises(RangeError, match="each with a name of its own"):
        Space((), ())
    with pytest.raises(RangeError, match="negative or not finite"):
        CostTerm("x", ("g0",), np.array([1.0, np.nan]))
    with pytest.raises(RangeError, match="names a group twice"):
        CostTerm("x", ("g0", "g0"), np.ones((4, 4)))
    with pytest.raises(ShapeError, match="depends on 1 groups"):
        CostTerm("x", ("g0",), np.ones((4, 4)))
    with pytest.raises(ShapeError, match="axis 0 has no group"):
        CostTerm.of_layer("x", None, "g0", products([3, 4], [1], 1.0))
    with pytest.raises(ShapeError, match="must be square"):
        CostTerm.of_layer("x", "g0", "g0", np.ones((4, 3)))
    with pytest.raises(ShapeError, match="must be a matrix"):
        CostTerm.of_layer("x", "g0", "g0", np.ones(4))
    with pytest.raises(RangeError, match="features of step 'x' must be finite"):
        Step("x", (8,), pairs=float("inf"))


def test_wrong_assignments_are_refused():
    with pytest.raises(RangeError, match=r"step 'g1' has no width 9; it has \(8, 16, 24, 32\)"):
        chain(2).cost((8, 9))
    with pytest.raises(RangeError, match="3 widths for 2 steps"):
        chain(2).cost((8, 8, 8))


def test_tables_are_copied_and_frozen():
    table = np.ones(4)
    term = CostTerm("x", ("g0",), table)
    table[0] = 9
    assert term.table[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        term.table[0] = 9


def test_shares_split_a_layer_between_its_groups():
    space = chain(2, pairs=[1.0, 1.0, 0.0])
    first, between = 3 * 32, 32 * 32
    total = first + between
    assert space.shares == pytest.approx([(first + between / 2) / total, between / 2 / total])


def test_the_cheapest_may_not_be_the_smallest():
    rng = np.random.default_rng(3)
    for _ in range(20):
        tables = [rng.random((4, 4)) for _ in range(3)]
        names = [("g0", "g1"), ("g1", "g2"), ("g0", "g2")]
        space = Space(steps(3), tuple(map(CostTerm, "abc", names, tables)))
        assert space.cost(space.cheapest) == min(space.cost(widths) for widths in everything(space))


def test_fingerprints_tell_spaces_apart():
    assert chain(3).fingerprint == chain(3).fingerprint
    others = [
        chain(2),
        chain(3, (8, 16)),
        chain(3, pairs=[1, 1, 2, 1]),
        Space(chain(3).steps, chain(3).terms, "ms"),
    ]
    assert len({space.fingerprint for space in (chain(3), *others)}) == 5
