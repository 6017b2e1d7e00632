"""Where the host would wait for a GPU, the batch column is checked with the keys, and in the same words."""

import pickle

import pytest
import torch

from pcsparse import RangeError, SparseTensor, collate, sparse_tensor
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from tests.clouds import EMPTY_BETWEEN
from tests.host_waits import host_waits

CLOUDS = 3
TOO_FEW = "batch indices span 0 to 2, but batch_size is 2; the first column is the batch"


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(sparse_tensor, "_host_waits_for", lambda coords: True)


@pytest.fixture
def coords(device):
    return EMPTY_BETWEEN.coords.to(device)


def _tensor(coords, batch_size, **options):
    return SparseTensor(
        torch.ones(len(coords), 2, device=coords.device), coords, batch_size=batch_size, **options
    )


def test_a_tensor_is_made_without_waiting(device, coords):
    feats = torch.ones(len(coords), 2, device=device)
    with host_waits(device) as waits:
        x = SparseTensor(feats, coords, batch_size=CLOUDS)
    assert waits.places == []
    assert x.batch_size == CLOUDS
    with host_waits(device) as waits:
        found = SparseTensor(feats, coords).batch_size
    assert len(waits.places) == 1
    assert found == CLOUDS


USES = {
    "keys": lambda x: x.cache.sorted_keys(x.coords),
    "a map": lambda x: x.cache.kernel_map(x.coords, x.coords, Relation.of(3)),
    "a level": lambda x: x.cache.coarser(x.coords, Relation.of(2, 2)),
    "clouds": lambda x: x.cache.cloud_map(x.coords, x.batch_size),
    "a grid": lambda x: x.dense(),
    "a cloud": lambda x: x[0],
    "a batch": lambda x: collate([x, x]),
    "another device": lambda x: x.to("meta"),
    "a derived tensor": lambda x: (x + 1).cache.sorted_keys((x + 1).coords),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_the_first_use_finds_too_few_clouds(coords, use):
    x = _tensor(coords, 2)
    for _ in range(2):
        with pytest.raises(RangeError, match=TOO_FEW):
            use(x)


def test_a_negative_index_is_named_as_before(coords):
    x = _tensor(coords - torch.tensor([1, 0, 0, 0], dtype=torch.int32, device=coords.device), CLOUDS)
    with pytest.raises(RangeError, match="batch indices span -1 to 1, but batch_size is 3; the first column"):
        x.cache.sorted_keys(x.coords)


def test_other_faults_keep_their_words(coords):
    x = _tensor(torch.cat([coords, coords[:1]]), CLOUDS)
    with pytest.raises(RangeError, match="coordinates are duplicates"):
        x.cache.sorted_keys(x.coords)


def test_what_is_right_is_asked_once(device, coords):
    x = _tensor(coords, CLOUDS)
    with host_waits(device) as waits:
        x.cache.check_clouds(coords)
        first = len(waits.places)
        x.cache.check_clouds(coords)
    assert (first, len(waits.places)) == (1, 1)
    y = _tensor(coords, CLOUDS)
    y.cache.sorted_keys(coords)
    with host_waits(device) as waits:
        y.cache.check_clouds(coords)
    assert waits.places == []


def test_keys_that_are_there_are_asked_at_once(device, coords):
    cache = CoordCache()
    keys = cache.sorted_keys(coords)
    with pytest.raises(RangeError, match=TOO_FEW):
        _tensor(coords, 2, cache=cache)
    with host_waits(device) as waits:
        cache.expect_clouds(coords, CLOUDS)
    assert waits.places == []
    assert cache.sorted_keys(coords) is keys


def test_of_two_tensors_in_one_cache_the_stricter_counts(coords):
    cache = CoordCache()
    _tensor(coords, 2, cache=cache), _tensor(coords, CLOUDS, cache=cache)
    with pytest.raises(RangeError, match=TOO_FEW):
        cache.sorted_keys(coords)


def test_a_copied_cache_still_has_its_claims(coords):
    x = pickle.loads(pickle.dumps(_tensor(coords, 2)))
    with pytest.raises(RangeError, match=TOO_FEW):
        x.cache.sorted_keys(x.coords)


def test_less_than_no_cloud_is_refused_at_once(coords):
    with pytest.raises(RangeError, match="batch_size must be at least 0, got -1"):
        _tensor(coords, -1)
    assert _tensor(coords[:0], 0).batch_size == 0
