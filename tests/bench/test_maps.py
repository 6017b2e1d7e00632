"""Kernel maps: right ones are timed, wrong ones are not."""

import pytest
import torch

from pcsparse.bench import map_library
from pcsparse.bench.cases import MAP_CASES, tagged
from pcsparse.bench.map_library import plain_torch
from pcsparse.bench.maps import run_map_case
from pcsparse.bench.ours import Ours
from pcsparse.bench.scene import build_map
from pcsparse.coords.keys import pack
from pcsparse.nn import SparseConv3d, SparseConvTranspose3d, SparseInverseConv3d
from tests.bench.scenes import small_scene

MAPS = {case.name: case for case in tagged(MAP_CASES, ["ci", "paper"])}


def run_map(case, runs=1, peers=None, **options):
    return run_map_case(case, small_scene(), [plain_torch()] if peers is None else peers, runs, **options)


def assert_nothing_timed(result):
    assert result.ours.time is None
    assert all(peer.time is None for peer in result.peers)


@pytest.mark.parametrize("case", MAPS.values(), ids=MAPS.keys())
def test_a_right_map_is_timed(case):
    result = run_map(case, runs=2)
    assert result.passed
    assert result.ours.time.runs == 2
    (peer,) = result.peers
    # plain torch has no generic strided map
    assert (peer.time is None) == (peer.refusal is not None) == (case.name == "map 3^3 stride 2")
    assert not peer.failed


@pytest.mark.parametrize("case", MAPS.values(), ids=MAPS.keys())
def test_a_wrong_pair_costs_the_maps_time(case, monkeypatch):
    from pcsparse.bench import ours

    build = ours.build_map

    def neighbour_row(*arguments):
        coarse, kmap = build(*arguments)
        kmap.pairs.rows_in[0] ^= 1
        return coarse, kmap

    monkeypatch.setattr(ours, "build_map", neighbour_row)
    result = run_map(case)
    assert {check.what for check in result.ours.failed} == {"rows_in"}
    assert_nothing_timed(result)


@pytest.mark.parametrize("name", ["map 2^3 stride 2", "map 2^3 stride 2 inverse", "map 3^3 shuffled"])
def test_a_wrong_map_of_a_peer_is_noticed(name, monkeypatch):
    plain = map_library.plain_map

    def swapped_rows(*arguments):
        coords, pairs = plain(*arguments)
        pairs.rows_out[[0, 1]] = pairs.rows_out[[1, 0]]
        return coords, pairs

    monkeypatch.setattr(map_library, "plain_map", swapped_rows)
    result = run_map(MAPS[name])
    assert result.peers[0].failed
    assert result.peers[0].time is None
    assert result.ours.time is not None


class Recording(Ours):
    """The package as a peer that keeps what it was given and what it made."""

    name = "recording"

    def geometry(self, coords):
        self.given = coords
        return coords

    def make_map(self, geometry, relation, way="down"):
        self.coords, self.pairs = super().make_map(geometry, relation, way)
        return self.coords, self.pairs


def steps_between(fine, coarse, rows_fine, rows_coarse, relation):
    scaled = coarse[rows_coarse.long()] * coarse.new_tensor([1, *relation.stride])
    return fine[rows_fine.long()] - scaled


@pytest.mark.parametrize("case", MAPS.values(), ids=MAPS.keys())
def test_the_map_that_counts_as_right_satisfies_the_equation(case):
    record = Recording()
    result = run_map(case, peers=[record])
    # what was recorded equals the twins' map, so this is a test of theirs
    assert result.passed
    pairs, relation = record.pairs, case.relation
    ends = (record.given, record.coords, pairs.rows_in, pairs.rows_out)
    if case.way == "inverse":
        ends = (record.given, record.coords, pairs.rows_out, pairs.rows_in)
    elif case.way == "generative":
        ends = (record.coords, record.given, pairs.rows_out, pairs.rows_in)
    offset = torch.repeat_interleave(torch.arange(relation.volume), pairs.starts.diff())
    steps = torch.tensor([[0, *step] for step in relation.steps()])
    assert torch.equal(steps_between(*ends, relation).long(), steps[offset])
    assert len(torch.unique(pack(record.coords))) == len(record.coords)
    if case.way == "generative":
        # every coarse voxel reaches every offset
        assert len(offset) == len(record.given) * relation.volume


def test_shuffled_rows_are_out_of_order_and_the_same_for_all(monkeypatch):
    given = []
    geometry = Ours.geometry
    monkeypatch.setattr(Ours, "geometry", lambda self, coords: given.append(coords) or geometry(self, coords))
    record = Recording()
    run_map(MAPS["map 3^3 shuffled"], peers=[record])
    scene, (ours,) = small_scene(), given
    assert torch.equal(ours, record.given)
    ascending = (pack(ours).diff() > 0).float().mean()
    assert 0.4 < ascending < 0.6
    assert torch.equal(ours[torch.argsort(pack(ours))], scene.coords)


def test_the_ways_back_are_those_of_the_modules():
    scene, relation = small_scene(), MAPS["map 2^3 stride 2"].relation
    down = SparseConv3d(4, 1, 2, 2)(scene.fresh())
    made, kmap = build_map(scene.coords, relation, "inverse")
    back = SparseInverseConv3d(1, 1, 2, 2)(down)
    assert torch.equal(made, down.coords)
    assert torch.equal(back.coords, scene.coords)
    assert (kmap.n_in, kmap.n_out) == (len(down), len(back))
    made, kmap = build_map(down.coords, relation, "generative")
    grown = SparseConvTranspose3d(1, 1, 2, 2)(down)
    assert torch.equal(made, grown.coords)
    assert (kmap.n_in, kmap.n_out) == (len(down), len(grown))
    assert len(grown) == 8 * len(down) > len(back)


def test_a_map_settles_once_before_each_timed_run_unless_told_otherwise(monkeypatch):
    built = []
    make = Ours.make_map
    monkeypatch.setattr(Ours, "make_map", lambda self, *given: built.append(1) or make(self, *given))
    counts = []
    for options in ({}, {"settle": 0}):
        built.clear()
        run_map(MAPS["map 3^3"], runs=3, peers=[], **options)
        counts.append(len(built))
    # the check and two warm-up runs, then three turns
    assert counts == [1 + 2 + 2 * 3, 1 + 2 + 3]
