"""A network before and after compression, measured in turns: layer by layer, and whole on several sweeps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pcsparse.compress.cost_measure import Draw, layer_runner, most_usual
from pcsparse.compress.cost_run import Call, calls_of, runnable
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import RangeError
from pcsparse.nn import use_tuning
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import Timing, time_in_turns


@dataclass(frozen=True)
class LayerSide:
    """A layer as it is in one of the networks.

    Attributes:
        c_in, c_out: channels.
        k: kernel offsets.
        macs: multiply-adds on the sweep.
        time: of one run on the sweep, its map there.
        rows: that it writes by products on the sweep, without those that pass; None in files of versions that
            did not count them.
    """

    c_in: int
    c_out: int
    k: int
    macs: int
    time: Timing
    rows: int | None = None


@dataclass(frozen=True)
class LayerPair:
    """A layer before and after.

    Attributes:
        name, kind: see `cost.LayerCost`.
        before: in the whole network.
        after: in the smaller one; None where it is gone.
    """

    name: str
    kind: str
    before: LayerSide
    after: LayerSide | None

    @property
    def idle(self) -> bool:
        """Whether multiply-adds fell and milliseconds did not.

        They did not if the median after is no lower than the first quartile before.
        """
        if self.after is None or not self.after.macs < self.before.macs:
            return False
        return self.after.time.median >= self.before.time.q1


@dataclass(frozen=True)
class SweepPair:
    """Both networks on one sweep, in turns.

    Attributes:
        n_voxels: of the sweep.
        maps_before, maps_after: to build all levels and maps that they ask for.
        before, after: of the networks with their maps there.
        before_all, after_all: the same from coordinates and features, maps included.
    """

    n_voxels: int
    maps_before: Timing
    maps_after: Timing
    before: Timing
    after: Timing
    before_all: Timing
    after_all: Timing


def measure_layers(
    dense: nn.Module,
    small: nn.Module,
    sweeps: Sequence[SparseTensor],
    *,
    runs: int = 20,
    tuned: TuneTable | None = None,
) -> tuple[LayerPair, ...]:
    """Time every layer of both networks, fused as in inference, before and after in turns.

    They run on the sweep that `measure_cost` would time them on.

    Args:
        dense: the whole network.
        small: made of it; its layers have the same names.
        sweeps: at least one; their caches stay as they are.
        runs: of each.
        tuned: plans for the convolutions; the rule if None.

    Raises:
        RangeError: `small` has a layer that `dense` has not.
    """
    whole = runnable(dense, fused=True)
    inputs = [_fresh(x) for x in sweeps]
    calls = [calls_of(whole, x)[0] for x in inputs]
    timed = most_usual(calls)
    x, before = inputs[timed], calls[timed]
    after, _ = calls_of(runnable(small, fused=True), x)
    known = {(call.name, call.kind): call for call in after}
    added = known.keys() - {(call.name, call.kind) for call in before}
    if added:
        raise RangeError(f"the smaller network has layers that the whole one has not: {sorted(added)}")
    draw = Draw(x.feats.dtype, x.device, last=True)
    found = []
    for call in before:
        pair = {"before": call, "after": known.get((call.name, call.kind))}
        there = {side: one for side, one in pair.items() if one is not None}
        runners = {side: layer_runner(one, one.c_in, one.c_out, draw, tuned) for side, one in there.items()}
        with torch.no_grad():
            times = time_in_turns(runners, runs=runs, device=x.device)
        sides = {side: _side(one, times[side]) for side, one in there.items()}
        found.append(LayerPair(call.name, call.kind, sides["before"], sides.get("after")))
    return tuple(found)


def measure_sweeps(
    dense: nn.Module,
    small: nn.Module,
    sweeps: Sequence[SparseTensor],
    *,
    runs: int = 20,
    tuned: TuneTable | None = None,
) -> tuple[SweepPair, ...]:
    """Time both networks whole on each sweep, fused as in inference, in turns."""
    nets = [use_tuning(runnable(net, fused=True), tuned) for net in (dense, small)]
    return tuple(_sweep(nets[0], nets[1], x, runs) for x in sweeps)


def _sweep(dense: nn.Module, small: nn.Module, x: SparseTensor, runs: int) -> SweepPair:
    # a cache each: a network without some offsets asks for other maps
    ready, ready_after = _fresh(x), _fresh(x)
    runners: dict[str, Callable[[], object]] = {
        # the first round builds the maps, and is not measured
        "before": lambda: dense(ready),
        "after": lambda: small(ready_after),
        "maps_before": ready.cache.rebuilt,
        "maps_after": ready_after.cache.rebuilt,
        "before_all": lambda: dense(_fresh(x)),
        "after_all": lambda: small(_fresh(x)),
    }
    with torch.no_grad():
        times = time_in_turns(runners, runs=runs, device=x.device)
    return SweepPair(n_voxels=len(x), **times)


def count_macs(model: nn.Module, sweeps: Sequence[SparseTensor]) -> float:
    """Multiply-adds a sweep, a mean."""
    net = runnable(model, fused=True)
    return sum(call.macs for x in sweeps for call in calls_of(net, _fresh(x))[0]) / len(sweeps)


def spread_by_size(sweeps: Sequence[SparseTensor], n: int) -> list[SparseTensor]:
    """At most `n` of some sweeps, the one with fewest voxels first, that with most last."""
    ordered = sorted(sweeps, key=len)
    last = len(ordered) - 1
    places = {round(i * last / max(n - 1, 1)) for i in range(n)}
    # one alone should be a usual one
    return [ordered[last // 2]] if n == 1 else [ordered[place] for place in sorted(places)]


def _fresh(x: SparseTensor) -> SparseTensor:
    return SparseTensor(x.feats, x.coords, stride=x.stride, batch_size=x.batch_size)


def _side(call: Call, time: Timing) -> LayerSide:
    return LayerSide(call.c_in, call.c_out, call.k, call.macs, time, call.n_rows)
