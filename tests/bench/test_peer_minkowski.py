"""The adapter of MinkowskiEngine, over a stand-in: the library itself was never at hand."""

import itertools
import sys

import pytest
import torch

from pcsparse.bench.cases import MAP_CASES
from pcsparse.bench.layers import run_conv_case
from pcsparse.bench.maps import run_map_case
from pcsparse.bench.peers import find_peers
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from tests.bench import minkowski_standin
from tests.bench.scenes import small_scene
from tests.bench.test_library import LAYERS

MAPS = {case.name: case for case in MAP_CASES if case.relation.volume < 100}
REFUSED = {"map 3^3 stride 2": "writes other voxels", "map 2^3 stride 2 generative": "within its convolution"}


@pytest.fixture
def library(monkeypatch):
    from pcsparse.bench.peer_minkowski import Minkowski

    monkeypatch.setitem(sys.modules, "MinkowskiEngine", minkowski_standin)
    return Minkowski()


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_layers_agree_with_the_twins_and_the_order_is_found(library, case):
    (peer,) = run_conv_case(case, small_scene(300), [library], 1).peers
    assert peer.name == "MinkowskiEngine 0.5.4"
    assert not peer.failed, peer.failed
    assert peer.time is not None
    # ours run z fastest, theirs x fastest
    size = case.relation.kernel_size[0]
    ours = list(itertools.product(range(size), repeat=3))
    theirs = [ours.index((x, y, z)) for z, y, x in ours]
    assert library.offset_order(case.layer, size, case.relation.stride[0]).tolist() == theirs


@pytest.mark.parametrize("case", MAPS.values(), ids=MAPS.keys())
def test_maps_agree_with_the_twins_or_say_why_not(library, case):
    (peer,) = run_map_case(case, small_scene(300), [library], 1).peers
    assert not peer.failed, peer.failed
    if case.name in REFUSED:
        assert REFUSED[case.name] in peer.refusal
    else:
        assert peer.refusal is None
        assert peer.time is not None


def test_an_odd_partition_is_refused_because_its_cells_are_cut_elsewhere(library):
    with pytest.raises(UnsupportedError, match="writes other voxels"):
        library.make_map(small_scene(50).coords, Relation.of(3, 3))


def test_a_wrong_map_is_noticed(library, monkeypatch):
    # probed while its maps are right
    library.offset_order("submanifold", 3, 1)
    kernel_map = minkowski_standin.CoordinateManager.kernel_map

    def one_less(*arguments, **options):
        found = kernel_map(*arguments, **options)
        return {position: pairs[:, 1:] for position, pairs in found.items()}

    monkeypatch.setattr(minkowski_standin.CoordinateManager, "kernel_map", one_less)
    (peer,) = run_map_case(MAPS["map 3^3"], small_scene(300), [library], 1).peers
    assert peer.failed
    assert peer.time is None


def test_a_map_is_kept_by_its_manager_and_a_new_tensor_has_none(library):
    coords, conv = small_scene(100).coords, library.conv("submanifold", 3, 1, 2, 2, 0)
    x = library.tensor(library.geometry(coords), torch.ones(len(coords), 2))
    conv(library.replace(conv(x), torch.zeros(len(coords), 2)))
    assert x.coordinate_manager.built == 1
    other = library.tensor(library.geometry(coords), torch.ones(len(coords), 2))
    assert other.coordinate_manager is not x.coordinate_manager


def test_it_runs_with_the_threads_of_the_process(library):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = library.tensor(library.geometry(small_scene(50).coords), torch.ones(1, 1))
    finally:
        torch.set_num_threads(before)
    assert x.coordinate_manager.num_threads == 1


def test_it_is_a_peer_where_it_can_be_imported_and_named_where_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", minkowski_standin)
    assert "MinkowskiEngine 0.5.4" in [library.name for library in find_peers().libraries]
    monkeypatch.setattr(minkowski_standin, "__version__", "0.4.3")
    assert "0.5 is compared" in dict(find_peers().absent)["MinkowskiEngine"]
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    assert "MinkowskiEngine" in dict(find_peers().absent)
