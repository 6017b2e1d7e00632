"""All levels and maps of a network at once: what they are one by one, and how often the host waits."""

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError
from tests.clouds import CLOUDS, UNSORTED, lidar_like
from tests.host_waits import host_waits

HALF, CUBE = Relation.of(2, 2), Relation.of(3)
BOX = ((-1, -2, 0), (1, 2, 0))
CHAINS = {  # how levels are made of the one before: relation, coverage, box
    "halves": [(HALF, "touched", None)] * 3,
    "cubes": [(Relation.of(3, 2, 1, 1), "touched", None), (Relation.of(3, 2, 1, 0), "touched", BOX)],
    "floor": [(Relation.of(3, 2), "floor", None), (HALF, "floor", BOX)],
}
CLOUDS_HERE = {
    "sweep": lidar_like(300, batch_size=2),
    "unsorted": UNSORTED.coords,
    "one": CLOUDS["one"].coords,
    "empty": CLOUDS["empty"].coords,
}


def _one_by_one(coords: torch.Tensor, chain: list, *, some: bool = True) -> CoordCache:
    cache, fine = CoordCache(), coords
    for step in chain:
        cache.kernel_map(fine, fine, CUBE)
        coarse = cache.coarser(fine, *step)
        cache.kernel_map(fine, coarse, step[0])
        fine = coarse
    cache.kernel_map(fine, fine, CUBE)
    if some:
        cache.kernel_map(fine, fine, Relation.of(1))
        cache.kernel_map(coords, coords, Relation.of(5), (0, 62, 124), searched=(0, 62, 124))
        cache.kernel_map(coords, coords, Relation.of(5, dilation=2), (0, 3, 62), searched=(0, 3, 62))
        cache.kernel_map(coords, coords, Relation.of((3, 1, 3)), (1, 2), searched=None)
    return cache


@pytest.mark.parametrize("coords", CLOUDS_HERE.values(), ids=CLOUDS_HERE.keys())
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_maps_at_once_are_the_maps_one_by_one(gpu_or_emulated, chain, coords):
    coords = coords.to(gpu_or_emulated)
    alone = _one_by_one(coords, chain)
    plan, together = alone.plan(), CoordCache()
    sets = plan.fill(together, {0: coords})

    assert together.plan() == plan
    assert list(together.maps()) == list(alone.maps())
    assert sorted(sets) == list(range(plan.n_sets))
    for token, found in sets.items():
        assert torch.equal(found, alone.set(token))
        assert together.set(token) is found
    for key, want in alone.maps().items():
        got = together.maps()[key]
        assert (got.symmetric, got.monotone, got.n_in) == (want.symmetric, want.monotone, want.n_in)
        assert got.table.dtype == torch.int32
        assert torch.equal(got.table, want.table)


def test_a_box_cuts_a_level_of_a_chain(gpu_or_emulated):
    coords = CLOUDS_HERE["sweep"].to(gpu_or_emulated)
    cache = CoordCache()
    uncut = cache.coarser(cache.coarser(coords, *CHAINS["cubes"][0]), CHAINS["cubes"][1][0])
    cut = cache.coarser(cache.coarser(coords, *CHAINS["cubes"][0]), *CHAINS["cubes"][1])
    inside = ((uncut[:, 1:] >= uncut.new_tensor(BOX[0])) & (uncut[:, 1:] <= uncut.new_tensor(BOX[1]))).all(1)
    assert 0 < len(cut) < len(uncut)
    assert torch.equal(cut, uncut[inside])


def test_the_host_waits_once_for_the_cloud_and_all_levels(gpu_or_emulated):
    coords = CLOUDS_HERE["sweep"].to(gpu_or_emulated)
    plan = _one_by_one(coords, CHAINS["halves"], some=False).plan()
    # small constants lie on the device from the first time on
    plan.fill(CoordCache(), {0: coords})
    with host_waits(gpu_or_emulated) as seen:
        plan.fill(CoordCache(), {0: coords})
    assert len(seen.places) == 1, seen.places
    assert not seen.mixed


