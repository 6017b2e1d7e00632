"""The least sum of tables, against trying everything."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.compress.search.elimination import Factor, descend, minimise


def total(factors, values):
    return sum(float(f.table[tuple(values[v] for v in f.variables)]) for f in factors)


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    scopes = draw(
        st.lists(
            st.lists(st.sampled_from(range(len(sizes))), max_size=3, unique=True), min_size=0, max_size=6
        )
    )
    # whole numbers: sums in any order are the same
    return sizes, [Factor(tuple(s), rng.integers(0, 9, [sizes[v] for v in s]).astype(float)) for s in scopes]


@given(problems())
@settings(max_examples=100, deadline=None)
def test_nothing_is_smaller(problem):
    sizes, factors = problem
    least = min(total(factors, values) for values in itertools.product(*map(range, sizes)))
    found = minimise(sizes, factors)
    assert total(factors, found) == least
    settled = descend(sizes, factors, np.zeros(len(sizes), np.int64))
    assert least <= total(factors, settled) <= total(factors, [0] * len(sizes))
    for v, size in enumerate(sizes):
        for value in range(size):
            assert total(factors, settled) <= total(factors, [*settled[:v], value, *settled[v + 1 :]])


def test_a_long_chain_needs_no_large_table():
    rng = np.random.default_rng(0)
    factors = [Factor((i, i + 1), rng.random((16, 16))) for i in range(99)]
    found = minimise([16] * 100, factors, most_entries=16**3)
    # the same by dynamic programming from left to right
    best = np.zeros(16)
    for factor in factors:
        best = (best[:, None] + factor.table).min(axis=0)
    assert total(factors, found) == pytest.approx(best.min(), rel=1e-12)


def test_what_hangs_together_too_much_is_refused():
    factors = [Factor((i, j), np.ones((4, 4))) for i, j in itertools.combinations(range(6), 2)]
    assert minimise([4] * 6, factors, most_entries=4**6 - 1) is None
    assert minimise([4] * 6, factors, most_entries=4**6) is not None
