"""Measure what kernel offsets cost on calibration sweeps, through the package's own engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.compress.cost_measure import most_usual
from pcsparse.compress.cost_run import Call, calls_of, named_parts, runnable
from pcsparse.compress.offset_cost import Line, OffsetCost
from pcsparse.compress.offset_groups import Offsets
from pcsparse.compress.offsets import choose_offsets, counts_of, kept_counts
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.engine.tune_cache import TuneTable, device_key
from pcsparse.errors import RangeError
from pcsparse.kernels.lasting import will_last
from pcsparse.nn import use_tuning
from pcsparse.nn.conv import SparseConv
from pcsparse.nn.copies import own_copy
from pcsparse.ops.conv import sparse_conv
from pcsparse.ops.grouped_conv import grouped_sparse_conv
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import environment, time_in_turns

_SEED = 20231
SHARES = (0.25, 0.5, 0.75)
"""Of the offsets of each group, where layers are timed besides all of them and the fewest."""


def measure_offset_cost(
    model: nn.Module,
    sweeps: Sequence[SparseTensor],
    maps: SharedMaps,
    scores: Mapping[str, Tensor],
    *,
    shares: Sequence[float] = SHARES,
    runs: int = 7,
    fused: bool = True,
    tuned: TuneTable | None = None,
) -> OffsetCost:
    """Count pairs and time layers at several numbers of offsets, those of the highest scores each time.

    Numbers of pairs are means over all sweeps. Times are medians on one of them, the one whose multiply-adds
    are nearest to the mean, with its maps built before and what is compared timed in turns. The network as a
    whole, and the building of its maps, are timed as they are and with the fewest offsets in groups that are
    `free`.

    Args:
        model: any network of sparse convolutions; it is not changed.
        sweeps: calibration inputs; their caches stay as they are.
        maps: of `model` on these sweeps.
        scores: from `offset_scores`.
        shares: of the offsets of every group, each in (0, 1).
        runs: of each.
        fused: fold batch norm and ReLU into the convolutions, as inference does.
        tuned: plans for the convolutions; the rule if None.

    Raises:
        RangeError: no sweeps, no runs, or a share outside (0, 1).
    """
    if not sweeps or runs < 1 or not all(0.0 < share < 1.0 for share in shares):
        raise RangeError(
            f"measure_offset_cost needs sweeps, runs of at least 1 and shares in (0, 1); got {len(sweeps)} "
            f"sweeps, runs={runs}, shares={tuple(shares)}"
        )
    here = environment()
    points = _points(maps, scores, shares)
    net = use_tuning(runnable(model, fused=fused), tuned)
    x = _timed_sweep(net, sweeps)
    calls = calls_of(net, x)[0]
    products = _time_products(calls, maps, points, x, runs, tuned, fused=fused)
    fewest = {group.name: points[0][group.name] for group in maps.groups if group.free}
    network, building = _time_network(net, maps, fewest, products, x, runs)
    after = environment()
    # norms are weights too, though they are folded to be timed
    weights = list(model.parameters())
    return OffsetCost(
        maps=maps,
        products=products,
        network=network,
        building=building,
        bytes=sum(weight.nbytes for weight in weights),
        itemsize=weights[0].element_size(),
        machine=device_key(x.feats.device),
        busy=here.busy or after.busy,
    )


def _points(
    maps: SharedMaps, scores: Mapping[str, Tensor], shares: Sequence[float]
) -> list[dict[str, Offsets]]:
    """Choices of all groups, from the fewest offsets to all; a group may come to the same one twice."""
    fewest = {group.name: counts_of(group)[0] for group in maps.groups}
    counts = [fewest]
    for share in sorted({*shares, 1.0}):
        counts.append(kept_counts(maps, dict.fromkeys(fewest, share)))
    return [choose_offsets(maps, scores, each) for each in counts]


def _timed_sweep(net: nn.Module, sweeps: Sequence[SparseTensor]) -> SparseTensor:
    inputs = [_fresh(x) for x in sweeps]
    return inputs[most_usual([calls_of(net, x)[0] for x in inputs])]


def _fresh(x: SparseTensor) -> SparseTensor:
    return SparseTensor(x.feats, x.coords, stride=x.stride, batch_size=x.batch_size)


@dataclass(frozen=True)
class _Problem:
    """What layers have in common that take the same time with the same offsets; maps by identity."""

    kmap: int
    c_in: int
    c_out: int
    groups: int
    bias: bool
    residual: bool
    relu: bool
    chosen: tuple[Offsets, ...]


def _time_products(
    calls: Sequence[Call],
    maps: SharedMaps,
    points: Sequence[Mapping[str, Offsets]],
    x: SparseTensor,
    runs: int,
    tuned: TuneTable | None,
    *,
    fused: bool,
) -> dict[str, Line]:
    """A line over pairs for each reader."""
    by_name = {call.name: call for call in calls}
    found: dict[_Problem, Line] = {}
    lines = {}
    for group in maps.groups:
        for reader in group.readers:
            call = by_name[reader.name]
            kept = (maps.by_layer({group.name: point[group.name]})[reader.name] for point in points)
            chosen = tuple(dict.fromkeys(kept))
            problem = _Problem(
                id(call.kmap), call.c_in, call.c_out, call.groups, call.bias, call.residual, call.relu, chosen
            )
            if problem not in found:
                runners = _runners(call, reader.offsets, chosen, x, tuned, fused=fused)
                with torch.no_grad():
                    times = time_in_turns(runners, runs=runs, warmup=1, device=x.device)
                ms = {group.pairs_of(kept): 1e3 * times[str(kept)].median for kept in chosen}
                found[problem] = Line(tuple(sorted(ms)), tuple(ms[pairs] for pairs in sorted(ms)))
            line = found[problem]
            lines[reader.name] = Line(line.at, tuple(reader.calls * ms for ms in line.ms))
    return lines


def _runners(
    call: Call,
    have: Offsets,
    chosen: Sequence[Offsets],
    x: SparseTensor,
    tuned: TuneTable | None,
    *,
    fused: bool,
) -> dict[str, Callable[[], object]]:
    """The convolution of a call with some of its offsets, by these."""
    generator = torch.Generator().manual_seed(_SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cpu").to(x.device, x.feats.dtype)

    feats, weight = draw(call.n_in, call.c_in), draw(len(have), call.c_in // call.groups, call.c_out)
    bias = draw(call.c_out) if call.bias else None
    residual = draw(call.n_out, call.c_out) if call.residual else None

    def runner(kept: Offsets) -> Callable[[], object]:
        mask = torch.tensor([k in set(kept) for k in have], device="cpu")
        assert call.kmap is not None
        kmap, some = call.kmap.keep_offsets(mask), weight[mask.to(weight.device)]
        if fused:
            will_last(some)
        options: dict[str, Any] = {"bias": bias, "residual": residual, "relu": call.relu, "tuned": tuned}
        if call.groups > 1:
            return lambda: grouped_sparse_conv(feats, some, kmap, call.groups, **options)
        return lambda: sparse_conv(feats, some, kmap, **options)

    return {str(kept): runner(kept) for kept in chosen}


def _time_network(
    net: nn.Module,
    maps: SharedMaps,
    fewest: Mapping[str, Offsets],
    products: Mapping[str, Line],
    x: SparseTensor,
    runs: int,
) -> tuple[Line, Line]:
    """The network over the sum of its products, and its maps over the pairs that are searched."""
    small, y = _with_fewer(net, maps, fewest), _fresh(x)
    with torch.no_grad():
        small(y)
        runners: dict[str, Callable[[], object]] = {
            "network": lambda: net(x),
            "small": lambda: small(y),
            "maps": x.cache.rebuilt,
            "small maps": y.cache.rebuilt,
        }
        times = {n: 1e3 * t.median for n, t in time_in_turns(runners, runs=runs, device=x.device).items()}
    ends = [_sum_of(products, maps, chosen) for chosen in (fewest, {})]
    pairs = [sum(maps.searched_pairs(chosen).values()) for chosen in (fewest, None)]
    return _line(ends, (times["small"], times["network"])), _line(pairs, (times["small maps"], times["maps"]))


def _sum_of(products: Mapping[str, Line], maps: SharedMaps, chosen: Mapping[str, Offsets]) -> float:
    kept = maps.by_layer(chosen)
    of = {reader: group for group in maps.groups for reader in group.readers}
    return sum(
        products[reader.name].of(group.pairs_of(kept.get(reader.name, reader.offsets)))
        for reader, group in of.items()
    )


def _line(at: Sequence[float], ms: Sequence[float]) -> Line:
    # nothing to drop, or a machine so noisy that less took longer
    if not at[0] < at[1]:
        return Line((at[1],), (ms[1],))
    return Line(tuple(at), tuple(ms))


def _with_fewer(net: nn.Module, maps: SharedMaps, chosen: Mapping[str, Offsets]) -> nn.Module:
    """A copy of a network from `runnable` whose readers keep these offsets, whatever its class is."""
    net = own_copy(net, hooked=False)
    convs = named_parts(net)
    kept = {r.name: r.offsets for group in maps.groups for r in group.readers} | maps.by_layer(chosen)
    union: dict[str, set[int]] = {}
    for group in maps.groups:
        for reader in group.readers:
            union.setdefault(group.map_name, set()).update(kept[reader.name])
    for group in maps.groups:
        for reader in group.readers:
            conv = convs[reader.name]
            assert isinstance(conv, SparseConv)
            # what makes a weight anew would make all of it
            conv._forward_pre_hooks.clear()
            places = [reader.offsets.index(k) for k in kept[reader.name]]
            conv.weight = nn.Parameter(conv.weight.detach()[places].clone(), requires_grad=False)
            conv.offsets = _named(kept[reader.name], conv)
            conv.searched = _named(tuple(sorted(union[group.map_name])), conv)
    return net


def _named(offsets: Offsets, conv: SparseConv) -> Offsets | None:
    """None for the whole kernel, as layers have it."""
    return None if len(offsets) == conv.relation.volume else offsets
