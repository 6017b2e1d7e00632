"""Measure what a network costs on calibration sweeps, through the package's own engine.

Each layer is timed at a grid of widths on the maps of a real sweep, which are built before. Layers that share
a map, as those of a level do, share the measurements.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.compress.channels import slice_channels
from pcsparse.compress.cost import CostTable, LayerCost, with_weights_once
from pcsparse.compress.cost_grid import Grid, Size
from pcsparse.compress.cost_run import Call, SomeRows, calls_of, runnable, vectors_of
from pcsparse.compress.graph import ChannelGraph
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.tune_cache import TuneTable, device_key, versions
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.kernels.lasting import will_last
from pcsparse.nn import BatchNorm, BatchNormReLU, use_tuning
from pcsparse.ops.conv import sparse_conv
from pcsparse.ops.grouped_conv import grouped_sparse_conv
from pcsparse.ops.importance import important_rows
from pcsparse.ops.partial_conv import partial_sparse_conv
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import environment, time_in_turns

_SEED = 20231


def measure_cost(
    model: nn.Module,
    sweeps: Sequence[SparseTensor],
    *,
    graph: ChannelGraph | None = None,
    multiple: int = 8,
    step: int = 16,
    runs: int = 7,
    fused: bool = True,
    tuned: TuneTable | None = None,
) -> CostTable:
    """Count and time every layer of a network on a SparseTensor; see `compress.cost_dense` for others.

    Numbers of rows and pairs are means over all sweeps. Times are medians on one of them, the one whose
    multiply-adds are nearest to the mean, with all maps built before and layers timed in turns. Of layers
    that convolve a share of the rows only their pairs count, and the choice of rows and the filter of the
    map are timed with them.

    Args:
        model: any network that the channel graph knows; it is not changed.
        sweeps: calibration inputs; their caches stay as they are.
        graph: of `model`; read on the first of the sweeps if None.
        multiple: the smallest width of a group that will be asked for.
        step: widths between that and the full one are timed at multiples of it; between them times are
            interpolated.
        runs: of each width.
        fused: fold batch norm and ReLU into the convolutions, as inference does.
        tuned: plans for the convolutions; the rule if None.

    Raises:
        RangeError: no sweeps, or `multiple`, `step` or `runs` below 1.
        UnsupportedError: an operator that the graph does not know, or a layer on dense tensors.
    """
    if not sweeps or min(multiple, step, runs) < 1:
        raise RangeError(
            f"measure_cost needs sweeps, and multiple, step and runs of at least 1; got {len(sweeps)} "
            f"sweeps, multiple={multiple}, step={step}, runs={runs}"
        )
    here = environment()
    net = use_tuning(runnable(model, fused=fused), tuned)
    inputs = [SparseTensor(x.feats, x.coords, stride=x.stride, batch_size=x.batch_size) for x in sweeps]
    graph = ChannelGraph.of(model, inputs[0]) if graph is None else graph
    seen = [calls_of(net, x) for x in inputs]
    timed = most_usual([calls for calls, _ in seen])
    calls = seen[timed][0]
    _check_all_seen(graph, calls, model, inputs[0])
    grids = [
        Grid.of(
            call.name,
            call.kind,
            (call.c_in, call.c_out),
            graph,
            multiple=multiple,
            step=step,
            alike=call.some is not None and call.some.passes,
        )
        for call in calls
    ]
    times = _time_layers(calls, grids, inputs[timed], runs, tuned, fused=fused)
    vectors = _vectors(model, graph, calls)
    layers = [
        _layer([found[i] for found, _ in seen], grids[i], times[i], vectors[i]) for i in range(len(calls))
    ]
    narrow = narrowest(model, graph, multiple)
    least = None if narrow is None else use_tuning(runnable(narrow, fused=fused), tuned)
    map_ms, network_ms, least_ms = _time_networks(net, least, inputs[timed], runs)
    after = environment()
    return CostTable(
        layers=with_weights_once(layers),
        map_ms=map_ms,
        network_ms=network_ms,
        peak_bytes=sum(peak for _, peak in seen) / len(seen),
        itemsize=inputs[0].feats.element_size(),
        fused=fused,
        sweeps=len(inputs),
        machine=device_key(inputs[0].feats.device),
        versions=tuple(versions().items()),
        others=max((o for o in (here.others, after.others) if o is not None), default=None),
        busy=here.busy or after.busy,
        least_ms=least_ms,
    )


def _check_all_seen(graph: ChannelGraph, calls: Sequence[Call], model: nn.Module, x: SparseTensor) -> None:
    seen = {call.name for call in calls}
    left_out = [layer.name for layer in graph.layers if layer.kind != "norm" and layer.name not in seen]
    if left_out:
        # a graph may know layers that run in training only, which cost nothing here
        ran = {layer.name for layer in ChannelGraph.of(model, x).layers}
        left_out = [name for name in left_out if name in ran]
    if left_out:
        raise UnsupportedError(
            f"{', '.join(left_out)} run on dense tensors, which measure_cost does not see; measure the part "
            "of the network before them, and the rest with compress.cost_dense"
        )


def narrowest(model: nn.Module, graph: ChannelGraph, multiple: int) -> nn.Module | None:
    """The network whose groups all have the least width that is timed; None where it has no such Spec."""
    first = {group.name: range(min(multiple, group.width)) for group in graph.free}
    try:
        # it runs in evaluation mode only, where they do not
        return slice_channels(model, replace(graph, unseen=()), first)
    except UnsupportedError:
        return None


def most_usual(runs: Sequence[tuple[Call, ...]]) -> int:
    """Which of some sweeps has multiply-adds nearest to the mean; the calls of the network on each."""
    work = [float(sum(call.macs for call in calls)) for calls in runs]
    mean = sum(work) / len(work)
    return min(range(len(work)), key=lambda i: abs(work[i] - mean))


@dataclass(frozen=True)
class _Problem:
    """What layers have in common that take the same time at the same widths; maps by identity."""

    kind: str
    kmap: int
    n_in: int
    n_out: int
    bias: bool
    residual: bool
    relu: bool
    some: int


def _problem(call: Call) -> _Problem:
    extras = call.bias, call.residual, call.relu
    return _Problem(call.kind, id(call.kmap), call.n_in, call.n_out, *extras, id(call.some))


def _time_layers(
    calls: Sequence[Call],
    grids: Sequence[Grid],
    x: SparseTensor,
    runs: int,
    tuned: TuneTable | None,
    *,
    fused: bool,
) -> list[dict[Size, float]]:
    """Milliseconds by size, for each call."""
    wanted: dict[_Problem, dict[Size, None]] = {}
    for call, grid in zip(calls, grids, strict=True):
        wanted.setdefault(_problem(call), {}).update(dict.fromkeys(grid.sizes()))
    found: dict[_Problem, dict[Size, float]] = {}
    for call in calls:
        problem = _problem(call)
        if problem not in found:
            draw = Draw(x.feats.dtype, x.device, last=fused)
            found[problem] = _time_problem(call, wanted[problem], draw, runs, tuned)
    return [found[_problem(call)] for call in calls]


def _time_problem(
    call: Call, sizes: Iterable[Size], draw: "Draw", runs: int, tuned: TuneTable | None
) -> dict[Size, float]:
    runners = {f"{c_in} {c_out}": layer_runner(call, c_in, c_out, draw, tuned) for c_in, c_out in sizes}
    with torch.no_grad():
        times = time_in_turns(runners, runs=runs, warmup=1, device=draw.device)
    return {size: 1e3 * times[f"{size[0]} {size[1]}"].median for size in sizes}


class Draw:
    """Random features and weights, drawn once a shape.

    Args:
        dtype, device: of them.
        last: whether kernels may keep what they make of weights, as they do for networks from `nn.fuse`.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, *, last: bool = False) -> None:
        self.device = device
        self._dtype, self._last = dtype, last
        self._drawn: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, *shape: int) -> Tensor:
        """The features of a shape."""
        if shape not in self._drawn:
            generator = torch.Generator().manual_seed(_SEED)
            self._drawn[shape] = torch.randn(*shape, generator=generator, device="cpu").to(
                self.device, self._dtype
            )
            if self._last:
                will_last(self._drawn[shape])
        return self._drawn[shape]


