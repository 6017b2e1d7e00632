"""Regularised evolution."""

import pytest

from pcsparse.compress.search.evolution import Evolution
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.random_search import RandomSearch
from pcsparse.compress.search.uniform import uniform_widths
from pcsparse.errors import RangeError
from tests.compress.search.spaces import additive, best_of_all, chain

WIDTHS = tuple(range(8, 72, 8))


def test_it_finds_the_best_of_a_small_space():
    space = chain(4, WIDTHS, pairs=[1, 2, 4, 1, 1])
    score = additive(space, [0.1, 0.3, 0.02, 0.5])
    budget = space.cost(space.largest) / 2
    best = best_of_all(space, score, budget)
    for seed in range(2):
        result = search(space, score, budget, 200, seed, method=Evolution())
        assert result.best.score > best - 0.002


def test_it_beats_random_search():
    space = chain(10, WIDTHS)
    score = additive(space, [0.01, 0.5, 0.02, 0.3, 0.1, 0.01, 0.4, 0.03, 0.2, 0.01])
    budget = space.cost(space.largest) / 3
    for seed in range(2):
        evolved, drawn = (
            search(space, score, budget, 150, seed, method=m).best.score
            for m in (Evolution(), RandomSearch())
        )
        assert evolved > drawn + 0.02


def test_the_first_is_uniform_and_all_are_new():
    space = chain(5, WIDTHS)
    budget = space.cost(space.largest) / 2
    result = search(
        space, additive(space, [0.1] * 5), budget, 60, method=Evolution(population=8, tournament=3)
    )
    assert result.trials[0].widths == uniform_widths(space, budget)
    assert len(result.trials) == 60
    assert not any(trial.cached for trial in result.trials)
    assert result.note == ""


def test_the_old_die(monkeypatch):
    parents = []
    mutate = Evolution._mutated
    monkeypatch.setattr(
        Evolution, "_mutated", lambda self, task, w: parents.append(w) or mutate(self, task, w)
    )
    space = chain(5, WIDTHS)
    budget = space.cost(space.largest) / 2
    first = uniform_widths(space, budget)
    # the first of all is the best by far, and has children only while it lives
    method = Evolution(population=6, tournament=6, batch=2)
    result = search(space, lambda w: 0.9 if w == first else 0.1, budget, 40, method=method)
    assert result.best.widths == first
    assert parents[0] == first
    assert first not in parents[-20:]


def test_a_space_runs_out():
    space = chain(2, (8, 16))
    result = search(space, additive(space, [0.1, 0.1]), space.cost(space.largest), 50, method=Evolution())
    assert [trial.widths for trial in result.trials] == [(16, 16)]
    assert "no widths were left" in result.note


@pytest.mark.parametrize("field", ["population", "tournament", "moves", "batch"])
def test_wrong_settings_are_refused(field):
    with pytest.raises(RangeError, match="at least 1"):
        Evolution(**{field: 0})
