"""What is asked of PointAcc's model: networks on both chips, the merger beside a hash, and two sweeps.

Sweeps: how wide the merger is, with keys from the DRAM and from the chip; how large the input buffer is, by
rows of a block.
"""

from dataclasses import dataclass, replace

from pcsparse.hardware.pointacc import LayerRun, PointAccRun, same_pairs
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_hash import HashCost, hash_kernel_map
from pcsparse.hardware.pointacc_mapping import MappingCost, kernel_map, merger_bytes
from pcsparse.hardware.pointacc_memory import CacheConfig, beside_bytes, cached, uncached
from pcsparse.hardware.trace import LayerTrace, MapStep, NetworkTrace

WIDTHS = (4, 8, 16, 32, 64, 128)
CACHE_BYTES = tuple(1 << i for i in range(13, 21))
CACHE_POINTS = (1, 4, 16)


@dataclass(frozen=True)
class MapComparison:
    """One kernel map by the merger and by the hash.

    Attributes:
        name: of the step.
        n_in: keys of inputs.
        n_out: keys of outputs.
        offsets: of the kernel.
        n_pairs: found.
        width: of the merger, and banks of the hash.
        merged: with the chip's memory.
        hashed: with everything on the chip.
        merger_bytes: of the merger's storage.
        agrees: whether both found the engine's pairs.
    """

    name: str
    n_in: int
    n_out: int
    offsets: int
    n_pairs: int
    width: int
    merged: MappingCost
    hashed: HashCost
    merger_bytes: int
    agrees: bool

    @property
    def speedup(self) -> float:
        """Of steps of the merger over cycles of the hash: neither waits for the DRAM."""
        return self.hashed.cycles / self.merged.steps if self.merged.steps else 1.0

    @property
    def speedup_from_memory(self) -> float:
        """The same with the merger's keys from the DRAM, and its pairs to it, as the chip has it."""
        return self.hashed.cycles / self.merged.cycles if self.merged.cycles else 1.0

    @property
    def smaller(self) -> float:
        """Bytes of the table over those of the merger."""
        return self.hashed.table_bytes / self.merger_bytes


@dataclass(frozen=True)
class WidthCurve:
    """One kernel map by `WIDTHS`; each tuple is as long.

    Attributes:
        name: of the step.
        steps: of the merger: cycles if it never waited.
        cycles: with the chip's memory.
        hashed: cycles of the hash with as many banks.
    """

    name: str
    steps: tuple[int, ...]
    cycles: tuple[int, ...]
    hashed: tuple[int, ...]


@dataclass(frozen=True)
class CacheCurve:
    """Bytes of input features of one layer.

    Attributes:
        name: of the layer.
        once: each row read once for each tile of output channels: a cache that holds what is in use,
            but not all of the input until the next pass. Channels beside gathered rows are read as ever.
        inputs: by `CACHE_POINTS`, then by `CACHE_BYTES`.
        uncached: without a cache.
    """

    name: str
    once: int
    inputs: tuple[tuple[int, ...], ...]
    uncached: int


def compare_maps(trace: NetworkTrace, run: PointAccRun) -> list[MapComparison]:
    """Every kernel map of a network that was run, by the hash too."""
    merged = {step.name: step for step in run.mapping}
    found = []
    for step in trace.steps:
        if isinstance(step, MapStep):
            pairs, hashed = hash_kernel_map(step.inputs, step.queries, step.deltas, run.chip.merger_width)
            own = merged[step.name]
            found.append(
                MapComparison(
                    step.name, len(step.inputs), len(step.queries), len(step.deltas), len(pairs.rows_in),
                    run.chip.merger_width, own.cost, hashed, merger_bytes(run.chip),
                    bool(own.agrees) and same_pairs(pairs, step.expected),
                )
            )  # fmt: skip
    return found


def width_curve(step: MapStep, chip: PointAccChip) -> WidthCurve:
    """One map at every width."""
    costs = [
        kernel_map(step.inputs, step.queries, step.deltas, replace(chip, merger_width=width))[1]
        for width in WIDTHS
    ]
    hashed = [hash_kernel_map(step.inputs, step.queries, step.deltas, width)[1] for width in WIDTHS]
    return WidthCurve(
        step.name,
        tuple(cost.steps for cost in costs),
        tuple(cost.cycles for cost in costs),
        tuple(cost.cycles for cost in hashed),
    )


def cache_curve(layer: LayerTrace, chip: PointAccChip, order: CacheConfig) -> CacheCurve:
    """One layer with every size of the input buffer, in the loops of `order`."""
    plain = uncached(layer, chip, order)
    # rows beside come by their number, and not by that of fetches
    beside = beside_bytes(layer, chip)
    # of one burst a row and tile of channels: what is left if every row comes once
    rows = layer.n_in * (plain.inputs - beside) // layer.n_fetches if layer.n_fetches else 0
    return CacheCurve(
        layer.name,
        rows + beside,
        tuple(
            tuple(
                cached(
                    layer, replace(chip, input_bytes=size), replace(order, block_points=points)
                ).traffic.inputs
                for size in CACHE_BYTES
            )
            for points in CACHE_POINTS
        ),
        plain.inputs,
    )  # fmt: skip


def largest_map(trace: NetworkTrace) -> MapStep | None:
    """The map with most keys to merge."""
    maps = [step for step in trace.steps if isinstance(step, MapStep)]
    return max(maps, key=lambda step: len(step.deltas) * (len(step.inputs) + len(step.queries)), default=None)


def hungriest_layer(trace: NetworkTrace, run: PointAccRun) -> tuple[LayerTrace, LayerRun] | None:
    """The layer that would read most without a cache."""
    both = [
        (layer, ran) for layer, ran in zip(trace.layers, run.layers, strict=True) if ran.uncached is not None
    ]
    return max(both, key=lambda pair: pair[1].uncached.inputs if pair[1].uncached else 0, default=None)