def layer_runner(
    call: Call, c_in: int, c_out: int, draw: Draw, tuned: TuneTable | None
) -> Callable[[], object]:
    """What runs a layer once at given widths, on random features and its own map, which is there."""
    feats = draw(call.n_in, c_in)
    residual = draw(call.n_out, c_out) if call.residual else None
    if call.kind == "cat":
        halves = feats.split([c_in // 2, c_in - c_in // 2], dim=1)
        parts = [half.contiguous() for half in halves]
        return lambda: torch.cat(parts, dim=1)
    if call.kind == "norm":
        norm = (BatchNormReLU if call.relu else BatchNorm)(c_in).to(feats).eval()
        coords = torch.zeros(call.n_in, 4, dtype=torch.int32, device=feats.device)
        x = SparseTensor(feats, coords, batch_size=1)
        extra = None if residual is None else x.replace(residual)
        return lambda: norm(x, residual=extra)
    assert call.kmap is not None
    kmap = call.kmap
    weight, bias = draw(call.k, c_in // call.groups, c_out), draw(c_out) if call.bias else None
    options: dict[str, Any] = {"bias": bias, "residual": residual, "relu": call.relu, "tuned": tuned}
    some = call.some
    if some is not None:
        return lambda: _convolve_some(feats, weight, kmap, some, **options)
    if call.groups > 1:
        return lambda: grouped_sparse_conv(feats, weight, kmap, call.groups, **options)
    return lambda: sparse_conv(feats, weight, kmap, **options)


def _convolve_some(feats: Tensor, weight: Tensor, kmap: KernelMap, some: SomeRows, **options: Any) -> Tensor:
    """Choose rows, filter the map and convolve, as the layer does, but the rows are those of the sweep.

    Random features would choose rows at random; those of a sweep stand together.
    """
    important_rows(feats, some.clouds, some.share)
    # another tensor: what is kept with a mask would be found at the second run
    return partial_sparse_conv(feats, weight, kmap, some.mask.detach(), centre=some.centre, **options)


def _vectors(model: nn.Module, graph: ChannelGraph, calls: Sequence[Call]) -> list[int]:
    """Of each call, see `LayerCost`; a norm that is not called is folded into the layer that it follows."""
    own = {call.name for call in calls if call.kind == "norm"}
    found = {call.name: vectors_of(model.get_submodule(call.name)) for call in calls if call.kind != "cat"}
    for norm in graph.layers:
        if norm.kind == "norm" and norm.name not in own and norm.follows in found:
            found[norm.follows] += vectors_of(model.get_submodule(norm.name))
    return [0 if call.kind == "cat" else found[call.name] for call in calls]


def _layer(calls: Sequence[Call], grid: Grid, times: dict[Size, float], vectors: int) -> LayerCost:
    """One layer from its call in every sweep."""
    first, n = calls[0], len(calls)
    return LayerCost(
        name=first.name,
        kind=first.kind,
        k=first.k,
        c_in=first.c_in,
        c_out=first.c_out,
        stride=first.stride,
        n_in=sum(call.n_in for call in calls) / n,
        n_out=sum(call.n_out for call in calls) / n,
        n_pairs=sum(call.n_pairs for call in calls) / n,
        vectors=vectors,
        widths_in=grid.widths_in,
        widths_out=grid.widths_out,
        ms=grid.table(times),
        alike=first.some is not None and first.some.passes,
    )


def _time_networks(
    net: nn.Module, least: nn.Module | None, x: SparseTensor, runs: int
) -> tuple[float, float, float | None]:
    """Milliseconds to build all maps, and of both networks with their maps there."""
    runners: dict[str, Callable[[], object]] = {"maps": x.cache.rebuilt, "network": lambda: net(x)}
    if least is not None:
        runners["least"] = lambda: least(x)
    with torch.no_grad():
        times = time_in_turns(runners, runs=runs, device=x.device)
    found = {name: 1e3 * time.median for name, time in times.items()}
    return found["maps"], found["network"], found.get("least")
