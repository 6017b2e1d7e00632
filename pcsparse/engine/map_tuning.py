"""Tuner of kernel maps: each way to one is timed on a cloud and its coarser levels, and a rule is fitted.

Correct before fast: a way that disagrees with the twin once is in no rule. What is timed is what runs, from
sorted keys to the table, host and launches included. The rule is a sum of few amounts, each at what one of it
was found to take: one map, one row, one cell, one column and one offset of a query. Where that says wrongly
that another way than the search is faster, it must say so by more.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcsparse.coords.build import makes_tables, map_deltas, strided_level
from pcsparse.coords.build_tables import Wanted, search_into
from pcsparse.coords.keys import WHOLE
from pcsparse.coords.relation import Relation
from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.kernels import reference
from pcsparse.kernels.jobs import Search
from pcsparse.kernels.map_ways import WAYS, MapRule, MapSize, Way
from pcsparse.lack_of_memory import lacks_memory
from pcsparse.timing import Timing, time_in_turns

KERNELS = (3, 5, 7)
"""Edges of the submanifold kernels that are timed."""
WRONG = "not the twin's table"
"""Why a way is rejected that must never be."""
_HALF = Relation.of(2, 2)
# the cloud and three coarser ones: rows halve and cells go down to an eighth from one to the next
_LEVELS = 4
# the least gain; below it is noise, and maps stay searched, as they are without a rule
_WORTHWHILE = 1.05


@dataclass(frozen=True)
class MapTrial:
    """One map, by every way that can make it.

    Attributes:
        name: level and kernel.
        size: of the map.
        times: of the ways that agree with the twin.
        rejected: why the others have none.
    """

    name: str
    size: MapSize
    times: Mapping[Way, Timing]
    rejected: Mapping[Way, str]

    def seconds(self, way: Way) -> float:
        """That the map took; no end of them where there was no memory for it."""
        return self.times[way].median if way in self.times else math.inf


@dataclass(frozen=True)
class MapTuning:
    """What was timed, and the rule that follows.

    Attributes:
        trials: one a map.
        rule: of the ways that were right in all of them.
        errors: of each way in the rule, the largest difference between a time and what the rule says, as a
            share of the time.
    """

    trials: tuple[MapTrial, ...]
    rule: MapRule
    errors: Mapping[Way, float]


def tune_maps(
    coords: Tensor, *, kernels: Sequence[int] = KERNELS, levels: int = _LEVELS, runs: int = 10
) -> MapTuning:
    """Measure a rule for the maps of clouds that are like one, or smaller.

    Args:
        coords: (n, 4) int32, unique, on a device whose maps are tables.
        kernels: edges of submanifold kernels; strided ones of edge 2 are timed, too.
        levels: the cloud and coarser ones made of it, at least 1; the first one is timed twice as large, too,
            if a key has room for twice as many clouds.
        runs: of each way.

    Raises:
        RangeError: an argument has no meaning, or `coords` leave the range of a key or repeat.
        UnsupportedError: maps are lists on this device, and nothing is to be chosen.
    """
    if runs < 1 or levels < 1 or not kernels:
        raise RangeError(f"need runs >= 1, levels >= 1 and kernels, got {runs}, {levels} and {kernels}")
    if not makes_tables(coords):
        raise UnsupportedError(f"maps on {coords.device.type} are lists, made in one way; tune them on a GPU")
    trials = tuple(
        _timed(name, wanted, runs, coords.device) for name, wanted in _maps(coords, kernels, levels)
    )
    wrong = {way for trial in trials for way, said in trial.rejected.items() if said == WRONG}
    seconds, errors = {}, {}
    for way in WAYS:
        found = [trial for trial in trials if way in trial.times]
        # of fewer maps the sum says nothing
        if way not in wrong and len(found) > 1:
            seconds[way], errors[way] = fitted(
                [t.size.amounts(way) for t in found], [t.times[way].median for t in found]
            )
    rule = MapRule(seconds, _most(trials), _WORTHWHILE)
    return MapTuning(trials, replace(rule, margin=_margin(trials, rule)), errors)


def fitted(amounts: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """What one of each amount takes, none less than nothing, so that the sums are near the seconds.

    Args:
        amounts: a row for each time.
        seconds: each > 0. A difference counts as a share of the time, so that small maps count, too.

    Returns:
        seconds of one of each; and the largest difference, as a share of the time.
    """
    rows = (
        torch.tensor(amounts, dtype=torch.float64, device="cpu")
        / torch.tensor(seconds, dtype=torch.float64, device="cpu")[:, None]
    )
    scale = rows.amax(dim=0)
    able = [i for i, largest in enumerate(scale.tolist()) if largest > 0]
    rows = rows / torch.where(scale > 0, scale, 1.0)
    ones = torch.ones(len(rows), dtype=torch.float64, device="cpu")
    best: tuple[float, Tensor] = (math.inf, torch.zeros(len(scale), dtype=torch.float64, device="cpu"))
    # few enough for every subset: the best one whose own least squares are not negative is the optimum
    for some in itertools.chain.from_iterable(
        itertools.combinations(able, n) for n in range(1, len(able) + 1)
    ):
        found = torch.linalg.lstsq(rows[:, some], ones, driver="gelsd").solution
        off = float((rows[:, some] @ found - ones).square().sum())
        if bool((found >= 0).all()) and off < best[0] * (1 - 1e-9):
            best = off, torch.zeros(len(scale), dtype=torch.float64, device="cpu")
            best[1][list(some)] = found
    costs = best[1] / torch.where(scale > 0, scale, 1.0)
    return tuple(costs.tolist()), float((rows @ best[1] - ones).abs().max())


def _maps(coords: Tensor, kernels: Sequence[int], levels: int) -> Iterator[tuple[str, Wanted]]:
    """The maps that are timed, and their names."""
    fine = SortedKeys.of(coords.int())
    clouds = fine.extent.high[0] - fine.extent.low[0] + 1
    # of very many clouds a key has no room for as many more
    if coords.shape[0] and fine.extent.high[0] + clouds <= WHOLE.high[0]:
        beside = coords + coords.new_tensor([clouds, 0, 0, 0])
        both = SortedKeys.of(torch.cat([coords, beside]))
        yield f"twice, {kernels[0]}^3", _wanted(both, both, Relation.of(kernels[0]))
    for level in range(levels):
        for edge in kernels:
            yield f"level {level}, {edge}^3", _wanted(fine, fine, Relation.of(edge))
        if level + 1 < levels:
            coarse = strided_level(fine, _HALF, "touched").keys
            yield f"level {level}, 2^3 stride 2", _wanted(fine, coarse, _HALF)
            fine = coarse


def _wanted(fine: SortedKeys, coarse: SortedKeys, relation: Relation) -> Wanted:
    deltas, symmetric, _ = map_deltas(relation, None, same_coords=fine is coarse)
    return Wanted(fine, coarse, relation, deltas, symmetric)


def _timed(name: str, wanted: Wanted, runs: int, device: torch.device) -> MapTrial:
    fine, coarse = wanted.fine, wanted.coarse
    n_in, n_out, bounds = fine.keys.numel(), coarse.keys.numel(), (fine.extent.low, fine.extent.high)
    size = MapSize.of(n_in, n_out, wanted.deltas, wanted.symmetric, bounds)
    orders = fine.order, coarse.order
    (twin,) = reference.match_tables(
        [Search(fine.keys, coarse.keys, wanted.deltas, wanted.relation.stride, *orders)]
    )
    right: dict[str, Callable[[], object]] = {}
    rejected: dict[Way, str] = {}
    for way in WAYS:
        reason = size.refuses(way) or _tried(wanted, way, twin)
        if reason is None:
            right[way] = lambda way=way: _made(wanted, way)  # type: ignore[misc]
        else:
            rejected[way] = reason
    del twin
    times = time_in_turns(right, runs=runs, warmup=2, device=device)
    return MapTrial(name, size, {way: times[way] for way in WAYS if way in times}, rejected)


def _made(wanted: Wanted, way: Way) -> Tensor:
    one = Wanted(wanted.fine, wanted.coarse, wanted.relation, wanted.deltas, wanted.symmetric, way)
    return search_into([one], [None])[0]


def _tried(wanted: Wanted, way: Way, twin: Tensor) -> str | None:
    """Why a way is not timed, None if it is."""
    try:
        return None if torch.equal(_made(wanted, way), twin) else WRONG
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        return f"out of memory: {error}".partition("\n")[0]


def _margin(trials: Sequence[MapTrial], rule: MapRule) -> float:
    """The least margin by which no map that was timed is made another way without a gain."""
    margin = rule.margin
    for trial in trials:
        way = rule.pick(trial.size)
        if way != "search" and trial.seconds(way) * _WORTHWHILE > trial.seconds("search"):
            said = rule.taken(trial.size, "search") / max(rule.taken(trial.size, way), 1e-12)
            margin = max(margin, said * (1 + 1e-6))
    return margin


def _most(trials: Sequence[MapTrial]) -> tuple[int, int, int, int]:
    sizes = [trial.size for trial in trials]
    cells = [trial.size.cells or 0 for trial in trials if "grid" in trial.times]
    return (
        max(size.rows for size in sizes),
        max(size.queries for size in sizes),
        max(size.volume for size in sizes),
        max(cells, default=0),
    )
