"""What a network costs, layer by layer and width by width: multiply-adds, bytes, milliseconds.

`measure_cost` of `compress.cost_measure` makes the table. Times belong to a machine, so the file says which.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch

from pcsparse.engine.tune_cache import device_key, versions
from pcsparse.errors import FormatError, RangeError
from pcsparse.whole_file import write_whole

Unit = Literal["ms", "MACs", "bytes"]
Widths = Mapping[str, tuple[int, int]]
"""(c_in, c_out) by name of the layer; those that are not named have their full widths."""

_FORMAT = 1


@dataclass(frozen=True)
class LayerCost:
    """A call of a layer on the calibration sweeps.

    Attributes:
        name: of the module; of a "cat" that of the layer that reads it.
        kind: "conv", "linear", "norm" where it is not folded into a convolution, or "cat", the copy that
            joins two tensors before a layer.
        k: kernel offsets.
        c_in, c_out: of the whole network; a norm and a cat have one width only, both are it.
        stride: of the outputs' level, cells of the finest one.
        n_in, n_out: rows, means over the sweeps.
        n_pairs: of the kernel map, mean; the rows of a linear layer, 0 of a norm and a cat.
        vectors: weights an output channel besides the kernel: a bias is one, a norm has two, scale and shift,
            also one that is folded into the layer for inference. Statistics are no weights.
        widths_in, widths_out: ascending, where it was timed; the last are `c_in` and `c_out`.
        ms: median milliseconds, a row an input width, a column an output width; a norm and a cat have one
            row, and what is `alike`.
        alike: a convolution past which rows go: its two widths are one.
        again: not the first call of the layer; the row of the first one has its weights.
    """

    name: str
    kind: Literal["conv", "linear", "norm", "cat"]
    k: int
    c_in: int
    c_out: int
    stride: int
    n_in: float
    n_out: float
    n_pairs: float
    vectors: int
    widths_in: tuple[int, ...]
    widths_out: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]
    alike: bool = False
    again: bool = False

    def macs(self, c_in: int, c_out: int) -> float:
        """Multiply-adds a sweep: pairs of the map by c_in by c_out."""
        return self.n_pairs * c_in * c_out

    def weight_bytes(self, c_in: int, c_out: int, itemsize: int) -> float:
        """Bytes of the layer's weights, as the network has them before norms are folded; none if `again`."""
        if self.again:
            return 0.0
        matrix = self.k * c_in * c_out if self.kind in ("conv", "linear") else 0
        return float(itemsize * (matrix + self.vectors * c_out))

    def feature_bytes(self, c_in: int, c_out: int, itemsize: int) -> float:
        """Bytes of the features that it reads and writes, each once."""
        return itemsize * (self.n_in * c_in + self.n_out * c_out)

    def milliseconds(self, c_in: int, c_out: int) -> float:
        """Measured, or between the measured neighbours on a straight line each way.

        Raises:
            RangeError: a width outside of what was measured.
        """
        if self.alike or self.kind in ("norm", "cat"):
            return self._between(self.widths_out, self.ms[0], c_out)
        # the times of this output width by input width
        columns = [self._between(self.widths_out, row, c_out) for row in self.ms]
        return self._between(self.widths_in, columns, c_in)

    def _between(self, widths: tuple[int, ...], values: Any, width: int) -> float:
        if not widths[0] <= width <= widths[-1]:
            raise RangeError(
                f"{self.name} was timed at widths {widths[0]} to {widths[-1]}, not at {width}; measure the "
                "cost with a smaller `multiple`"
            )
        at = bisect_left(widths, width)
        if widths[at] == width:
            return float(values[at])
        share = (width - widths[at - 1]) / (widths[at] - widths[at - 1])
        return float(values[at - 1] + share * (values[at] - values[at - 1]))