def test_a_cloud_with_its_first_map_or_level_is_waited_for_once(gpu_or_emulated):
    coords = CLOUDS_HERE["sweep"].to(gpu_or_emulated)
    for ask in (
        lambda cache: cache.kernel_map(coords, coords, CUBE),
        lambda cache: cache.kernel_map(coords, cache.coarser(coords, HALF), HALF),
    ):
        # small constants lie on the device from the first time on
        ask(CoordCache())
        cache = CoordCache()
        with host_waits(gpu_or_emulated) as seen:
            kmap = ask(cache)
            # keys are there, too
            cache.sorted_keys(coords)
            cache.kernel_map(coords, coords, CUBE)
        assert len(seen.places) == 1, seen.places
        assert not seen.mixed
        assert kmap.of_table
        assert kmap.monotone


def test_rows_in_any_order_find_the_same_first_map_and_level(gpu_or_emulated):
    coords = CLOUDS_HERE["sweep"].to(gpu_or_emulated)
    order = torch.randperm(len(coords), generator=torch.Generator().manual_seed(5)).to(gpu_or_emulated)
    mixed, place = coords[order].contiguous(), torch.argsort(order).int()
    for relation in (CUBE, HALF):
        maps = []
        for given in (coords, mixed):
            cache = CoordCache()
            coarse = given if relation is CUBE else cache.coarser(given, relation)
            maps.append(cache.kernel_map(given, coarse, relation))
        table = maps[0].table
        renamed = torch.where(table >= 0, place[table.clamp(min=0).long()], -1)
        assert torch.equal(renamed[:, order] if relation is CUBE else renamed, maps[1].table)
        assert (maps[0].monotone, maps[1].monotone) == (True, False)


def test_what_a_cache_has_is_not_made_again(gpu_or_emulated):
    coords = CLOUDS_HERE["sweep"].to(gpu_or_emulated)
    plan = _one_by_one(coords, CHAINS["halves"]).plan()
    cache = CoordCache()
    first = cache.coarser(coords, HALF)
    kmap = cache.kernel_map(first, first, CUBE)
    sets = plan.fill(cache, {0: coords})
    assert any(found is first for found in sets.values())
    assert any(found is kmap for found in cache.maps().values())
    before = cache.maps()
    plan.fill(cache, {0: coords})
    assert all(cache.maps()[key] is found for key, found in before.items())


def test_a_chain_refuses_what_one_level_refuses(gpu_or_emulated):
    plan = _one_by_one(CLOUDS_HERE["sweep"].to(gpu_or_emulated), CHAINS["halves"]).plan()
    twice = torch.zeros(2, 4, dtype=torch.int32, device=gpu_or_emulated)
    far = torch.tensor([[0, 0, 0, 1 << 16]], dtype=torch.int32, device=gpu_or_emulated)
    for coords, said in ((twice, "1 of 2 coordinates are duplicates"), (far, "z of the coordinates spans")):
        with pytest.raises(RangeError, match=said):
            plan.fill(CoordCache(), {0: coords})


def test_a_level_beyond_the_range_is_refused_with_the_same_words(gpu_or_emulated):
    # in the range itself, but what is touched from there is not
    end = torch.tensor([[0, 0, 0, 32511]], dtype=torch.int32, device=gpu_or_emulated)
    long = [(Relation.of((1, 1, 3), 1, (1, 1, 100)), "touched", None)]
    plan = _one_by_one(
        CLOUDS_HERE["sweep"].to(gpu_or_emulated), [*long, *CHAINS["halves"]], some=False
    ).plan()
    said = []
    for ask in (lambda cache: cache.coarser(end, *long[0]), lambda cache: plan.fill(cache, {0: end})):
        with pytest.raises(RangeError, match="z of the coordinates spans") as refused:
            ask(CoordCache())
        said.append(str(refused.value))
    assert said[0] == said[1]
