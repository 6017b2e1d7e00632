"""CoordCache: a map is found by every field that shapes it, and by nothing less."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

from pcsparse.coords import cache as cache_module
from pcsparse.coords.build import build_kernel_map
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from tests import oracle
from tests.clouds import CLUMPED, PLANE, TWO_BATCHES, UNSORTED
from tests.coords.test_kernel_map import check_map
from tests.oracle import Geometry

K3 = Relation.of(3)


def test_the_same_map_is_built_once(device):
    cache, coords = CoordCache(), UNSORTED.coords.to(device)
    first = cache.kernel_map(coords, coords, K3)

    assert cache.kernel_map(coords, coords, Relation((3, 3, 3))) is first
    assert len(cache) == 1


@pytest.mark.parametrize(
    "other",
    [
        Relation.of((3, 3, 5)),
        Relation.of(3, (1, 1, 2)),
        Relation.of(3, dilation=(2, 1, 1)),
        Relation.of(3, padding=(0, 1, 0)),
    ],
    ids=["kernel_size", "stride", "dilation", "padding"],
)
def test_each_field_of_the_relation_has_its_own_map(other):
    cache, coords = CoordCache(), UNSORTED.coords
    first, second = cache.kernel_map(coords, coords, K3), cache.kernel_map(coords, coords, other)

    assert (first.relation, second.relation) == (K3, other)
    assert len(cache) == 2
    geometry = Geometry(other.kernel_size, other.stride, other.dilation, other.padding)
    check_map(second, oracle.kernel_map(coords, coords, geometry), len(coords), len(coords))


def test_kept_offsets_have_their_own_map():
    cache, coords = CoordCache(), UNSORTED.coords
    whole = cache.kernel_map(coords, coords, K3)
    some = cache.kernel_map(coords, coords, K3, (0, 13, 20))

    assert (whole.volume, some.volume) == (27, 3)
    assert cache.kernel_map(coords, coords, K3, (0, 13, 20)) is some
    assert cache.kernel_map(coords, coords, K3, (0, 13, 21)) is not some
    starts = whole.pairs.starts
    assert torch.equal(some.pairs.rows_in[: starts[1]], whole.pairs.rows_in[: starts[1]])
    assert some.pairs.starts.diff().tolist() == whole.pairs.starts.diff()[[0, 13, 20]].tolist()


@pytest.fixture
def searches(monkeypatch):
    """The offsets of each search, as they come."""
    seen: list[tuple[int, ...] | None] = []

    def build(fine, coarse, relation, offsets=None, **options):
        seen.append(offsets)
        return build_kernel_map(fine, coarse, relation, offsets, **options)

    monkeypatch.setattr(cache_module, "build_kernel_map", build)
    return seen


SOME, OTHERS, UNION = (4, 13, 22), (0, 13, 26), (0, 4, 13, 22, 26)
CUBE = Geometry((3, 3, 3))


def _check_offsets(kmap, coords, offsets):
    """The oracle's pairs of some offsets."""
    place = {k: i for i, k in enumerate(offsets)}
    expected = {(i, j, place[k]) for i, j, k in oracle.kernel_map(coords, coords, CUBE) if k in place}
    check_map(kmap, expected, len(coords), len(coords))
    # a map is its own mirror image where its offsets are, and it has the centre
    assert kmap.symmetric == (13 in offsets and set(offsets) == {26 - k for k in offsets})


def test_offsets_that_all_layers_keep_are_searched_and_no_others(searches):
    cache, coords = CoordCache(), UNSORTED.coords
    first = cache.kernel_map(coords, coords, K3, SOME, searched=SOME)

    assert cache.kernel_map(coords, coords, K3, SOME) is first
    assert searches == [SOME]
    assert len(cache) == 1
    _check_offsets(first, coords, SOME)


def test_layers_with_different_offsets_share_one_search(searches):
    cache, coords = CoordCache(), UNSORTED.coords
    for offsets in (SOME, OTHERS, (4, 13), SOME):
        _check_offsets(cache.kernel_map(coords, coords, K3, offsets, searched=UNION), coords, offsets)
    assert searches == [UNION]
    # what was searched, and three parts of it
    assert len(cache) == 4


def test_offsets_of_which_nothing_is_known_come_from_the_whole_map(searches):
    cache, coords = CoordCache(), UNSORTED.coords
    _check_offsets(cache.kernel_map(coords, coords, K3, SOME), coords, SOME)
    _check_offsets(cache.kernel_map(coords, coords, K3, OTHERS, searched=OTHERS), coords, OTHERS)
    assert cache.kernel_map(coords, coords, K3).volume == 27
    assert searches == [None]


