"""Shares of redundant multiply-adds."""

import pytest

from pcsparse.bench.redundancy import run_redundancy
from pcsparse.coords.relation import Relation
from pcsparse.coords.row_order import RowOrder
from tests.bench.scenes import small_scene


def test_shares_agree_with_a_count_over_the_table():
    scene = small_scene()
    results = run_redundancy(scene)
    shares = {(result.order, result.splits, result.tile): result.share for result in results}

    assert all(result.check.passed for result in results)
    assert len(shares) == len(results) == 2 * 10
    kmap = scene.kernel_map(Relation.of(3))
    assert shares["no masks", 0, 64] == pytest.approx(1 - kmap.n_pairs / (27 * kmap.n_out))
    # a taller tile holds a shorter one, and sorting is there to help
    assert shares["none", 1, 64] <= shares["none", 1, 128] <= shares["no masks", 0, 128]
    assert shares["binary", 1, 64] < shares["none", 1, 64]
    assert shares["gray", 1, 64] < shares["none", 1, 64]


def test_a_wrong_share_is_not_shown(monkeypatch):
    honest = RowOrder.redundant_share
    monkeypatch.setattr(RowOrder, "redundant_share", lambda self, tile: 0.9 * honest(self, tile))
    results = [result for result in run_redundancy(small_scene()) if result.order != "no masks"]
    assert not any(result.check.passed for result in results)
    assert {(result.share, result.overhead) for result in results} == {(None, None)}


def test_an_order_that_loses_a_row_is_not_shown(monkeypatch):
    from pcsparse.bench import redundancy

    honest = redundancy.row_order

    def lossy(table, **how):
        found = honest(table, **how)
        found.rows[:, 0] = found.rows[:, 1]
        return found

    monkeypatch.setattr(redundancy, "row_order", lossy)
    results = [result for result in run_redundancy(small_scene()) if result.order != "no masks"]
    assert {result.share for result in results} == {None}
