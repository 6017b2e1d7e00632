"""The tuner: guard, choice, and that a plan made from its table is the plan that runs."""

import gc
from dataclasses import dataclass, replace

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.coords.watched_map import WatchedMap
from pcsparse.engine import autotune, guard
from pcsparse.engine.autotune import table_of, tune
from pcsparse.engine.choice import DATAFLOWS, PASSES, Choice, choices
from pcsparse.engine.conv_call import ConvCall
from pcsparse.engine.dataflow import PLAIN, Dataflow
from pcsparse.engine.gemm_sizes import SortedImplicitGemmConfig
from pcsparse.engine.output_stationary import OutputStationaryConfig
from pcsparse.engine.plan import explain, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import Bucket, TuneTable
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.kernels import reference
from pcsparse.ops.conv import sparse_conv
from tests.clouds import lidar_like


def _case(relation=None, dtype=torch.float32, c_in=5, c_out=9):
    relation = relation or Relation.of(3)
    coords = lidar_like(600)
    cache = CoordCache()
    coarse = coords if relation.is_submanifold else cache.coarser(coords, relation)
    kmap = cache.kernel_map(coords, coarse, relation)
    feats = torch.zeros(kmap.n_in, c_in, dtype=dtype)
    return ConvProblem.of(feats, torch.zeros(kmap.volume, c_in, c_out, dtype=dtype), kmap), kmap


def _tuned(problem, kmap, **options):
    """A layer that shares its map with no other."""
    return tune([ConvCall(("layer",), problem, kmap)], **options)


@dataclass(frozen=True)
class _Behaviour:
    """How the fake dataflow fails; `rounds` of the right result make it slow."""

    fault: str = "none"
    rounds: int = 1


class _Twin(Dataflow[_Behaviour]):
    """The twin as a dataflow, with faults on request."""

    name = "twin"
    config_class = _Behaviour

    def __init__(self, *configs: _Behaviour) -> None:
        self._configs = configs
        self.timed: list[_Behaviour] = []

    def refuses(self, problem):
        return None

    def configs(self, problem):
        return self._configs

    def forward(self, feats, weight, kmap, config, epilogue=PLAIN):
        self.timed.append(config)
        pairs = kmap.pairs
        for _ in range(config.rounds):
            out = reference.output_stationary(
                feats, weight, pairs.rows_in, pairs.rows_out, pairs.starts, kmap.n_out, 1
            )
        return self._spoil(out, config)

    def grad_weight(self, feats, grad_out, kmap, config, dtype=None):
        self.timed.append(config)
        pairs = kmap.pairs
        lists = pairs.rows_in, pairs.rows_out, pairs.starts
        for _ in range(config.rounds):
            out = reference.output_stationary_grad_weight(feats, grad_out, *lists, 1)
        return self._spoil(out, config)

    @staticmethod
    def _spoil(out, config):
        match config.fault:
            case "one row":
                out[3] += 1e-3 * out.abs().max()
            case "nan":
                out[0, 0] = float("nan")
            case "shape":
                out = out[:-1]
            case "memory":
                raise torch.OutOfMemoryError("tried to allocate 20 GiB")
            case "crash":
                raise RuntimeError("no such tile")
        return out


