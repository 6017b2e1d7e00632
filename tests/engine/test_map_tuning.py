"""The tuner of kernel maps: what it times, what it throws out, and the rule that follows."""

import pytest
import torch

from pcsparse.coords.relation import Relation
from pcsparse.engine import map_tuning
from pcsparse.engine.map_tuning import fitted, tune_maps
from pcsparse.engine.tune_cache import TuneTable, load_table, store_table
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.kernels.map_ways import WAYS, MapRule
from pcsparse.models import MinkUNetSpec
from pcsparse.models.minkunet import MinkUNet
from pcsparse.nn import prepare
from pcsparse.nn.tuning import use_tuning
from pcsparse.programs import tune
from pcsparse.programs.tune import TuneSettings
from pcsparse.programs.tune_report import maps_report
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import Timing
from tests.clouds import EMPTY, UNSORTED, lidar_like

CLOUD = lidar_like(60)
# seconds of a map, a row, a cell, a column and an offset of a query
COSTS = {
    "search": (4e-6, 0.0, 0.0, 3e-10, 1e-11),
    "grid": (9e-6, 1e-10, 2e-11, 0.0, 1e-11),
    "hash": (8e-6, 2e-10, 0.0, 0.0, 1e-9),
    "runs": (8e-6, 1e-10, 0.0, 2e-10, 1e-12),
}


@pytest.fixture
def small(monkeypatch):
    """Few maps, so that they can be emulated."""

    def few(coords, runs=1):
        return tune_maps(coords, kernels=(3,), levels=2, runs=runs)

    monkeypatch.setattr(tune, "tune_maps", few)
    return few


def _amounts(rng, way, n=12):
    exact = torch.rand(n, 5, generator=rng) * torch.tensor([0.0, 1e5, 1e8, 1e6, 3e6])
    exact[:, 0] = 1
    if way != "grid":
        exact[:, 2] = 0
    return exact.double().tolist()


@pytest.mark.parametrize("way", WAYS)
def test_costs_are_found_again(rng, way):
    amounts = _amounts(rng, way)
    seconds = [sum(a * c for a, c in zip(row, COSTS[way], strict=True)) for row in amounts]
    costs, off = fitted(amounts, seconds)
    assert costs == pytest.approx(COSTS[way], rel=1e-5, abs=1e-16)
    assert off < 1e-9


def test_nothing_costs_less_than_nothing(rng):
    amounts = _amounts(rng, "grid")
    seconds = [9e-6 + 1e-10 * row[1] + 1e-11 * row[2] - 1e-12 * row[4] for row in amounts]
    costs, off = fitted(amounts, seconds)
    assert min(costs) == 0
    assert 0 < off < 0.1

    # no other costs are nearer: a step along any axis makes it worse
    def squares(costs):
        sums = [sum(a * c for a, c in zip(row, costs, strict=True)) for row in amounts]
        return sum((s / t - 1) ** 2 for s, t in zip(sums, seconds, strict=True))

    for i in range(5):
        for step in (-1e-3, 1e-3):
            near = [c + (step * max(c, 1e-13) if j == i else 0) for j, c in enumerate(costs)]
            assert min(near) < 0 or squares(near) >= squares(costs)


def test_one_number_of_each_way_is_no_more_than_that():
    costs, off = fitted([[1.0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0]], [2e-6, 2e-6])
    assert costs == pytest.approx((2e-6, 0, 0, 0, 0))
    assert off < 1e-12


@pytest.mark.parametrize(("last", "twice"), [(1022, True), (1023, False), (2046, False)])
def test_a_batch_that_has_no_room_beside_itself_is_timed_once(gpu_or_emulated, last, twice):
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [last, 5, 5, 5]], dtype=torch.int32)
    found = tune_maps(coords.to(gpu_or_emulated), kernels=(3,), levels=1, runs=1)
    assert [trial.name for trial in found.trials] == ["twice, 3^3"] * twice + ["level 0, 3^3"]


