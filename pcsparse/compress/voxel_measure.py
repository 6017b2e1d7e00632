"""Measure what layers cost that convolve a share of their rows, through the package's own engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pcsparse.compress.cost_measure import Draw, layer_runner, most_usual
from pcsparse.compress.cost_run import Call, SomeRows, calls_of, named_parts, runnable
from pcsparse.compress.graph_layers import input_of
from pcsparse.compress.offset_cost import Line
from pcsparse.compress.voxel_cost import VoxelCost, VoxelLayerCost
from pcsparse.compress.voxel_importance import PARTS, VoxelImportance, voxel_importance
from pcsparse.compress.voxels import REST, prune_voxels
from pcsparse.engine.tune_cache import TuneTable, device_key
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn import SubmanifoldConv3d, use_tuning
from pcsparse.nn.conv import Rest
from pcsparse.ops.importance import important_rows
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import environment, time_in_turns


def measure_voxel_cost(
    model: nn.Module,
    sweeps: Sequence[SparseTensor],
    kept: Sequence[int],
    *,
    rest: Rest = REST,
    runs: int = 7,
    fused: bool = True,
    tuned: TuneTable | None = None,
) -> VoxelCost:
    """Count pairs and time layers at several shares of their rows, those with the largest features.

    Numbers of rows and pairs are means over all sweeps. Times are medians on one of them, the one whose
    multiply-adds are nearest to the mean, with its maps built before and the shares of a layer timed in
    turns; the choice of rows and the filter of the map are timed with the convolution, as they are made anew
    in each layer. Layers on one map that are equally wide share the measurements. The network as a whole is
    timed as it is, and with the fewest rows in all layers.

    Args:
        model: built from a Spec that has `with_voxels`, with all its rows; it is not changed.
        sweeps: calibration inputs; their caches stay as they are.
        kept: thousandths of the rows, each in [1, PARTS); without any nothing is timed but the network.
        rest: what becomes of the rows that are not convolved.
        runs: of each.
        fused: fold batch norm and ReLU into the convolutions, as inference does.
        tuned: plans for the convolutions; the rule if None.

    Raises:
        RangeError: no sweeps, no runs, no such `rest`, or thousandths outside [1, PARTS).
        UnsupportedError: the network has no layer that can do with some rows; see `prune_voxels`.
    """
    points = sorted(set(kept))
    if not sweeps or runs < 1 or not all(1 <= point < PARTS for point in points):
        raise RangeError(
            f"measure_voxel_cost needs sweeps, runs of at least 1 and thousandths from 1 to {PARTS - 1}; got "
            f"{len(sweeps)} sweeps, runs={runs}, kept={tuple(kept)}"
        )
    here = environment()
    # a copy: the hooks of a user do not run
    importance = voxel_importance(runnable(model, fused=False), sweeps, rest)
    if not importance:
        raise UnsupportedError(f"{type(model).__name__} has no layer that need not convolve all rows")
    net = use_tuning(runnable(model, fused=fused), tuned)
    inputs = [_fresh(x) for x in sweeps]
    seen = [calls_of(net, x)[0] for x in inputs]
    timed = most_usual(seen)
    x, calls = inputs[timed], {call.name: call for call in seen[timed] if call.kind == "conv"}
    chosen = _rows(net, x, [found.name for found in importance], points, rest)
    layers = _layers(importance, calls, chosen, x, runs, tuned, rest, fused=fused)
    network, map_ms = _time_network(model, net, layers, x, runs, fused=fused, tuned=tuned)
    after = environment()
    total = sum(call.macs for found in seen for call in found) / len(seen)
    return VoxelCost(
        layers=layers,
        network=network,
        map_ms=map_ms,
        # of means, so that rounding could bring it below 0
        rest_macs=max(0.0, total - sum(layer.macs(PARTS) for layer in layers)),
        bytes=sum(weight.nbytes for weight in model.parameters()),
        machine=device_key(x.feats.device),
        busy=here.busy or after.busy,
    )


def _fresh(x: SparseTensor) -> SparseTensor:
    return SparseTensor(x.feats, x.coords, stride=x.stride, batch_size=x.batch_size)


def _rows(
    net: nn.Module, x: SparseTensor, names: Sequence[str], points: Sequence[int], rest: Rest
) -> dict[str, dict[int, SomeRows]]:
    """The rows that each layer would choose at each share, in the network as it is."""
    parts = named_parts(net)
    found: dict[str, dict[int, SomeRows]] = {name: {} for name in names}

    def looking(name: str) -> Callable[..., None]:
        def look(part: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            source: SparseTensor = input_of(inputs, kwargs)
            assert isinstance(part, SubmanifoldConv3d)
            centre = part.centre if rest == "centre" else None
            clouds = source.cache.cloud_map(source.coords, source.batch_size)
            for point in points:
                mask = important_rows(source.feats, clouds, point / PARTS)
                found[name][point] = SomeRows(mask, point / PARTS, clouds, centre)

        return look

    handles = [parts[name].register_forward_pre_hook(looking(name), with_kwargs=True) for name in names]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass(frozen=True)
class _Problem:
    """What layers have in common that take the same time at the same pairs; maps by identity."""

    kmap: int
    c_in: int
    c_out: int
    bias: bool
    residual: bool
    relu: bool


def _layers(
    importance: Sequence[VoxelImportance],
    calls: Mapping[str, Call],
    chosen: Mapping[str, Mapping[int, SomeRows]],
    x: SparseTensor,
    runs: int,
    tuned: TuneTable | None,
    rest: Rest,
    *,
    fused: bool,
) -> tuple[VoxelLayerCost, ...]:
    known: dict[_Problem, dict[int | None, float]] = {}
    layers = []
    for found in importance:
        call, some = calls[found.name], chosen[found.name]
        problem = _Problem(id(call.kmap), call.c_in, call.c_out, call.bias, call.residual, call.relu)
        if problem not in known:
            draw = Draw(x.feats.dtype, x.device, last=fused)
            known[problem] = _time_layer(call, some, draw, runs, tuned)
        ms = known[problem]
        layers.append(
            VoxelLayerCost(
                name=found.name,
                c_in=call.c_in,
                c_out=call.c_out,
                k=call.k,
                stride=call.stride,
                rows=found.rows,
                pairs=found.pairs,
                kept=tuple(some),
                pairs_kept=tuple(found.pairs_at(point / PARTS) for point in some),
                ms=tuple(ms[point] for point in some),
                whole_ms=ms[None],
                rest=rest,
            )
        )
    return tuple(layers)


def _time_layer(
    call: Call, some: Mapping[int, SomeRows], draw: Draw, runs: int, tuned: TuneTable | None
) -> dict[int | None, float]:
    """Milliseconds by share; of all rows at None."""
    kinds: dict[int | None, Call] = {None: replace(call, some=None)}
    kinds |= {point: replace(call, some=rows) for point, rows in some.items()}
    runners = {
        str(point): layer_runner(one, call.c_in, call.c_out, draw, tuned) for point, one in kinds.items()
    }
    with torch.no_grad():
        times = time_in_turns(runners, runs=runs, warmup=1, device=draw.device)
    return {point: 1e3 * times[str(point)].median for point in kinds}


def _time_network(
    model: nn.Module,
    net: nn.Module,
    layers: Sequence[VoxelLayerCost],
    x: SparseTensor,
    runs: int,
    *,
    fused: bool,
    tuned: TuneTable | None,
) -> tuple[Line, float]:
    """The network over the sum of its layers that can do with some rows, and the building of its maps."""
    fewest = {layer.name: layer.kept[0] for layer in layers if layer.kept}
    small = prune_voxels(model, {name: point / PARTS for name, point in fewest.items()}, layers[0].rest)
    small = use_tuning(runnable(small, fused=fused), tuned)
    runners: dict[str, Callable[[], object]] = {
        "maps": x.cache.rebuilt, "network": lambda: net(x), "small": lambda: small(x),
    }  # fmt: skip
    with torch.no_grad():
        times = {n: 1e3 * t.median for n, t in time_in_turns(runners, runs=runs, device=x.device).items()}
    ends = [
        sum(layer.milliseconds(point) for layer, point in zip(layers, points, strict=True))
        for points in ([fewest.get(layer.name, PARTS) for layer in layers], [PARTS] * len(layers))
    ]
    # choosing rows and filtering maps may cost more than it saves
    if not ends[0] < ends[1]:
        return Line((ends[1],), (times["network"],)), times["maps"]
    return Line(tuple(ends), (times["small"], times["network"])), times["maps"]