class _Wavering(_Twin):
    """Right every time, and by a rounding error another number at every second."""

    def _spoil(self, out, config):
        if config.fault == "other bits" and self.timed.count(config) % 2 == 0:
            one = out.view(-1)[7:8]
            one.copy_(torch.nextafter(one, torch.full_like(one, torch.inf)))
        if config.fault == "second crash" and self.timed.count(config) == 2:
            raise RuntimeError("no such tile any more")
        return out


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("one row", "against the twin"),
        ("nan", "against the twin"),
        ("shape", "shape"),
        ("crash", "no such tile"),
        ("memory", "more memory than the device had left: tried to allocate 20 GiB"),
    ],
)
def test_a_wrong_choice_is_never_timed_however_fast(of, fault, reason):
    problem, kmap = _case()
    flow = _Twin(_Behaviour(rounds=2), _Behaviour(fault))
    [found] = _tuned(problem, kmap, passes=(of,), runs=2, dataflows={"twin": flow}).passes

    wrong = [trial for trial in found.trials if trial.rejected is not None]
    assert [trial.choice.config for trial in wrong] == [_Behaviour(fault)]
    assert reason in wrong[0].rejected
    assert wrong[0].lacked_memory == (fault == "memory")
    assert found.best.config == _Behaviour(rounds=2)
    # once for the guard
    assert flow.timed.count(_Behaviour(fault)) == 1


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [("other bits", "1 of "), ("second crash", "at its second run, RuntimeError: no such")],
)
def test_a_choice_whose_bits_do_not_repeat_is_never_timed(of, fault, reason):
    problem, kmap = _case()
    slow, wavering = _Behaviour(rounds=2), _Behaviour(fault)
    flow = _Wavering(slow, wavering)
    [found] = _tuned(problem, kmap, passes=(of,), runs=2, dataflows={"twin": flow}).passes

    [refused] = [trial for trial in found.trials if trial.rejected is not None]
    assert refused.choice.config == wavering
    assert reason in refused.rejected
    # it agreed with the twin
    assert refused.error < 1e-5
    assert found.best.config == slow
    assert flow.timed.count(wavering) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gradient_of_weights_that_was_rounded_to_16_bits_on_its_way_is_refused(dtype):
    problem, kmap = _case(dtype=dtype)

    class Rounded(_Twin):
        def grad_weight(self, feats, grad_out, kmap, config, dtype):
            out = super().grad_weight(feats.float(), grad_out.float(), kmap, config)
            return (out.to(feats.dtype) if config.fault == "rounded" else out).to(dtype)

    right, rounded = _Behaviour(rounds=2), _Behaviour("rounded")
    flow = {"twin": Rounded(right, rounded)}
    [found] = _tuned(problem, kmap, passes=("grad_weight",), runs=1, dataflows=flow).passes
    [refused] = [trial for trial in found.trials if trial.rejected is not None]
    assert refused.choice.config == rounded
    assert "against the twin" in refused.rejected
    assert found.best.config == right
    # results of the other passes are stored in 16 bits
    [found] = _tuned(problem, kmap, passes=("forward",), runs=1, dataflows=flow).passes
    assert [trial.rejected for trial in found.trials] == [None] * 2


def test_few_choices_are_the_rules_and_some_evenly_among_the_others():
    problem, kmap = _case()
    flow = _Twin(*(_Behaviour(rounds=n) for n in range(1, 10)))
    for most, expected in (
        (1, [1]),
        (2, [1, 9]),
        (3, [1, 5, 9]),
        (9, list(range(1, 10))),
        (20, list(range(1, 10))),
    ):
        [found] = _tuned(
            problem, kmap, passes=("forward",), runs=1, dataflows={"twin": flow}, most=most
        ).passes
        assert [trial.choice.config.rounds for trial in found.trials] == expected
    with pytest.raises(RangeError, match="most=0"):
        _tuned(problem, kmap, dataflows={"twin": flow}, most=0)


@pytest.fixture
def seconds_of_rounds(monkeypatch):
    """Choices take as many seconds as rounds, and what they derive takes none: no machine is quick enough."""
    real = autotune.time_in_turns

    def told(candidates, **options):
        found = real(candidates, **options)
        for name, taken in found.items():
            seconds = float(name.rpartition("rounds=")[2].rstrip(")")) if "rounds=" in name else 0.0
            found[name] = replace(taken, median=seconds, q1=seconds, q3=seconds)
        return found

    monkeypatch.setattr(autotune, "time_in_turns", told)


def test_the_fastest_wins_and_is_stored_and_so_is_the_rule(seconds_of_rounds):
    problem, kmap = _case(c_in=32, c_out=32)
    slow, fast = _Behaviour(rounds=8), _Behaviour(rounds=1)
    flows = {"twin": _Twin(slow, fast)}
    won = _tuned(problem, kmap, runs=3, dataflows=flows)
    assert [t.of for t in won.passes] == list(PASSES)
    assert all(t.best.config == t.alone.config == fast and t.rule.config == slow for t in won.passes)
    assert won.gain == 8
    assert table_of([won], "cpu").entries == {(Bucket.of(problem), of): Choice("twin", fast) for of in PASSES}

    stayed = _tuned(problem, kmap, runs=3, dataflows={"twin": _Twin(fast, slow)})
    assert all(t.best == t.alone == t.rule for t in stayed.passes)
    assert stayed.gain == 1
    # choices of a group belong together: what an older tuning has stored for one of them must go
    assert table_of([stayed], "cpu").entries == table_of([won], "cpu").entries


