"""What a network costs by the rows that its layers convolve: multiply-adds, milliseconds.

`measure_voxel_cost` of `compress.voxel_measure` makes the table. Times belong to a machine.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from pcsparse.compress.cost import Unit
from pcsparse.compress.offset_cost import Line
from pcsparse.compress.voxel_importance import PARTS
from pcsparse.compress.voxels import check_rest
from pcsparse.errors import FormatError, RangeError
from pcsparse.nn.conv import Rest
from pcsparse.whole_file import write_whole

_FORMAT = 2

Kept = Mapping[str, int]
"""Thousandths of the rows that a layer convolves, by its name; layers that are not named convolve all."""


@dataclass(frozen=True)
class VoxelLayerCost:
    """A layer that can do with some rows, on the calibration sweeps.

    Attributes:
        name: of the module.
        c_in, c_out: channels.
        k: kernel offsets.
        stride: of its level, cells of the finest one.
        rows: mean over the sweeps.
        pairs: of the map of all rows, mean.
        kept: thousandths of the rows, ascending, below `voxel_importance.PARTS`.
        pairs_kept: of each of `kept`, the share of the pairs that are left.
        rest: what becomes of the other rows.
        ms: of each of `kept`, to choose the rows, to filter the map and to convolve.
        whole_ms: to convolve all rows, where nothing is chosen and nothing filtered.
    """

    name: str
    c_in: int
    c_out: int
    k: int
    stride: int
    rows: float
    pairs: float
    kept: tuple[int, ...]
    pairs_kept: tuple[float, ...]
    ms: tuple[float, ...]
    whole_ms: float
    rest: Rest

    def macs(self, kept: int) -> float:
        """Multiply-adds a sweep; between thousandths that were counted on a straight line."""
        # a row that keeps its centre keeps one pair
        least = 0.0 if self.rest == "pass" else self.rows / (self.pairs or 1.0)
        shares = Line((0.0, *map(float, self.kept), float(PARTS)), (least, *self.pairs_kept, 1.0))
        return self.pairs * shares.of(kept) * self.c_in * self.c_out

    def milliseconds(self, kept: int) -> float:
        """Of the layer; between and beyond thousandths that were timed on the line of the nearest two.

        All rows are a point of their own: choosing and filtering go with the last row that is left out.
        """
        if kept == PARTS or not self.kept:
            return self.whole_ms
        return Line(tuple(map(float, self.kept)), self.ms).of(kept)

    def of_pairs(self, share: float) -> float:
        """Milliseconds at a share of the pairs, of rows that are chosen."""
        points = dict(zip(self.pairs_kept, self.ms, strict=True))
        return Line(tuple(sorted(points)), tuple(points[at] for at in sorted(points))).of(share)


@dataclass(frozen=True)
class VoxelCost:
    """All layers that can do with some rows, and the network around them.

    Which rows are large is read from the network as it is: where layers before it leave rows out, a layer may
    choose others, so that budgets are met by the table, and what comes out is measured again.

    Attributes:
        layers: in the order of execution.
        network: milliseconds of the network with its maps there, over the sum of its layers' own: with the
            fewest rows everywhere, and as it is; one point where fewer rows saved nothing.
        map_ms: to build all levels and maps, which all rows need.
        rest_macs: multiply-adds of all other layers.
        bytes: of the weights, which no share changes.
        machine: see `engine.tune_cache.device_key`.
        busy: whether the machine was too busy with other work for times to mean anything.
    """

    layers: tuple[VoxelLayerCost, ...]
    network: Line
    map_ms: float
    rest_macs: float
    bytes: int
    machine: str
    busy: bool = False

    def total(self, unit: Unit, kept: Kept | None = None) -> float:
        """The cost of the network where layers convolve these thousandths of their rows.

        Args:
            unit: "ms" (maps included), "MACs" a sweep, or "bytes" of weights.
            kept: by layer; all rows of layers that are not named.

        Raises:
            RangeError: no such unit, or no such layer.
        """
        given = kept or {}
        unknown = given.keys() - {layer.name for layer in self.layers}
        if unknown:
            raise RangeError(f"{sorted(unknown)[0]!r} must convolve all rows, or was not measured")
        parts = (self.of_layer(layer, unit, given.get(layer.name, PARTS)) for layer in self.layers)
        return self.fixed(unit) + sum(parts)

    def fixed(self, unit: Unit) -> float:
        """What no choice changes.

        Raises:
            RangeError: no such unit.
        """
        match unit:
            case "ms":
                return self.map_ms + self.network.ends[0]
            case "MACs":
                return self.rest_macs
            case "bytes":
                return float(self.bytes)
        raise RangeError(f"a cost is in ms, MACs, bytes, not in {unit!r}")

    def of_layer(self, layer: VoxelLayerCost, unit: Unit, kept: int) -> float:
        """What a layer adds to `fixed`."""
        if unit == "ms":
            return self.network.ends[1] * layer.milliseconds(kept)
        return layer.macs(kept) if unit == "MACs" else 0.0

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, **asdict(self)}
        write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote, of any machine.

        Raises:
            FormatError: no such file, or another format.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("format")
            if version not in (1, _FORMAT):
                raise ValueError("another format")
            entries = content.pop("layers")
            layers = tuple(_layer(_of_passing(entry) if version == 1 else entry) for entry in entries)
            line = content.pop("network")
            network = Line(tuple(map(float, line["at"])), tuple(map(float, line["ms"])))
            return cls(layers=layers, network=network, **content)
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path} is no cost of voxels ({type(error).__name__}: {error}); measure it anew"
            ) from error


def _of_passing(entry: dict[str, Any]) -> dict[str, Any]:
    """A layer of format 1, in which rows could only pass."""
    channels = entry.pop("channels")
    return {**entry, "c_in": channels, "c_out": channels, "rest": "pass"}


def _layer(entry: dict[str, Any]) -> VoxelLayerCost:
    lists = {name: tuple(entry[name]) for name in ("kept", "pairs_kept", "ms")}
    layer = VoxelLayerCost(**{**entry, **lists})
    check_rest(layer.rest)
    if any(a >= b for a, b in pairwise(layer.kept)) or len({len(values) for values in lists.values()}) != 1:
        raise ValueError(f"the shares of {layer.name!r}")
    return layer