@pytest.mark.parametrize("coords", [CLOUD, UNSORTED.coords], ids=["sorted", "unsorted"])
def test_every_way_is_timed_on_the_cloud_and_coarser_ones(gpu_or_emulated, small, coords):
    found = small(coords.to(gpu_or_emulated))
    names = ["twice, 3^3", "level 0, 3^3", "level 0, 2^3 stride 2", "level 1, 3^3"]
    assert [trial.name for trial in found.trials] == names
    assert all(tuple(trial.times) == WAYS and not trial.rejected for trial in found.trials)
    twice, cloud, down, coarse = [trial.size for trial in found.trials]
    assert twice.rows == 2 * cloud.rows == 2 * len(coords)
    assert twice.cells == 2 * cloud.cells
    assert down.queries == coarse.rows < cloud.rows
    assert tuple(found.rule.seconds) == WAYS
    assert found.rule.most == (twice.rows, twice.rows, 27, twice.cells)
    for trial in found.trials:
        way = found.rule.pick(trial.size)
        assert way == "search" or trial.times[way].median * 1.05 <= trial.times["search"].median


def _clocked(monkeypatch, costs) -> None:
    """Let every way take what it costs, and not what the clock says."""
    sizes = []
    real = map_tuning.MapSize.of
    monkeypatch.setattr(
        map_tuning.MapSize, "of", staticmethod(lambda *args: sizes.append(real(*args)) or sizes[-1])
    )

    def times(runners, **_):
        return {
            way: Timing(*[sum(a * c for a, c in zip(sizes[-1].amounts(way), costs[way], strict=True))] * 3, 1)
            for way in runners
        }

    monkeypatch.setattr(map_tuning, "time_in_turns", times)


def test_the_rule_is_what_was_measured(gpu_or_emulated, small, monkeypatch):
    costs = {way: (1e-6 * (1 + n), 0.0, 0.0, 0.0, 0.0) for n, way in enumerate(reversed(WAYS))}
    with monkeypatch.context() as patch:
        _clocked(patch, costs)
        found = small(CLOUD.to(gpu_or_emulated))
    assert found.rule.margin == 1.05
    for way in WAYS:
        assert found.rule.seconds[way] == pytest.approx(costs[way])
    assert {found.rule.pick(trial.size) for trial in found.trials} == {"runs"}
    assert "0.001*" in maps_report(found)


def test_a_map_that_the_rule_would_make_slower_stays_searched(gpu_or_emulated, small, monkeypatch):
    # as fast for all maps by the sum of `runs`, which is fitted to one map of four that is much slower
    costs = {"search": (1e-6,), "grid": (1e-5,), "hash": (1e-5,), "runs": (1e-7,)}
    costs = {way: (*cost, 0.0, 0.0, 0.0, 0.0) for way, cost in costs.items()}
    with monkeypatch.context() as patch:
        _clocked(patch, costs)
        clock, calls = map_tuning.time_in_turns, []

        def times(runners, **more):
            calls.append(clock(runners, **more))
            slow = Timing(2e-6, 2e-6, 2e-6, 1) if len(calls) == 3 else calls[-1]["runs"]
            return {**calls[-1], "runs": slow}

        patch.setattr(map_tuning, "time_in_turns", times)
        found = small(CLOUD.to(gpu_or_emulated))
    down = found.trials[2]
    assert down.times["runs"].median == 2e-6
    sum_says = found.rule.taken(down.size, "search") / found.rule.taken(down.size, "runs")
    assert sum_says > 1.05
    assert found.rule.margin == pytest.approx(sum_says, rel=1e-5)
    assert found.rule.pick(down.size) == "search"


def test_a_way_that_is_wrong_is_never_timed_and_in_no_rule(gpu_or_emulated, small, monkeypatch):
    from pcsparse.kernels.gpu import lookup

    launch = lookup._launch

    def broken(name, blocks, *args):
        # the strided map alone is wrong
        if name != "look_in_hash" or args[8] >= 0:
            launch(name, blocks, *args)

    monkeypatch.setattr(lookup, "_launch", broken)
    found = small(CLOUD.to(gpu_or_emulated))
    assert [trial.rejected for trial in found.trials] == [{}, {}, {"hash": "not the twin's table"}, {}]
    assert tuple(found.rule.seconds) == ("search", "grid", "runs")
    assert "  hash: not the twin's table" in maps_report(found).splitlines()