@pytest.mark.parametrize(
    ("median", "q1", "stays"), [(1.02, 1.02, True), (1.5, 1.02, True), (1.5, 1.5, False)]
)
def test_noise_does_not_replace_the_rule(monkeypatch, median, q1, stays):
    problem, kmap = _case()
    flow = _Twin(_Behaviour("none"), _Behaviour("alike"))
    real = autotune.time_in_turns

    def another(candidates, **options):
        found = real(candidates, **options)
        if not candidates:
            return found
        base = found["twin(fault=none,rounds=1)"]
        quicker = replace(base, median=base.median / median, q1=base.q1 / q1)
        return {name: base if "none" in name else quicker for name in found}

    monkeypatch.setattr(autotune, "time_in_turns", another)
    [found] = _tuned(problem, kmap, passes=("forward",), runs=2, dataflows={"twin": flow}).passes
    assert (found.best == found.rule) is stays
    assert found.alone == found.best


def test_a_wrong_rule_is_replaced():
    problem, kmap = _case()
    flow = _Twin(_Behaviour("nan"), _Behaviour())
    group = _tuned(problem, kmap, passes=("forward",), runs=2, dataflows={"twin": flow})
    [found] = group.passes
    assert found.best.config == found.alone.config == _Behaviour()
    assert found.rule not in found.times
    assert group.cost("rule") is None
    assert group.gain == 1
    assert len(table_of([group], "cpu").entries) == 1


def test_where_nothing_is_right_all_reasons_are_given():
    problem, kmap = _case()
    with pytest.raises(UnsupportedError, match=r"twin\(fault=nan,rounds=1\): error nan .*no such tile"):
        _tuned(problem, kmap, dataflows={"twin": _Twin(_Behaviour("nan"), _Behaviour("crash"))})
    with pytest.raises(UnsupportedError, match=r"output_stationary: .*xpu; gather_scatter: .*xpu"):
        _tuned(replace(problem, device="xpu"), kmap)


@pytest.mark.parametrize(
    ("relation", "dtype"),
    [(Relation.of(3), torch.bfloat16), (Relation.of(2, 2), torch.float32)],
    ids=["submanifold-bfloat16", "strided-float32"],
)
def test_every_real_choice_passes_the_guard(relation, dtype):
    problem, kmap = _case(relation, dtype)
    for found in _tuned(problem, kmap, runs=1).passes:
        assert [trial for trial in found.trials if trial.rejected is not None] == []
        flows = [trial.choice.dataflow for trial in found.trials]
        assert set(flows) == {name for name, flow in DATAFLOWS.items() if "cpu" in flow.devices}
        assert found.rule == choices(DATAFLOWS[flows[0]], problem, found.of)[0]


