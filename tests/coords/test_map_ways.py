"""Caches whose maps a GPU makes by other ways than the search: the same maps, and no more waits."""

import pickle

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from pcsparse.kernels.map_ways import WAYS, MapRule, Way
from tests.clouds import UNSORTED, lidar_like
from tests.host_waits import host_waits

HALF, CUBE, WIDE = Relation.of(2, 2), Relation.of(3), Relation.of(5, dilation=2)
FREE = (0.0,) * 5
SWEEP = lidar_like(120, batch_size=2)


def _rule(way: Way) -> MapRule:
    """Takes a way wherever it can."""
    return MapRule({"search": (1.0, 0.0, 0.0, 0.0, 0.0), way: FREE}, (1 << 40,) * 4)


HOWS = {**{way: way for way in WAYS}, **{f"rule-{way}": _rule(way) for way in WAYS}}


def _filled(cache: CoordCache, coords: torch.Tensor) -> CoordCache:
    fine = coords
    for _ in range(2):
        cache.kernel_map(fine, fine, CUBE)
        coarse = cache.coarser(fine, HALF)
        cache.kernel_map(fine, coarse, HALF)
        fine = coarse
    cache.kernel_map(fine, fine, WIDE)
    cache.kernel_map(fine, fine, CUBE, (0, 1, 26), searched=(0, 1, 26))
    return cache


@pytest.mark.parametrize("coords", [SWEEP, UNSORTED.coords], ids=["sweep", "unsorted"])
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS.keys())
def test_maps_are_the_same_by_every_way(gpu_or_emulated, monkeypatch, how, coords):
    from pcsparse.kernels.gpu import lookup

    launched = []
    launch = lookup._launch
    monkeypatch.setattr(lookup, "_launch", lambda name, *args: (launched.append(name), launch(name, *args)))
    coords = coords.to(gpu_or_emulated)
    searched = _filled(CoordCache(), coords)
    assert not launched
    found = _filled(CoordCache(how=how), coords)
    named = "search" if how == "search" or how == HOWS["rule-search"] else how
    way = named if isinstance(named, str) else next(reversed(named.seconds))
    looked = [] if way == "search" else [f"look_in_{way}"]
    assert [name for name in launched if name.startswith("look")] == looked * 6
    del launched[:]
    together = found.rebuilt()
    assert [name for name in launched if name.startswith("look")] == looked * 6
    for key, want in searched.maps().items():
        for cache in (found, together):
            got = cache.maps()[key]
            assert torch.equal(got.table, want.table)
            assert (got.symmetric, got.monotone, got.n_in) == (want.symmetric, want.monotone, want.n_in)
    assert together.how == pickle.loads(pickle.dumps(found)).how == how


@pytest.mark.parametrize(
    "how",
    [*WAYS[1:], *[_rule(way) for way in WAYS[1:]]],
    ids=[*WAYS[1:], *[f"rule-{way}" for way in WAYS[1:]]],
)
def test_the_map_to_a_first_level_goes_that_way_too(gpu_or_emulated, monkeypatch, how):
    from pcsparse.kernels.gpu import lookup

    launched = []
    launch = lookup._launch
    monkeypatch.setattr(lookup, "_launch", lambda name, *args: (launched.append(name), launch(name, *args)))
    coords = SWEEP.to(gpu_or_emulated)
    tables = []
    for cache in (CoordCache(), CoordCache(how=how)):
        tables.append(cache.kernel_map(coords, cache.coarser(coords, HALF), HALF).table)
    assert sum(name.startswith("look") for name in launched) == 1
    assert torch.equal(*tables)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "search"])
def test_the_host_waits_no_more_often(gpu_or_emulated, way):
    coords = SWEEP.to(gpu_or_emulated)
    plan = _filled(CoordCache(), coords).plan()
    for _ in range(2):
        with host_waits(gpu_or_emulated) as seen:
            plan.fill(CoordCache(how=way), {0: coords})
    assert len(seen.places) == 1, seen.places
    assert not seen.mixed


def test_a_first_map_that_a_rule_has_searched_comes_with_its_keys(gpu_or_emulated):
    coords = SWEEP.to(gpu_or_emulated)
    for how, waits in (("search", 1), (_rule("search"), 1), (_rule("grid"), 1)):
        with host_waits(gpu_or_emulated) as seen:
            CoordCache(how=how).kernel_map(coords, coords, CUBE)
        assert len(seen.places) == waits, seen.places


def test_a_way_that_cannot_make_a_map_is_refused_with_the_sizes(gpu_or_emulated):
    ends = torch.tensor(
        [[0, -120_000, 0, 0], [0, 120_000, 100_000, 0]], dtype=torch.int32, device=gpu_or_emulated
    )
    with pytest.raises(RangeError, match=r"no map by 'hash': .* not of 24000340001; take runs"):
        CoordCache(how="hash").kernel_map(ends, ends, CUBE)
    assert CoordCache(how=_rule("hash")).kernel_map(ends, ends, CUBE).table[13].tolist() == [0, 1]