@dataclass(frozen=True)
class CostTable:
    """All layers of a network, and what belongs to none.

    Attributes:
        layers: a row a call, in the order of execution.
        map_ms: to build all levels and maps of a sweep; no width changes it.
        network_ms: of the whole network with its maps there, measured in one piece.
        least_ms: the same of the network whose groups all have the least width that was timed; None where it
            could not be built.
        peak_bytes: the most features that live at once, mean over the sweeps; input and output included.
        itemsize: bytes of a feature and of a weight.
        fused: whether batch norm and ReLU are folded into the convolutions, as in inference.
        sweeps: number of calibration sweeps.
        machine: see `engine.tune_cache.device_key`.
        versions: of the packages, (name, version).
        others: share of all cores busy with other work just before and after, the larger one, 0 to 1; None
            if unknown.
        busy: whether that was too much for times to mean anything.
    """

    layers: tuple[LayerCost, ...]
    map_ms: float
    network_ms: float
    peak_bytes: float
    itemsize: int
    fused: bool
    sweeps: int
    machine: str
    versions: tuple[tuple[str, str], ...]
    others: float | None = None
    busy: bool = False
    least_ms: float | None = None

    @property
    def rest_ms(self) -> float:
        """What the whole network takes beyond its layers: Python, launching, features that left caches.

        Below 0 where layers that were timed alone take longer than together.
        """
        return self.network_ms - self._full_ms

    @cached_property
    def rest(self) -> tuple[float, float]:
        """The rest of any width: milliseconds that stay, and a share of the layers' own.

        A line through the whole network and the narrowest one; without that one all of it stays. Python
        takes as long for narrow layers, what leaves the caches shrinks with them.
        """
        full, stays, share = self._full_ms, self.rest_ms, 0.0
        if self.least_ms is not None:
            least = sum(layer.milliseconds(*_least(layer)) for layer in self.layers)
            if full > least:
                share = (self.rest_ms - (self.least_ms - least)) / (full - least)
                stays = self.rest_ms - share * full
        if full > 0 and (stays < 0 or share <= -1):
            # nothing takes less than no time, and a narrow network that was timed slower than the whole one
            # says nothing of layers: all of it in proportion to them
            return 0.0, self.rest_ms / full
        return max(0.0, stays), share

    @property
    def _full_ms(self) -> float:
        return sum(layer.milliseconds(*_full(layer)) for layer in self.layers)

    def fixed(self, unit: Unit) -> float:
        """The part that no width changes: maps and what stays of the rest, in `unit`."""
        return self.map_ms + self.rest[0] if unit == "ms" else 0.0

    def of_layer(self, layer: LayerCost, unit: Unit, c_in: int, c_out: int) -> float:
        """The cost of a layer at a width; of milliseconds its share of the rest is a part.

        Raises:
            RangeError: no such unit, or a width that was not measured.
        """
        if unit == "ms":
            return (1.0 + self.rest[1]) * layer.milliseconds(c_in, c_out)
        if unit == "MACs":
            return layer.macs(c_in, c_out)
        if unit == "bytes":
            return layer.weight_bytes(c_in, c_out, self.itemsize)
        raise RangeError(f"a cost is in {', '.join(get_args(Unit))}, not in {unit!r}")

    def total(self, unit: Unit, widths: Widths | None = None) -> float:
        """The cost of the network with given widths.

        Args:
            unit: "ms" (maps included), "MACs" a sweep, or "bytes" of weights.
            widths: from `ChannelGraph.widths`; all full if None.

        Raises:
            RangeError: see `of_layer`.
        """
        given = widths or {}
        costs = [
            self.of_layer(layer, unit, *self.widths_of(layer, given.get(layer.name))) for layer in self.layers
        ]
        return self.fixed(unit) + sum(costs)

    @staticmethod
    def widths_of(layer: LayerCost, named: tuple[int, int] | None) -> tuple[int, int]:
        """The widths of a layer where those of the module of its name are `named`."""
        c_in, c_out = _full(layer) if named is None else named
        # a cat is as wide as what is read
        return (c_in, c_in) if layer.kind == "cat" else (c_in, c_out)

    def __str__(self) -> str:
        """A line a layer, then the sums."""
        head = (
            f"{'layer':<28} {'kind':<6} {'k':>3} {'in':>4} {'out':>4} {'rows':>9} {'pairs':>11} "
            f"{'M MACs':>9} {'kB':>8} {'ms':>8}"
        )
        lines = [head, "-" * len(head)]
        for layer in self.layers:
            c_in, c_out = _full(layer)
            lines.append(
                f"{layer.name:<28} {layer.kind:<6} {layer.k:>3} {c_in:>4} {c_out:>4} {layer.n_out:>9.0f} "
                f"{layer.n_pairs:>11.0f} {layer.macs(c_in, c_out) / 1e6:>9.1f} "
                f"{layer.weight_bytes(c_in, c_out, self.itemsize) / 1e3:>8.1f} "
                f"{layer.milliseconds(c_in, c_out):>8.3f}"
            )
        total = self.network_ms + self.map_ms
        lines += [
            f"layers {self._full_ms:.2f} ms, measured whole {self.network_ms:.2f} ms, maps {self.map_ms:.2f} "
            f"ms ({self.map_ms / total:.0%} of {total:.2f} ms)",
            f"{self.total('MACs') / 1e9:.3f} G multiply-adds a sweep, {self.total('bytes') / 1e6:.2f} MB of "
            f"weights, at most {self.peak_bytes / 1e6:.1f} MB of features at once; means of {self.sweeps} "
            "sweeps",
            f"{'fused' if self.fused else 'not fused'}; {self.machine}; other work before "
            + ("unknown" if self.others is None else f"{self.others:.0%}"),
        ]
        if self.busy:
            lines.append("the machine was BUSY with other work: measure again before you use these times")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, **asdict(self), "versions": dict(self.versions)}
        write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu", any_machine: bool = False) -> Self:
        """Read what `save` wrote.

        Args:
            path: of the file.
            device: of this machine that the times are for.
            any_machine: take the times of another machine, or of other versions, too.

        Raises:
            FormatError: no such file, another format, or of another machine or other versions.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            number = content.pop("format")
            if number != _FORMAT:
                raise FormatError(f"{path} has format {number!r}, this version reads {_FORMAT}; measure anew")
            # files from before calls were told apart say nothing of it
            layers = with_weights_once(_layer(entry) for entry in content.pop("layers"))
            packages = tuple(content.pop("versions").items())
            table = cls(layers=layers, versions=packages, **content)
        except OSError as error:
            raise FormatError(f"{path} cannot be read ({error}); measure the cost first") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path} is no cost table ({type(error).__name__}: {error})") from error
        here = device_key(device), versions()
        if not any_machine and (table.machine, dict(table.versions)) != here:
            raise FormatError(
                f"{path} was measured on [{table.machine}] {dict(table.versions)}, this is [{here[0]}] "
                f"{here[1]}; measure anew, or pass any_machine=True"
            )
        return table


def with_weights_once(layers: Iterable[LayerCost]) -> tuple[LayerCost, ...]:
    """The rows of a network, `again` where a row before is of the same layer."""
    seen: set[tuple[str, str]] = set()
    marked = []
    for layer in layers:
        # a cat has the name of its reader
        own = layer.name, layer.kind
        marked.append(replace(layer, again=own in seen))
        seen.add(own)
    return tuple(marked)


def _full(layer: LayerCost) -> tuple[int, int]:
    return layer.c_in, layer.c_out


def _least(layer: LayerCost) -> tuple[int, int]:
    return layer.widths_in[0], layer.widths_out[0]


def _layer(entry: dict[str, Any]) -> LayerCost:
    fields = dict(entry)
    for name in ("widths_in", "widths_out"):
        fields[name] = tuple(int(width) for width in fields[name])
        if any(a >= b for a, b in pairwise(fields[name])) or not fields[name]:
            raise ValueError(f"{name}={entry[name]} of {entry.get('name')!r}")
    fields["ms"] = tuple(tuple(float(value) for value in row) for row in fields["ms"])
    # files from before rows could pass say nothing of it
    one = fields.get("alike", False) or fields["kind"] in ("norm", "cat")
    rows = 1 if one else len(fields["widths_in"])
    if len(fields["ms"]) != rows or any(len(row) != len(fields["widths_out"]) for row in fields["ms"]):
        raise ValueError(f"the times of {entry.get('name')!r} do not fit its widths")
    return LayerCost(**fields)
