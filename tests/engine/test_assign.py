"""The cheapest choices of a group, beside all of them tried."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.engine.assign import Option, _Search, cheapest, total

PARTS = tuple("abcde")
# few values, so that ties are common
SECONDS = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0])
OPTIONS = st.builds(Option, SECONDS, st.frozensets(st.sampled_from(PARTS), max_size=3))
GROUPS = st.lists(st.lists(OPTIONS, min_size=1, max_size=4), max_size=4)
COSTS = st.fixed_dictionaries(dict.fromkeys(PARTS, SECONDS))


@settings(max_examples=150, deadline=None)
@given(GROUPS, COSTS)
def test_nothing_is_cheaper(options, costs):
    least = min(total(options, picks, costs) for picks in product(*(range(len(some)) for some in options)))
    picks = cheapest(options, costs)
    assert total(options, picks, costs) == least


@pytest.mark.parametrize(("cost", "picks"), [(0.5, (0, 0)), (1.5, (1, 1)), (3.0, (0, 0))])
def test_a_shared_part_is_paid_once(cost, picks):
    # the second options are slower by one in all; apart, neither layer would leave "a" or "b" for "c"
    options = [
        [Option(1.0, frozenset("a")), Option(1.5, frozenset("c"))],
        [Option(1.0, frozenset("b")), Option(1.5, frozenset("c"))],
    ]
    costs = {"a": 1.5, "b": 1.5, "c": {0.5: 2.5, 1.5: 1.5, 3.0: 3.0}[cost]}
    assert cheapest(options, costs) == picks
    assert total(options, (1, 1), costs) == 3.0 + costs["c"]


def test_the_first_options_stay_where_nothing_is_cheaper():
    same = [Option(1.0, frozenset("a")), Option(1.0, frozenset("a")), Option(0.5, frozenset("ab"))]
    assert cheapest([same, same], {"a": 1.0, "b": 1.0}) == (0, 0)
    assert cheapest([], {}) == ()


def test_a_large_group_takes_few_steps():
    # 30 members, 13 parts each, most of them worth considering
    options = [
        [Option(1.0 + (7 * member + 3 * n) % 11 / 10, frozenset({f"{member % 2} {n}"})) for n in range(13)]
        for member in range(30)
    ]
    search = _Search(options, {f"{side} {n}": 0.5 for side in range(2) for n in range(13)})
    search.below(frozenset(), frozenset())
    assert 1 < search.visited < 300
    assert search._least == pytest.approx(36.0)