@pytest.fixture
def no_collector():
    """What refers to itself stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _watched() -> int:
    return sum(type(each) is WatchedMap for each in gc.get_objects())


@pytest.mark.parametrize("relation", [Relation.of(3), Relation.of(2, 2)], ids=["submanifold", "strided"])
def test_what_choices_derive_is_gone_when_they_are_tuned(relation, no_collector):
    problem, kmap = _case(relation)
    flows = DATAFLOWS | {"twin": _Twin(*map(_Behaviour, ("none", "shape", "memory", "crash")))}
    group = _tuned(problem, kmap, runs=1, dataflows=flows)
    assert any(trial.derived for found in group.passes for trial in found.trials)
    assert _watched() == 0


def test_what_a_choice_derives_is_gone_before_the_next_one(no_collector, monkeypatch):
    alive, compared = [], guard._compared
    monkeypatch.setattr(guard, "_compared", lambda *given: (compared(*given), alive.append(_watched()))[0])
    problem, kmap = _case(Relation.of(2, 2))
    faults = ("none", "shape", "memory", "crash", "nan")
    flow = _Twin(*[_Behaviour(fault, rounds) for rounds in (1, 2) for fault in faults])
    _tuned(problem, kmap, passes=("grad_feats",), runs=1, dataflows={"twin": flow})
    # a map and its transpose; and after the first choice those that its costs are measured with
    assert alive == [2, *[4] * 9]


def test_the_rule_of_the_tuner_is_the_plan_without_a_table():
    problem, _ = _case(c_in=64, c_out=16)
    plan = plan_for(problem)
    first = DATAFLOWS[plan.forward.dataflow]
    assert [plan.forward, plan.grad_feats, plan.grad_weight] == [
        choices(first, problem, of)[0] for of in PASSES
    ]


def _odd_table(problem):
    tiles = {
        "forward": OutputStationaryConfig(tile=48),
        "grad_feats": OutputStationaryConfig(tile=80),
        "grad_weight": OutputStationaryConfig(tile=112),
    }
    bucket = Bucket.of(problem)
    return TuneTable.here("cpu", {(bucket, of): Choice("output_stationary", tiles[of]) for of in PASSES})


def test_a_table_replaces_the_rule_pass_by_pass():
    problem, _ = _case()
    table = _odd_table(problem)
    plan = plan_for(problem, tuned=table)
    assert (plan.forward.config.tile, plan.grad_feats.config.tile, plan.grad_weight.config.tile) == (
        48,
        80,
        112,
    )
    assert plan_for(problem, "output_stationary", table) == plan
    # a named dataflow is not overruled, an unknown problem keeps the rule
    assert plan_for(problem, "gather_scatter", table) == plan_for(problem, "gather_scatter")
    other = replace(problem, c_out=10)
    assert plan_for(other, tuned=table) == plan_for(other)

    only = replace(table, entries={(Bucket.of(problem), "grad_feats"): plan.grad_feats})
    assert plan_for(problem, tuned=only) == replace(plan_for(problem), grad_feats=plan.grad_feats)
    assert "tile=80" in explain(problem, only)
    assert "tuned: grad_feats for" in explain(problem, only)


def test_the_operator_runs_the_tuned_plan(rng, monkeypatch):
    problem, kmap = _case()
    table = _odd_table(problem)
    plan = plan_for(problem, tuned=table)
    flow = DATAFLOWS["output_stationary"]
    ran = []
    for of in ("forward", "grad_weight"):
        real = getattr(type(flow), of)

        def spy(self, *args, _of=of, _real=real, **kwargs):
            ran.append((_of, args[3].tile))
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(type(flow), of, spy)
    feats = torch.randn(problem.n_in, problem.c_in, generator=rng).requires_grad_()
    weight = torch.randn(problem.k, problem.c_in, problem.c_out, generator=rng).requires_grad_()
    out = sparse_conv(feats, weight, kmap, tuned=table)
    grad_out = torch.randn(out.shape, generator=rng)
    grads = torch.autograd.grad(out, (feats, weight), grad_out)
    # the input gradient is the forward pass of the transposed map
    assert ran == [("forward", 48), ("forward", 80), ("grad_weight", 112)]

    # the bits of the same plan given by hand
    by_hand = (
        flow.forward(feats.detach(), weight.detach(), kmap, plan.forward.config),
        flow.grad_feats(grad_out, weight.detach(), kmap, plan.grad_feats.config),
        flow.grad_weight(feats.detach(), grad_out, kmap, plan.grad_weight.config),
    )
    assert all(torch.equal(a, b) for a, b in zip((out.detach(), *grads), by_hand, strict=True))


def test_factors_of_tf32_are_no_fault_and_the_clock_waits_for_the_map_s_device(monkeypatch):
    problem, kmap = _case()
    exact, rounded = (Choice("x", SortedImplicitGemmConfig(precision=p)) for p in ("ieee", "tf32"))
    # measured: 2.5e-4 to 3.8e-4

    def limit(dtype, terms, choice):
        return guard._limit(dtype, dtype, terms, choice)

    assert limit(torch.float32, 27 * 64, exact) < 2.5e-4
    assert 3.8e-4 < limit(torch.float32, 27, rounded) < 2e-3
    assert limit(torch.bfloat16, 27, rounded) == limit(torch.bfloat16, 27, exact)
    waited, real = [], autotune.time_in_turns

    def spy(candidates, *, device, **options):
        waited.append(device)
        return real(candidates, **options)

    monkeypatch.setattr(autotune, "time_in_turns", spy)
    _tuned(problem, kmap, passes=("forward",), runs=1, dataflows={"twin": _Twin(_Behaviour())})
    assert set(waited) == {kmap.device}