def test_what_was_forgotten_is_searched_for_after_all(searches):
    cache, coords = CoordCache(), UNSORTED.coords
    cache.kernel_map(coords, coords, K3, SOME, searched=SOME)
    _check_offsets(cache.kernel_map(coords, coords, K3, OTHERS, searched=SOME), coords, OTHERS)
    _check_offsets(cache.kernel_map(coords, coords, K3, (1, 2), searched=(1, 2)), coords, (1, 2))
    assert cache.kernel_map(coords, coords, K3).volume == 27
    assert searches == [SOME, None]


def test_a_part_comes_from_a_map_of_the_same_coordinates_and_geometry(searches):
    cache, coords = CoordCache(), UNSORTED.coords
    cache.kernel_map(coords, coords, K3, UNION, searched=UNION)
    other = coords.clone()
    cache.kernel_map(other, other, K3)
    assert cache.kernel_map(coords, other, K3, SOME, searched=SOME).n_in == len(coords)
    cache.kernel_map(coords, coords, Relation.of(3, dilation=2), SOME, searched=SOME)
    assert searches == [UNION, None, SOME, SOME]
    # a map anew needs no more searches than the first time
    searches.clear()
    _check_offsets(cache.kernel_map(coords, coords, K3, SOME), coords, SOME)
    cache.rebuilt()
    assert searches == [UNION, None, SOME, SOME]


def test_two_clouds_of_equal_size_never_share_a_map():
    # made without an edit in place, so that only their identity tells them apart
    cache, first = CoordCache(), UNSORTED.coords
    second = first * torch.tensor([1, 2, 1, 1], dtype=torch.int32)
    first_map = cache.kernel_map(first, first, K3)
    second_map = cache.kernel_map(second, second, K3)

    assert second_map is not first_map
    check_map(second_map, oracle.kernel_map(second, second, Geometry((3, 3, 3))), len(second), len(second))


def test_fine_and_coarse_are_not_interchangeable():
    cache, fine, coarse = CoordCache(), PLANE.coords, CLUMPED.coords
    for a, b in ((fine, coarse), (coarse, fine), (fine, fine), (coarse, coarse)):
        kmap = cache.kernel_map(a, b, Relation.of((2, 3, 4)))
        check_map(kmap, oracle.kernel_map(a, b, Geometry((2, 3, 4))), len(a), len(b))
    assert len(cache) == 4


def test_an_edit_in_place_is_noticed():
    cache, coords = CoordCache(), UNSORTED.coords.clone()
    before = cache.kernel_map(coords, coords, K3)
    coarse = cache.coarser(coords, Relation.of(2, 2))
    coords[:, 1] *= 3
    after = cache.kernel_map(coords, coords, K3)

    assert after is not before
    check_map(after, oracle.kernel_map(coords, coords, Geometry((3, 3, 3))), len(coords), len(coords))
    assert not torch.equal(cache.coarser(coords, Relation.of(2, 2)), coarse)


def test_a_dead_tensor_leaves_no_map_to_its_successor():
    cache = CoordCache()
    for shift in range(20):
        # freed memory and ids are used again
        coords = UNSORTED.coords.clone()
        coords[:, 1:] *= 1 + shift % 2
        kmap = cache.kernel_map(coords, coords, K3)
        assert kmap.n_pairs == len(oracle.kernel_map(coords, coords, Geometry((3, 3, 3))))
        del coords


