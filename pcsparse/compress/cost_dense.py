"""Measure what a network on dense tensors costs: images, bird's-eye views, rows of points.

A convolution is counted as its kernel by its places, padding included, as is usual for dense networks; of a
transposed one the places are those that it reads.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.compress.cost import CostTable, LayerCost, with_weights_once
from pcsparse.compress.cost_grid import Grid, Size
from pcsparse.compress.cost_measure import Draw, narrowest
from pcsparse.compress.cost_run import Live, vectors_of
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.graph_layers import axis_of, input_of, is_layer, kind_of
from pcsparse.compress.graph_numbers import Kind
from pcsparse.compress.shapes_only import shapes_only
from pcsparse.engine.tune_cache import device_key, versions
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn.copies import own_copy
from pcsparse.nn.prepare import meta_copy
from pcsparse.timing import environment, time_in_turns


def measure_dense_cost(
    model: nn.Module,
    x: Tensor | tuple[Any, ...],
    *,
    graph: ChannelGraph | None = None,
    multiple: int = 8,
    step: int = 16,
    runs: int = 7,
) -> CostTable:
    """Count and time every layer of a network on tensors, as it is: norms are not folded.

    Each layer is timed alone at a grid of widths, on as many places as it has in the network; what is between
    layers, sums and pools, is the table's rest.

    Args:
        model: any network that the channel graph knows; it is not changed.
        x: what it runs on in use, a batch or a tuple of arguments, on the device and in the dtype to time.
        graph: of `model`; read on `x` if None.
        multiple: the smallest width of a group that will be asked for.
        step: widths between that and the full one are timed at multiples of it; between them times are
            interpolated.
        runs: of each width.

    Returns:
        A table whose numbers are for `x`, the whole batch; there are no maps to build.

    Raises:
        RangeError: `multiple`, `step` or `runs` below 1.
        UnsupportedError: an operator that the graph does not know, or no tensor in `x`.
    """
    if min(multiple, step, runs) < 1:
        raise RangeError(
            f"multiple, step and runs must be at least 1, got multiple={multiple}, step={step}, runs={runs}"
        )
    arguments = x if isinstance(x, tuple) else (x,)
    like = _features(arguments)
    graph = ChannelGraph.of(model, x) if graph is None else graph
    before = environment()
    calls, peak = _calls_of(model, arguments, like)
    grids = [Grid.of(c.name, c.kind, (c.c_in, c.c_out), graph, multiple=multiple, step=step) for c in calls]
    times = _time_layers(calls, grids, like, runs)
    layers = with_weights_once(_layer(*parts) for parts in zip(calls, grids, times, strict=True))
    network_ms, least_ms = _time_networks(model, narrowest(model, graph, multiple), arguments, like, runs)
    after = environment()
    return CostTable(
        layers=layers,
        map_ms=0.0,
        network_ms=network_ms,
        peak_bytes=peak,
        itemsize=like.element_size(),
        fused=False,
        sweeps=1,
        machine=device_key(like.device),
        versions=tuple(versions().items()),
        others=max((o for o in (before.others, after.others) if o is not None), default=None),
        busy=before.busy or after.busy,
        least_ms=least_ms,
    )


def _features(arguments: tuple[Any, ...]) -> Tensor:
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.is_floating_point():
            return argument
    raise UnsupportedError(
        "measure_dense_cost takes tensors; for a network on a SparseTensor use compress.cost_measure"
    )


@dataclass(frozen=True, eq=False)
class _Call:
    """A layer, as it was called."""

    name: str
    kind: Kind
    part: Any
    given: tuple[int, ...]
    made: tuple[int, ...]
    axis: int
    stride: int

    @property
    def c_in(self) -> int:
        return self.given[self.axis]

    @property
    def c_out(self) -> int:
        return self.made[self.axis]

    @property
    def n_in(self) -> int:
        return prod(self.given) // self.c_in

    @property
    def n_out(self) -> int:
        return prod(self.made) // self.c_out

    @property
    def k(self) -> int:
        return prod(self.part.kernel_size) if self.kind == "conv" else 1

    @property
    def n_pairs(self) -> int:
        if self.kind == "norm":
            return 0
        return self.k * (self.n_in if isinstance(self.part, nn.ConvTranspose2d) else self.n_out)

    @property
    def problem(self) -> tuple[Any, ...]:
        """What layers have in common that take the same time at the same widths."""
        part = self.part
        shapes = [(*s[: self.axis], *s[self.axis + 1 :]) for s in (self.given, self.made)]
        names = ("kernel_size", "stride", "padding", "output_padding", "dilation", "padding_mode")
        return type(part), *shapes, part.bias is None, *(getattr(part, name, None) for name in names)

    def resized(self, c_in: int, c_out: int) -> nn.Module:
        """The same layer with other widths."""
        part = self.part
        if self.kind == "norm":
            norm: nn.Module = type(part)(c_in, eps=part.eps)
            return norm
        options = {"bias": part.bias is not None}
        if self.kind == "conv":
            for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode"):
                options[name] = getattr(part, name)
            if isinstance(part, nn.ConvTranspose2d):
                options["output_padding"] = part.output_padding  # type: ignore[assignment]
        layer: nn.Module = type(part)(c_in, c_out, **options)
        return layer


def _calls_of(model: nn.Module, arguments: tuple[Any, ...], like: Tensor) -> tuple[list[_Call], int]:
    """The layers that the network calls, and the most bytes of features that live at once."""
    # a network on points looks at values; one on maps needs no arithmetic
    device = "cpu" if len(arguments) > 1 else "meta"
    module = shapes_only(model) if len(arguments) > 1 else meta_copy(model).eval().float()
    given = [_moved(part, device) for part in arguments]
    calls: list[_Call] = []

    def recorder(name: str) -> Callable[..., None]:
        def record(part: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict[str, Any], out: Tensor) -> None:
            kind, source = kind_of(part), input_of(inputs, kwargs)
            axis = axis_of(part, source.dim())
            if kind == "channelwise" or axis is None:
                return
            level = round(like.shape[-1] / out.shape[-1]) if source.dim() == like.dim() == 4 else 1
            calls.append(_Call(name, kind, part, tuple(source.shape), tuple(out.shape), axis, max(1, level)))

        return record

    for name, part in module.named_modules():
        if is_layer(part):
            part.register_forward_hook(recorder(name), with_kwargs=True)
    features = sum(t.nbytes for t in given if isinstance(t, Tensor) and t.is_floating_point())
    live = Live([], features, lambda made: made.dim() > 1)
    with torch.no_grad(), live:
        module(*given)
    return calls, live.most * like.element_size() // 4


def _moved(value: Any, device: str) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, torch.float32) if value.is_floating_point() else value.to(device)


def _time_layers(calls: list[_Call], grids: list[Grid], like: Tensor, runs: int) -> list[dict[Size, float]]:
    """Milliseconds by size, for each call."""
    wanted: dict[tuple[Any, ...], dict[Size, None]] = {}
    for call, grid in zip(calls, grids, strict=True):
        wanted.setdefault(call.problem, {}).update(dict.fromkeys(grid.sizes()))
    found: dict[tuple[Any, ...], dict[Size, float]] = {}
    for call in calls:
        if call.problem not in found:
            found[call.problem] = _time_problem(call, wanted[call.problem], like, runs)
    return [found[call.problem] for call in calls]


def _time_problem(call: _Call, sizes: Iterable[Size], like: Tensor, runs: int) -> dict[Size, float]:
    draw = Draw(like.dtype, like.device)

    def runner(c_in: int, c_out: int) -> Callable[[], object]:
        layer = call.resized(c_in, c_out).to(like.device, like.dtype).eval()
        feats = draw(*call.given[: call.axis], c_in, *call.given[call.axis + 1 :])
        return lambda: layer(feats)

    runners = {f"{c_in} {c_out}": runner(c_in, c_out) for c_in, c_out in sizes}
    with torch.no_grad():
        times = time_in_turns(runners, runs=runs, warmup=1, device=like.device)
    return {size: 1e3 * times[f"{size[0]} {size[1]}"].median for size in sizes}


def _time_networks(
    model: nn.Module, least: nn.Module | None, arguments: tuple[Any, ...], like: Tensor, runs: int
) -> tuple[float, float | None]:
    """Milliseconds of the network, and of the narrowest one."""
    whole = own_copy(model, hooked=False).to(like.device, like.dtype).eval()
    runners: dict[str, Callable[[], object]] = {"network": lambda: whole(*arguments)}
    if least is not None:
        narrow = least.to(like.device, like.dtype).eval()
        runners["least"] = lambda: narrow(*arguments)
    with torch.no_grad():
        times = time_in_turns(runners, runs=runs, device=like.device)
    found = {name: 1e3 * time.median for name, time in times.items()}
    return found["network"], found.get("least")


def _layer(call: _Call, grid: Grid, times: dict[Size, float]) -> LayerCost:
    return LayerCost(
        name=call.name,
        kind=call.kind,
        k=call.k,
        c_in=call.c_in,
        c_out=call.c_out,
        stride=call.stride,
        n_in=float(call.n_in),
        n_out=float(call.n_out),
        n_pairs=float(call.n_pairs),
        vectors=vectors_of(call.part),
        widths_in=grid.widths_in,
        widths_out=grid.widths_out,
        ms=grid.table(times),
    )
