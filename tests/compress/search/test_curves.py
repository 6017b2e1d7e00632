"""Sensitivity curves, and the two methods that live on them."""

import math

import numpy as np
import pytest

from pcsparse.compress.search.bisect import Bisection
from pcsparse.compress.search.curves import SensitivityCurves
from pcsparse.compress.search.dynamic_programming import DynamicProgramming
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import CostTerm, Space
from pcsparse.errors import PcsparseError, RangeError, ShapeError
from tests.compress.search.spaces import Counted, additive, best_of_all, chain, curves_of, steps, unet


def test_losses_are_lines_between_what_was_measured_and_never_fall():
    space = chain(3, (8, 16, 24, 32))
    curves = SensitivityCurves(
        0.8, ((0.2, None, 0.75, None), (None, 0.7, 0.9, None), (None, None, None, 0.8))
    )
    first, second, third = curves.losses(space)
    assert first == pytest.approx([0.6, 0.325, 0.05, 0.0])
    # not looked at: all is lost; better than the whole: nothing is
    assert second == pytest.approx([0.8, 0.1, 0.0, 0.0])
    assert third == pytest.approx([0.8, 0.8, 0.8, 0.0])
    bumpy = SensitivityCurves(0.8, ((0.5, 0.6, 0.3, None),) * 3)
    assert bumpy.losses(space)[0] == pytest.approx([0.5, 0.5, 0.5, 0.0])


def test_curves_of_another_space_are_refused():
    with pytest.raises(ShapeError, match=r"curves of \(2,\) widths for steps of \(4, 4\)"):
        SensitivityCurves(0.8, ((0.5, None),)).losses(chain(2))


@pytest.mark.parametrize("method", [Bisection(), DynamicProgramming()])
def test_curves_are_measured_within_the_evaluations(method):
    space = chain(3)
    score = additive(space, [0.3, 0.1, 0.2])
    count = Counted(score)
    result = search(space, count, space.cost(space.largest) / 2, 8, method=method)
    # two a step of three: the narrowest and the widest but one
    narrow = [(8, 32, 32), (24, 32, 32), (32, 8, 32), (32, 24, 32), (32, 32, 8), (32, 32, 24)]
    assert count.asked[:7] == [(32, 32, 32), *narrow]
    assert [trial.probe for trial in result.trials] == [True] * 7 + [False]
    assert result.best is result.trials[-1]
    assert result.best.cost <= space.cost(space.largest) / 2
    with pytest.raises(RangeError, match="at least 5 are needed"):
        search(space, score, space.cost(space.largest) / 2, 4, method=method)
    # the smallest number that suffices
    assert len(search(space, score, space.cost(space.largest) / 2, 5, method=method).trials) == 5


@pytest.mark.parametrize("method", [Bisection, DynamicProgramming])
def test_given_curves_cost_one_evaluation(method):
    space = chain(3)
    score = additive(space, [0.3, 0.1, 0.2])
    count = Counted(score)
    search(space, count, space.cost(space.largest) / 2, 1, method=method(curves_of(space, score)))
    assert len(count.asked) == 1


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.75, 1.0])
def test_dynamic_programming_is_the_best_of_all_where_losses_add_up(share):
    rng = np.random.default_rng(7)
    for space in (chain(5), unet((8, 16, 24, 32))):
        score = additive(space, rng.random(5) / 5)
        budget = share * space.cost(space.largest)
        result = search(space, score, budget, 100, method=DynamicProgramming())
        assert result.best.score == pytest.approx(best_of_all(space, score, budget), abs=1e-12)
        assert "exact for these curves" in result.note


def test_the_note_says_how_exact_the_answer_is(monkeypatch):
    space = unet((8, 16, 24, 32))
    score = additive(space, [0.1, 0.2, 0.05, 0.1, 0.15])
    budget = 0.4 * space.cost(space.largest)
    where = "pcsparse.compress.search.dynamic_programming.allocate"
    monkeypatch.setattr(where, lambda *_: None)
    assert "by prices, at most" in search(space, score, budget, 100, method=DynamicProgramming()).note
    monkeypatch.setattr("pcsparse.compress.search.lagrangian.minimise", lambda *_: None)
    assert "without a bound" in search(space, score, budget, 100, method=DynamicProgramming()).note