@pytest.mark.parametrize(
    ("kind", "said"),
    [(torch.OutOfMemoryError, "no room for a grid"), (RuntimeError, "Triton Error [CUDA]: out of memory")],
    ids=["pool", "kernel"],
)
def test_a_way_without_memory_is_left_out_of_a_map(gpu_or_emulated, small, monkeypatch, kind, said):
    real = map_tuning._made

    def made(wanted, way):
        if way == "grid" and wanted.relation.volume == 8:
            raise kind(f"{said}\nat all")
        return real(wanted, way)

    monkeypatch.setattr(map_tuning, "_made", made)
    costs = dict.fromkeys(WAYS, (1e-06, 0.0, 0.0, 0.0, 0.0)) | {"grid": (1e-7, 0.0, 0.0, 0.0, 0.0)}
    with monkeypatch.context() as patch:
        _clocked(patch, costs)
        found = small(CLOUD.to(gpu_or_emulated))
    assert [trial.rejected for trial in found.trials][2] == {"grid": f"out of memory: {said}"}
    assert found.rule.seconds["grid"] == pytest.approx(costs["grid"])
    # it would be picked there by the sum alone
    assert found.rule.pick(found.trials[2].size) == "search"


def test_an_empty_cloud_has_nothing_to_choose(gpu_or_emulated, small):
    found = small(EMPTY.coords.to(gpu_or_emulated))
    assert tuple(found.rule.seconds) == ("search",)
    assert "there is nothing to look up" in maps_report(found)


def test_what_has_no_meaning_is_refused(gpu_or_emulated):
    coords = CLOUD.to(gpu_or_emulated)
    for bad in ({"runs": 0}, {"levels": 0}, {"kernels": ()}):
        with pytest.raises(RangeError, match="need runs >= 1, levels >= 1 and kernels"):
            tune_maps(coords, **bad)


def test_a_cpu_has_nothing_to_choose():
    with pytest.raises(UnsupportedError, match="maps on cpu are lists, made in one way"):
        tune_maps(CLOUD)


def test_the_program_stores_a_rule_beside_the_plans(gpu_or_emulated, small, tmp_path, capsys):
    x = SparseTensor(torch.zeros(len(CLOUD), 1, device=gpu_or_emulated), CLOUD.to(gpu_or_emulated))
    tune._tune_maps(TuneSettings(out=tmp_path / "tuned.json", runs=1), x)
    rule = load_table(tmp_path / "tuned.json", gpu_or_emulated).maps
    assert rule is not None
    assert tuple(rule.seconds) == WAYS
    said = capsys.readouterr().out
    assert "level 0, 2^3 stride 2" in said
    assert "the rule is off by at most: search " in said
    # a table of plans leaves it there
    store_table(tmp_path / "tuned.json", TuneTable.here(gpu_or_emulated))
    assert load_table(tmp_path / "tuned.json", gpu_or_emulated).maps == rule


def test_a_tuned_network_makes_its_maps_by_the_rule(gpu_or_emulated, monkeypatch):
    from pcsparse.kernels.gpu import lookup

    looked = []
    launch = lookup._launch
    monkeypatch.setattr(lookup, "_launch", lambda name, *args: (looked.append(name), launch(name, *args)))
    rule = MapRule({"search": (1.0, 0, 0, 0, 0), "runs": (0,) * 5}, (1 << 30,) * 4)
    model = MinkUNet(MinkUNetSpec.minkunet14(in_channels=1, n_classes=2, width=0.125)).to(gpu_or_emulated)
    maps = []
    for table in (TuneTable.here("cpu"), TuneTable.here("cpu", maps=rule)):
        use_tuning(model, table)
        x = SparseTensor(torch.zeros(len(CLOUD), 1, device=gpu_or_emulated), CLOUD.to(gpu_or_emulated))
        prepare(model, x)
        maps.append(x.cache.maps())
        assert bool(looked) == (table.maps is not None)
        # whoever asks the cache next has asked for no rule
        assert x.cache.how == "search"
        looked_before, known = len(looked), x.cache.rebuilt()
        assert (len(looked) > looked_before) == (table.maps is not None)
        assert known.how == "search"
    assert set(looked) == {"clear_lookup", "fill_runs", "look_in_runs"}
    looked.clear()
    x.cache.kernel_map(x.coords, x.coords, Relation.of(5))
    assert not looked
    assert all(torch.equal(kmap.table, maps[1][key].table) for key, kmap in maps[0].items())
