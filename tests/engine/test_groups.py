"""Layers that share a map are tuned together: what a new cloud pays is least, by a clock that only counts."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import product

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.coords.watched_map import Derived
from pcsparse.engine import autotune
from pcsparse.engine.autotune import table_of, tune
from pcsparse.engine.choice import Choice
from pcsparse.engine.conv_call import ConvCall, groups_of
from pcsparse.engine.dataflow import PLAIN, Dataflow
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import RangeError
from pcsparse.kernels import reference
from pcsparse.timing import Timing
from tests.clouds import lidar_like


@dataclass
class _Clock:
    """Seconds that were spent, in a world where only the dataflow below spends any."""

    now: float = 0.0
    made: list[Hashable] = field(default_factory=list)

    def spend(self, seconds, name=None):
        self.now += seconds
        if name is not None:
            self.made.append(name)

    def time_in_turns(self, candidates, *, runs, warmup, device):
        found = {}
        for name, run in candidates.items():
            run()
            begin = self.now
            run()
            taken = self.now - begin
            found[name] = Timing(taken, taken, taken, runs)
        return found


@dataclass(frozen=True)
class _Way:
    """A config: the form of the map that it reads."""

    form: str = "a"


class _Priced(Dataflow[_Way]):
    """The twin, at a price: `layers[c_in, form]` for a pass, `forms[form]` once a map."""

    name = "priced"
    config_class = _Way

    def __init__(self, clock, forms, layers):
        self.clock, self.forms, self.layers = clock, forms, layers

    def refuses(self, problem):
        return None

    def configs(self, problem):
        return tuple(_Way(form) for form in self.forms)

    def _pay(self, kmap, config, channels):
        kmap.kept(config.form, lambda: self.clock.spend(self.forms[config.form], config.form))
        self.clock.spend(self.layers.get((channels, config.form), 1.0))

    def forward(self, feats, weight, kmap, config, epilogue=PLAIN):
        self._pay(kmap, config, feats.shape[1])
        lists = kmap.pairs.rows_in, kmap.pairs.rows_out, kmap.pairs.starts
        return reference.output_stationary(feats, weight, *lists, kmap.n_out, 1)

    def grad_weight(self, feats, grad_out, kmap, config, dtype=None):
        self._pay(kmap, config, feats.shape[1])
        lists = kmap.pairs.rows_in, kmap.pairs.rows_out, kmap.pairs.starts
        return reference.output_stationary_grad_weight(feats, grad_out, *lists, 1)


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(autotune, "time_in_turns", clock.time_in_turns)
    return clock


def _call(built, c_in, c_out=4, *, names=("layer",), turned=False, first=0):
    kmap = built.transposed() if turned else built
    feats, weight = torch.zeros(kmap.n_in, c_in), torch.zeros(kmap.volume, c_in, c_out)
    return ConvCall(names, ConvProblem.of(feats, weight, kmap), built, turned, first)


def _map(relation=None, points=60):
    relation = relation or Relation.of(3)
    coords, cache = lidar_like(points), CoordCache()
    coarse = coords if relation.is_submanifold else cache.coarser(coords, relation)
    return cache.kernel_map(coords, coarse, relation)


FORMS = {"a": 1.0, "b": 1.0, "c": 1.0}
# each layer has a form of its own that suits it best; "c" is the second best of all
OWN = {(2, "a"): 1.0, (2, "c"): 1.25, (3, "a"): 2.0, (3, "b"): 1.0, (3, "c"): 1.25, (2, "b"): 2.0}


def _by_hand(calls, forms, layers, passes=1):
    """The least that a group can cost, all assignments tried; the map counts no other form."""
    best = {}
    for picks in product(forms, repeat=len(calls)):
        seconds = sum(
            len(call.names) * layers.get((call.problem.c_in, form), 1.0)
            for call, form in zip(calls, picks, strict=True)
        )
        best[picks] = seconds + sum(forms[form] for form in set(picks))
    picks = min(best, key=lambda key: best[key])
    return picks, best[picks]


@pytest.mark.parametrize("cost", [0.0, 0.125, 1.0, 8.0])
@pytest.mark.parametrize("repeats", [1, 8])
def test_the_choices_are_the_least_of_all_assignments(clock, monkeypatch, cost, repeats):
    monkeypatch.setattr(autotune, "_WORTHWHILE", 1.0)
    forms, kmap = dict.fromkeys(FORMS, cost), _map()
    calls = [_call(kmap, c, names=("layer",) * repeats) for c in (2, 3)]
    flow = _Priced(clock, forms, OWN)
    found = tune(calls, passes=("forward",), dataflows={"priced": flow})

    _, least = _by_hand(calls, forms, OWN)
    assert found.cost("best").total == pytest.approx(least)
    # a layer alone has its own form, whatever that costs
    assert [t.alone.config.form for t in found.passes] == ["a", "b"]
    assert found.cost("alone").total == pytest.approx(2 * repeats + 2 * cost)
    assert found.cost("rule").total == pytest.approx(3 * repeats + cost)
    assert found.gain == pytest.approx((3 * repeats + cost) / least)


def test_every_pass_shares_what_is_derived_of_a_map_and_its_transpose(clock):
    # one layer, three passes: over a strided map, grad_feats reads a form of the transpose
    kmap = _map(Relation.of(2, 2))
    flow = _Priced(clock, {"a": 8.0, "b": 4.0}, {(2, "b"): 1.5, (4, "a"): 1.0, (4, "b"): 0.5})
    found = tune([_call(kmap, 2)], dataflows={"priced": flow})
    assert [(t.of, t.best.config.form) for t in found.passes] == [
        ("forward", "b"), ("grad_feats", "b"), ("grad_weight", "b")
    ]  # fmt: skip
    turned = {(d.turned, d.name) for _, d in found.parts("best")}
    assert turned == {(False, "b"), (True, "b"), (False, "transposed")}
    assert found.cost("best").derived == pytest.approx(8.0)
    assert found.cost("best").layers == pytest.approx(1.5 + 0.5 + 1.5)
    assert found.cost("best", ("forward", "grad_weight")).derived == pytest.approx(4.0)

    # inference derives nothing that it does not read
    only = tune([_call(kmap, 2)], passes=("forward",), dataflows={"priced": flow})
    assert {d.name for _, d in only.parts("best")} == {"b"}
    assert [t.of for t in only.passes] == ["forward"]


def test_a_layer_and_its_inverse_share_their_map(clock):
    kmap = _map(Relation.of(2, 2))
    calls = [_call(kmap, 2), _call(kmap, 5, 3, turned=True)]
    # "b" is slower for both, but the inverse's grad_feats (of 3 channels) is much faster by it
    flow = _Priced(clock, {"a": 1.0, "b": 1.0}, {(2, "b"): 1.5, (3, "b"): 0.25, (3, "a"): 3.0})
    found = tune(calls, passes=("forward", "grad_feats"), dataflows={"priced": flow})
    best = {(t.calls[0].turned, t.of): t for t in found.passes}
    down, up = best[False, "forward"], best[True, "grad_feats"]
    # over the map itself: that form is paid once, by both
    assert (down.alone.config.form, down.best.config.form, up.best.config.form) == ("a", "b", "b")
    assert down.parts[down.best] == {(0, Derived(False, "b"))}
    assert up.parts[up.best] == {(0, Derived(False, "b")), (0, Derived(False, "transposed"))}
    assert sum(d.name == "transposed" for _, d in found.parts("best")) == 1


def test_the_table_has_what_was_found_for_each_layer_and_pass(clock):
    kmap = _map()
    calls = [_call(kmap, c) for c in (2, 3)]
    found = tune(calls, passes=("forward",), dataflows={"priced": _Priced(clock, FORMS, OWN)})
    assert [t.best.config.form for t in found.passes] == ["c", "c"]
    for which in ("rule", "alone", "best"):
        table = table_of([found], "cpu", which)
        for call, tuning in zip(calls, found.passes, strict=True):
            assert table.choice(call.problem, "forward") == getattr(tuning, which)
            assert table.choice(call.problem, "grad_weight") is None


def test_the_clouds_own_features_have_no_gradient(clock):
    kmap = _map()
    first = _call(kmap, 2, names=("one", "two"), first=1)
    flow = _Priced(clock, {"a": 0.0}, {})
    found = tune([first], dataflows={"priced": flow})
    assert {t.of: t.layers for t in found.passes} == {"forward": 2, "grad_feats": 1, "grad_weight": 2}
    alone = tune([_call(kmap, 2, first=1)], dataflows={"priced": flow})
    assert [t.of for t in alone.passes] == ["forward", "grad_weight"]


def test_what_is_timed_is_one_pass_with_everything_there(clock):
    flow = _Priced(clock, {"a": 100.0, "b": 50.0}, {(2, "a"): 1.0, (2, "b"): 0.5})
    kmap = _map()
    found = tune([_call(kmap, 2)], passes=("forward",), dataflows={"priced": flow})
    [tuning] = found.passes
    assert tuning.times[Choice("priced", _Way("b"))].median == 0.5
    assert [timing.median for timing in found.derived.values()] == [100.0, 50.0]
    # the network's own map keeps nothing of it
    assert not {"a", "b"} & set(kmap._derived)


def test_calls_are_grouped_by_map_and_by_bucket():
    one, other, coarse = _map(), _map(points=61), _map(Relation.of(2, 2))
    calls = [
        _call(one, 2),
        _call(coarse, 2),
        _call(other, 5),
        _call(coarse, 4, 2, turned=True),
        _call(one, 3),
    ]
    a, b, c, d, e = calls
    assert groups_of(calls) == ((a, e), (b, d), (c,))
    # a bucket on two maps has one choice, and so joins all layers of both
    like = _call(other, 3)
    assert groups_of([*calls, like]) == ((a, c, e, like), (b, d))
    assert groups_of([]) == ()


def test_layers_of_one_bucket_on_two_maps_have_one_choice(clock):
    one, other = _map(), _map(points=61)
    calls = [_call(one, 2), _call(other, 2, names=("x", "y"))]
    flow = _Priced(clock, {"a": 1.0, "b": 3.0}, {(2, "a"): 3.0, (2, "b"): 1.5})
    found = tune(calls, passes=("forward",), dataflows={"priced": flow})
    [tuning] = found.passes
    assert tuning.layers == 3
    # the rule: 3 layers at 3 and two maps at 1; "b": 3 at 1.5 and two at 3
    assert found.cost("rule").total == pytest.approx(11.0)
    assert found.cost("best").total == pytest.approx(10.5)
    assert {number for number, _ in found.parts("best")} == {0, 1}


@pytest.mark.parametrize("options", [{"passes": ()}, {"runs": 0}])
def test_nothing_to_measure_is_an_error(options):
    with pytest.raises(RangeError, match="need a pass and runs >= 1"):
        tune([_call(_map(), 2)], **options)