def test_bisection_takes_the_smallest_common_loss_that_fits():
    space = chain(4)
    score = additive(space, [0.05, 0.3, 0.02, 0.4])
    losses = curves_of(space, score).losses(space)
    for share in (0.15, 0.3, 0.5, 0.8):
        budget = share * space.cost(space.largest)
        result = search(space, score, budget, 100, method=Bisection())
        chosen = space.indices(result.best.widths)
        # by hand: walk up the losses until the narrowest allowed widths fit
        for most in sorted(set(np.concatenate(losses))):
            widths = tuple(
                min(w for w, lost in zip(s.widths, loss, strict=True) if lost <= most)
                for s, loss in zip(space.steps, losses, strict=True)
            )
            if space.cost(widths) <= budget:
                break
        assert space.assignment(chosen) == widths
        assert f"{most:.4g}" in result.note


def test_a_failed_probe_means_that_nothing_is_cut_there():
    space = chain(3)
    score = additive(space, [0.01, 0.3, 0.3])

    def evaluate(widths):
        return math.nan if widths[0] < 32 and widths[1] == widths[2] == 32 else score(widths)

    budget = 0.6 * space.cost(space.largest)
    for method in (Bisection(), DynamicProgramming()):
        assert search(space, score, budget, 50, method=method).best.widths[0] < 32
        assert search(space, evaluate, budget, 50, method=method).best.widths[0] == 32


def test_a_whole_network_without_a_score_has_no_curves():
    space = chain(3)
    with pytest.raises(PcsparseError, match="whole network has no finite score"):
        search(space, lambda _: math.nan, 0.6 * space.cost(space.largest), 50, method=Bisection())


def test_a_bisection_does_not_cut_what_is_cheaper_whole():
    # both narrow is dear, one narrow is cheap
    table = np.array([[9.0, 1.0], [2.0, 9.0]])
    space = Space(steps(2, (8, 16)), (CostTerm("t", ("g0", "g1"), table),), "ms")
    result = search(space, additive(space, [0.1, 0.1]), 1.5, 9, method=Bisection())
    assert result.best.widths == (8, 16)
    assert result.note == "each step alone loses at most 0.025"


def independent(n: int, widths=(8, 16, 32, 48, 64), each=None) -> Space:
    """Steps whose costs add up: `each` a unit of width, 1 if None."""
    prices = [1.0] * n if each is None else each
    terms = [
        CostTerm(step.name, (step.name,), price * np.array(widths, float))
        for step, price in zip(steps(n, widths), prices, strict=True)
    ]
    return Space(steps(n, widths), tuple(terms))


def chosen(space: Space, scores: dict[int, float], budget: float) -> tuple[int, ...]:
    curve = tuple(scores.get(width) for width in space.steps[0].widths)
    method = Bisection(SensitivityCurves(0.6, (curve,) * len(space.steps)))
    return search(space, lambda _: 0.5, budget, 1, method=method).best.widths


def test_a_bisection_below_what_was_scanned_cuts_no_more_than_it_must():
    space, scores = independent(10), {16: 0.55, 32: 0.58, 48: 0.59}
    assert chosen(space, scores, 160.0) == (16,) * 10
    # all steps lose all at once, and one of them has to
    assert chosen(space, scores, 159.0) == (8, *(16,) * 9)
    assert chosen(space, scores, 144.0) == (8, 8, *(16,) * 8)
    assert chosen(space, scores, 80.0) == (8,) * 10
    # what saves most goes first
    dear = independent(3, each=[1.0, 1.0, 2.0])
    assert chosen(dear, scores, 63.0) == (16, 16, 8)
    assert chosen(dear, scores, 41.0) == (8, 16, 8)
    # the last one no further than it must; of equal losses within the scan alike
    assert chosen(independent(2), {48: 0.59}, 95.0) == (32, 48)
    assert chosen(independent(2), {48: 0.59}, 60.0) == (8, 48)
    assert chosen(independent(2), {48: 0.59}, 50.0) == (8, 32)
    assert chosen(independent(3), {16: 0.55, 48: 0.59}, 176.0) == (48, 64, 64)


def test_a_bisection_cuts_no_more_than_it_must_of_what_loses_nothing():
    space, scores = independent(4), {16: 0.6, 32: 0.61, 48: 0.6}
    assert chosen(space, scores, 256.0) == (64,) * 4
    assert chosen(space, scores, 240.0) == (48, 64, 64, 64)
    assert chosen(space, scores, 200.0) == (16, 48, 64, 64)
