"""PointAcc's temporal fusion: linear layers run tile by tile, several deep; what lies between stays on chip.

A tile of rows goes through all layers of a group before the next tile begins. The stack of what each of them
reads lies in one half of the input buffer, the other half is the cache of a first layer that gathers. So a
tile has as many rows as fit with the input channels of all layers of the group, and weights that do not all
fit into the weight buffer come again for every tile. Which layers make a group, and with it the rows of a
tile, is chosen for the fewest bytes, over all ways to cut a chain.

A layer alone reads its rows once, tile by tile with all weights for each tile, or its weights once and its
rows for each part of them that fits, whichever is less. Rows that are pooled are reduced on their way out,
with fusion and without.

Source: Lin et al., PointAcc (MICRO 2021, arXiv 2110.07600), section 4 (unverified). Halves of the buffer are
ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pcsparse.errors import RangeError, ShapeError
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_memory import Traffic, best_cached, output_bytes
from pcsparse.hardware.trace import LayerTrace


@dataclass(frozen=True)
class FusedGroup:
    """Layers that run tile by tile.

    Attributes:
        layers: their names, in order; one if nothing is fused.
        tile_rows: rows of the first layer in a tile.
        traffic: of all of them.
    """

    layers: tuple[str, ...]
    tile_rows: int
    traffic: Traffic


@dataclass(frozen=True)
class FusionPlan:
    """A chain with fusion and without.

    Attributes:
        groups: with.
        alone: each layer by itself.
    """

    groups: tuple[FusedGroup, ...]
    alone: tuple[FusedGroup, ...]

    @property
    def fused_bytes(self) -> int:
        """Of all groups."""
        return sum(group.traffic.total for group in self.groups)

    @property
    def alone_bytes(self) -> int:
        """Of all layers by themselves."""
        return sum(group.traffic.total for group in self.alone)

    @property
    def saved(self) -> float:
        """Share of bytes that fusion saves."""
        return 1.0 - self.fused_bytes / self.alone_bytes if self.alone_bytes else 0.0


def chains(layers: Sequence[LayerTrace]) -> list[tuple[LayerTrace, ...]]:
    """Layers without a map, cut where one does not read what the one before it wrote, or that was pooled.

    Raises:
        ShapeError: a layer follows one of other rows or channels, or none.
    """
    found: list[list[LayerTrace]] = []
    before: LayerTrace | None = None
    for layer in layers:
        if layer.follows:
            _check_follows(layer, before)
        if layer.map is None:
            if layer.follows and before is not None and before.map is None and before.pooled == 1:
                found[-1].append(layer)
            else:
                found.append([layer])
        before = layer
    return [tuple(chain) for chain in found]


def plan_fusion(chain: Sequence[LayerTrace], chip: PointAccChip) -> FusionPlan:
    """The way to cut a chain into groups that moves least."""
    alone = tuple(alone_group(layer, chip) for layer in chain)
    # by the number of layers that are done: bytes, and the groups that did them
    best: list[tuple[int, tuple[FusedGroup, ...]]] = [(0, ())]
    for end in range(1, len(chain) + 1):
        options = []
        for begin in range(end):
            group = alone[begin] if end - begin == 1 else fused_group(chain[begin:end], chip)
            if group is not None:
                options.append((best[begin][0] + group.traffic.total, (*best[begin][1], group)))
        best.append(min(options, key=lambda option: option[0]))
    return FusionPlan(best[-1][1], alone)


def fused_group(layers: Sequence[LayerTrace], chip: PointAccChip) -> FusedGroup | None:
    """A group of several layers; None where not one row of all of them fits."""
    first, last = layers[0], layers[-1]
    half = replace(chip, input_bytes=max(1, chip.input_bytes // 2))
    a_row = sum(layer.c_in * layer.itemsize for layer in layers)
    rows = min(half.input_bytes // a_row, max(first.n_rows, 1))
    if rows < 1:
        return None
    n_tiles = -(-first.n_rows // rows)
    weights = sum(_weights(layer) for layer in layers)
    read = _read_once(first, half)
    traffic = Traffic(
        inputs=read.inputs,
        weights=weights if weights <= chip.weight_bytes else n_tiles * weights,
        outputs=output_bytes(last),
        maps=read.maps,
    )
    return FusedGroup(tuple(layer.name for layer in layers), rows, traffic)


def alone_group(layer: LayerTrace, chip: PointAccChip) -> FusedGroup:
    """One layer by itself.

    Raises:
        RangeError: not one row of its input fits.
    """
    name, n = (layer.name,), layer.n_rows
    if layer.gather is not None:
        return FusedGroup(name, chip.tile_rows, best_cached(layer, chip).traffic)
    rows = min(chip.input_bytes // (layer.c_in * layer.itemsize), max(n, 1))
    if rows < 1:
        raise RangeError(
            f"{layer.name}: a row of {layer.c_in} channels takes {layer.c_in * layer.itemsize} bytes, the "
            f"input buffer has {chip.input_bytes}; take a chip with a larger one"
        )
    inputs, weights, outputs = n * layer.c_in * layer.itemsize, _weights(layer), output_bytes(layer)
    parts = -(-weights // chip.weight_bytes)
    rows_once = Traffic(inputs, weights if parts == 1 else -(-n // rows) * weights, outputs)
    weights_once = Traffic(parts * inputs, weights, outputs)
    return FusedGroup(name, rows, min(rows_once, weights_once, key=lambda traffic: traffic.total))


def _read_once(layer: LayerTrace, chip: PointAccChip) -> Traffic:
    if layer.gather is None:
        return Traffic(inputs=layer.n_rows * layer.c_in * layer.itemsize)
    # a gathered tile is on the stack, where all output channels find it
    narrow = replace(layer, c_out=min(layer.c_out, chip.array_cols), pooled=1)
    return best_cached(narrow, chip).traffic


def _weights(layer: LayerTrace) -> int:
    return layer.c_in * layer.c_out * layer.itemsize


def _check_follows(layer: LayerTrace, before: LayerTrace | None) -> None:
    if before is None:
        raise ShapeError(f"{layer.name} is the first layer and follows none; leave out follows=True")
    rows = before.n_rows // before.pooled
    if (layer.n_in, layer.c_in) != (rows, before.c_out) or layer.gather is not None:
        raise ShapeError(
            f"{layer.name} reads {layer.n_in} rows of {layer.c_in} channels and follows {before.name}, which "
            f"writes {rows} rows of {before.c_out}; mend the trace"
        )