COPIES = {"copy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_a_copy_finds_its_own_maps(copied):
    cache, coords = CoordCache(), TWO_BATCHES.coords.clone()
    cache.kernel_map(coords, coords, K3)
    coarse = cache.coarser(coords, Relation.of(2, 2))
    other, other_coords, other_coarse = copied((cache, coords, coarse))

    kmap = other.kernel_map(other_coords, other_coords, K3)
    assert len(other) == 1
    check_map(kmap, oracle.kernel_map(coords, coords, Geometry((3, 3, 3))), len(coords), len(coords))
    assert other.finer(other_coarse, Relation.of(2, 2)) is other_coords
    # the original's coordinates are strangers there
    other.kernel_map(coords, coords, K3)
    assert len(other) == 2


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_a_copy_forgets_maps_of_coordinates_edited_before(copied):
    cache, coords = CoordCache(), TWO_BATCHES.coords.clone()
    cache.kernel_map(coords, coords, K3)
    coords[:, 1] *= 2
    other, other_coords = copied((cache, coords))

    kmap = other.kernel_map(other_coords, other_coords, K3)
    check_map(kmap, oracle.kernel_map(coords, coords, Geometry((3, 3, 3))), len(coords), len(coords))


def test_levels_are_made_once_and_know_the_way_back():
    cache, coords = CoordCache(), TWO_BATCHES.coords
    halve = Relation.of(2, 2)
    coarse = cache.coarser(coords, halve)

    assert cache.coarser(coords, halve) is coarse
    assert cache.coarser(coords, halve, "floor") is not coarse
    assert cache.coarser(coords, Relation.of(3, 2)) is not coarse
    assert cache.finer(coarse, halve) is coords
    assert cache.finer(coarse, Relation.of(3, 2)) is None
    assert cache.finer(coords, halve) is None
    assert cache.finer(coarse.clone(), halve) is None
    assert cache.expanded(coarse, halve) is cache.expanded(coarse, halve)


def test_caches_of_two_clouds_have_equal_keys():
    tables = []
    for cloud in (UNSORTED, PLANE):
        cache = CoordCache()
        coarse = cache.coarser(cloud.coords, Relation.of(2, 2))
        cache.kernel_map(cloud.coords, cloud.coords, K3)
        cache.kernel_map(cloud.coords, coarse, Relation.of(2, 2))
        tables.append(cache.maps())

    assert list(tables[0]) == list(tables[1])
    tables[0].clear()
    assert len(cache) == 2


def test_maps_of_inference_mode_serve_training():
    cache = CoordCache()
    with torch.inference_mode():
        coords = UNSORTED.coords.clone()
        coarse = cache.coarser(coords, Relation.of(2, 2))
        some = cache.kernel_map(coords, coords, K3, (1, 13))
        down = cache.kernel_map(coords, coarse, Relation.of(2, 2))
        up = cache.expanded(coarse, Relation.of(2, 2))
    assert coords.is_inference()

    assert not coarse.is_inference()
    assert not up.is_inference()
    for kmap in (some, down, down.transposed()):
        assert not any(tensor.is_inference() for tensor in kmap.tensors())


def test_inference_mode_reaches_no_form_that_is_derived_in_it():
    coords = UNSORTED.coords
    kmap = CoordCache().kernel_map(coords, coords, K3)
    with torch.inference_mode():
        tensors = [*kmap.tensors(), *kmap.transposed().tensors()]

    assert not any(tensor.is_inference() for tensor in tensors)


def test_a_pointwise_map_is_the_identity_in_any_row_order():
    coords = UNSORTED.coords
    kmap = CoordCache().kernel_map(coords, coords, Relation.of(1))
    rows = torch.arange(len(coords), dtype=torch.int32)

    assert torch.equal(kmap.pairs.rows_in, rows)
    assert torch.equal(kmap.pairs.rows_out, rows)
    assert kmap.pairs.starts.tolist() == [0, len(coords)]
    # an even or shifted kernel of one offset is searched as any other
    shifted = CoordCache().kernel_map(coords, coords, Relation.of(1, padding=1))
    assert shifted.n_pairs < len(coords)


def test_some_offsets_of_a_partition_do_not_take_its_whole_map():
    cache, coords, halve = CoordCache(), UNSORTED.coords, Relation.of(2, 2)
    # the whole map came with the level, and nobody has asked for it yet
    coarse = cache.coarser(coords, halve)
    some = cache.kernel_map(coords, coarse, halve, (0, 5))
    whole = cache.kernel_map(coords, coarse, halve)

    geometry = Geometry((2, 2, 2), (2, 2, 2))
    expected = oracle.kernel_map(coords, coarse, geometry)
    check_map(whole, expected, len(coords), len(coarse))
    kept = {0: 0, 5: 1}
    check_map(some, {(i, j, kept[k]) for i, j, k in expected if k in kept}, len(coords), len(coarse))


def test_the_map_to_clouds_is_built_once_for_each_number_of_clouds():
    cache, coords = CoordCache(), TWO_BATCHES.coords
    two = cache.cloud_map(coords, 2)

    assert cache.cloud_map(coords, 2) is two
    assert (two.n_in, two.n_out) == (len(coords), 2)
    assert cache.cloud_map(coords, 3).n_out == 3
    assert two.pairs_per_output().tolist() == torch.bincount(coords[:, 0]).tolist()
    assert two.pairs_per_output() is two.pairs_per_output()


def test_everything_is_built_anew_from_the_first_coordinates():
    cache, coords = CoordCache(), UNSORTED.coords
    halve = Relation.of(2, 2)
    coarse = cache.coarser(coords, halve)
    coarser = cache.coarser(coarse, halve, "floor")
    wide = cache.expanded(coarser, halve)
    for level in (coords, coarse, coarser, wide):
        cache.kernel_map(level, level, K3)
    cache.kernel_map(coords, coarse, halve, (0, 3, 5))
    cache.kernel_map(wide, coarser, halve)

    again = cache.rebuilt()
    # the subset came from the map that came with the level, which nobody has asked for
    assert len(again) == len(cache) == 6
    for key, kmap in cache.maps().items():
        # tokens may differ, the maps may not
        same = [
            other
            for other in again.maps().values()
            if other is not kmap
            and (other.n_in, other.n_out, other.relation) == (kmap.n_in, kmap.n_out, kmap.relation)
            and all(torch.equal(a, b) for a, b in zip(other.tensors()[1:], kmap.tensors()[1:], strict=True))
        ]
        assert same, key


def test_a_level_within_a_box(rng):
    fine = torch.unique(torch.randint(-6, 7, (80, 4), generator=rng).int().abs(), dim=0)
    fine[:, 0] = 0
    fine = torch.unique(fine, dim=0)
    cache, relation = CoordCache(), Relation.of(3, 2)
    whole, box = cache.coarser(fine, relation), ((0, 1, 0), (2, 3, 9))
    some = cache.coarser(fine, relation, box=box)
    inside = ((whole[:, 1:] >= torch.tensor(box[0])) & (whole[:, 1:] <= torch.tensor(box[1]))).all(dim=1)
    assert 0 < len(some) < len(whole)
    assert torch.equal(some, whole[inside])
    assert cache.coarser(fine, relation, box=box) is some
    assert cache.finer(some, relation) is fine
    # what lies within a box that holds everything comes with its map, as without a box
    assert torch.equal(cache.coarser(fine, relation, box=((-9, -9, -9), (9, 9, 9))), whole)
    kmap, mine = cache.kernel_map(fine, some, relation), cache.kernel_map(fine, whole, relation)
    assert kmap.n_pairs == int(inside[mine.pairs.rows_out.long()].sum())
    again = cache.rebuilt()
    assert sorted(map(len, (level for level in again._levels.values()))) == sorted(
        map(len, cache._levels.values())
    )


def test_a_layer_finds_its_map_again_without_a_search_for_it(monkeypatch):
    coords, other = UNSORTED.coords, UNSORTED.coords.clone()
    cache, relation, some = CoordCache(), Relation.of(3), (0, 13, 26)
    whole = cache.kernel_map(coords, coords, relation)
    part = cache.kernel_map(coords, coords, relation, some)
    # equal fields that are other objects are looked for, and found
    assert cache.kernel_map(coords, coords, Relation((3, 3, 3))) is whole
    assert cache.kernel_map(coords, coords, relation, tuple(k for k in some)) is part
    assert cache.kernel_map(other, other, relation) is not whole
    assert len(cache) == 3
    monkeypatch.setattr(CoordCache, "_map", lambda *args: pytest.fail("searched"))
    assert cache.kernel_map(coords, coords, relation) is whole
    assert cache.kernel_map(coords, coords, relation, some) is part


def test_layers_that_come_and_go_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(cache_module, "_MOST_ASKED", 4)
    cache, coords = CoordCache(), UNSORTED.coords
    maps = {id(cache.kernel_map(coords, coords, Relation((3, 3, 3)))) for _ in range(20)}
    assert len(maps) == 1
    assert len(cache._asked) <= 4


def test_a_plan_is_made_after_a_level_was_changed_in_place():
    cache, halve = CoordCache(), Relation.of(2, 2)
    middle = cache.coarser(UNSORTED.coords, halve)
    cache.coarser(middle, halve)
    middle[:, 1] += 0
    # what was made of the level as it was is gone
    assert [key.source for key, _ in cache.plan().levels] == [0]


def test_maps_of_older_versions_of_coordinates_are_dropped():
    cache, coords, halve = CoordCache(), UNSORTED.coords.clone(), Relation.of(2, 2)
    other = UNSORTED.coords.clone()
    kept = cache.kernel_map(other, other, K3)
    ghosts = []
    for _ in range(5):
        coords[:, 1] += 2
        cache.cloud_map(coords, 1 + int(coords[:, 0].max()))
        coarse = cache.coarser(coords, halve)
        ghosts.append(weakref.ref(cache.kernel_map(coords, coords, K3)))
        cache.kernel_map(coords, coarse, halve)
        cache.corner_map(coords, coarse, (2, 2, 2))
    gc.collect()
    assert [ghost() is None for ghost in ghosts] == [True] * 4 + [False]
    version = cache._token(coords)
    assert [key for key in cache.maps() if version in (key.fine, key.coarse)]
    assert len(cache._clouds) == len(cache._levels) == len(cache._corners) == 1
    assert cache.kernel_map(other, other, K3) is kept
    # the level that is at hand still knows where it came from
    assert cache.finer(coarse, halve) is coords
