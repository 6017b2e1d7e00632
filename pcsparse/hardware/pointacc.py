"""Cycle model of PointAcc: a trace and a chip in; cycles of its units, bytes, and the time of a run out.

*Stages.* A layer with a map is a stage; so is a group of fused linear layers, or a linear layer alone without
fusion. Mapping steps need coordinates only, so that they run while the stage before the one that needs them
is at work; those in front of the first stage have nothing to hide behind. So a stage takes

    max(matrix cycles, mapping cycles of the next stage, bytes of both / rate of the DRAM).

Cycle by cycle: the kernel maps (`pointacc_cycles`). Fetch by fetch: the input buffer (`pointacc_cache`). From
the numbers of pairs or rows alone: the array (`pointacc_matrix`), other bytes (`pointacc_memory`), fusion
(`pointacc_fusion`). Left out: what the DRAM's pages and refresh cost, conflicts within an SRAM, what the
units say to each other, element-wise work on the way out, and energy, of which no figure with a source is
known here.

Source: Lin et al., PointAcc (MICRO 2021, arXiv 2110.07600). The overlap is our reading (unverified).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pcsparse.coords.kernel_map import Pairs
from pcsparse.errors import RangeError
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_fusion import FusedGroup, FusionPlan, chains, plan_fusion
from pcsparse.hardware.pointacc_mapping import MappingCost, coarsen, kernel_map, nearest, sample
from pcsparse.hardware.pointacc_matrix import MatrixCost, matrix_cost
from pcsparse.hardware.pointacc_memory import (
    CachedTraffic,
    Traffic,
    best_cached,
    gather_scatter,
    uncached,
)
from pcsparse.hardware.trace import CoarsenStep, LayerTrace, MappingStep, MapStep, NearestStep, NetworkTrace


@dataclass(frozen=True)
class MappingRun:
    """A mapping step on the chip.

    Attributes:
        name: of the step.
        kind: "map", "level", "nearest" or "sample".
        cost: of it.
        agrees: whether the result is the engine's, None where the trace brings none.
    """

    name: str
    kind: str
    cost: MappingCost
    agrees: bool | None


@dataclass(frozen=True)
class LayerRun:
    """A layer on the chip.

    Attributes:
        name: of the layer.
        n_in: input rows.
        n_out: output rows.
        n_pairs: rows multiplied.
        c_in: input channels.
        c_out: output channels.
        matrix: on the array.
        cached: with the cache; None for a linear layer that gathers nothing.
        uncached: the same loops without it; None likewise.
        gathered: as a GPU gathers and scatters; None likewise.
    """

    name: str
    n_in: int
    n_out: int
    n_pairs: int
    c_in: int
    c_out: int
    matrix: MatrixCost
    cached: CachedTraffic | None
    uncached: Traffic | None
    gathered: Traffic | None


@dataclass(frozen=True)
class Stage:
    """Layers that overlap with the mapping of the next ones.

    Attributes:
        layers: names.
        matrix_cycles: of them.
        mapping_cycles: of the next stage.
        memory_cycles: of the bytes of both.
        memory_bytes: of both.
    """

    layers: tuple[str, ...]
    matrix_cycles: int
    mapping_cycles: int
    memory_cycles: float
    memory_bytes: int

    @property
    def cycles(self) -> float:
        """Of the slowest of the three."""
        return max(self.matrix_cycles, self.mapping_cycles, self.memory_cycles)

    @property
    def bound(self) -> str:
        """What that is."""
        cycles = {"matrix": self.matrix_cycles, "mapping": self.mapping_cycles, "memory": self.memory_cycles}
        return max(cycles, key=lambda name: cycles[name])


@dataclass(frozen=True)
class PointAccRun:
    """A network on a chip.

    Attributes:
        network: its name.
        chip: that ran it.
        mapping: steps in order.
        layers: in order.
        plans: of each chain of linear layers, of one layer too.
        stages: with fusion; the first has no layers if the network begins with mapping.
    """

    network: str
    chip: PointAccChip
    mapping: tuple[MappingRun, ...]
    layers: tuple[LayerRun, ...]
    plans: tuple[FusionPlan, ...]
    stages: tuple[Stage, ...]

    @property
    def cycles(self) -> float:
        """Of all stages."""
        return sum(stage.cycles for stage in self.stages)

    @property
    def milliseconds(self) -> float:
        """Of all cycles."""
        return 1e3 * self.chip.seconds(self.cycles)

    @property
    def memory_bytes(self) -> int:
        """To and from the DRAM, mapping included, with cache and fusion."""
        return sum(stage.memory_bytes for stage in self.stages)


def simulate(trace: NetworkTrace, chip: PointAccChip) -> PointAccRun:
    """Run a trace through a chip.

    Raises:
        RangeError: the trace has no layer, or something of it does not fit the chip.
        ShapeError: the trace contradicts itself.
    """
    if not trace.layers:
        raise RangeError(f"the trace {trace.name!r} has no layer; there is nothing to simulate")
    known: dict[tuple[object, ...], LayerRun] = {}
    mapping = {id(step): run_mapping(step, chip) for step in trace.steps if not isinstance(step, LayerTrace)}
    plans = tuple(plan_fusion(chain, chip) for chain in chains(trace.layers))
    layers = tuple(
        _known_layer(layer, chip, rows, known)
        for layer, rows in zip(trace.layers, _tile_rows(trace.layers, plans, chip), strict=True)
    )
    return PointAccRun(
        trace.name, chip, tuple(mapping.values()), layers, plans, _stages(trace, mapping, layers, plans, chip)
    )


def run_mapping(step: MappingStep, chip: PointAccChip) -> MappingRun:
    """A mapping step, and whether its result is the expected one."""
    if isinstance(step, MapStep):
        pairs, cost = kernel_map(step.inputs, step.queries, step.deltas, chip)
        return MappingRun(step.name, "map", cost, same_pairs(pairs, step.expected))
    if isinstance(step, CoarsenStep):
        keys, cost = coarsen(step.keys, step.stride, chip)
        return MappingRun(step.name, "level", cost, torch.equal(keys, step.expected))
    if isinstance(step, NearestStep):
        rows, cost = nearest(step.points, step.queries, step.k, chip, radius=step.radius)
        agrees = None if step.expected is None else torch.equal(rows, step.expected)
        return MappingRun(step.name, "nearest", cost, agrees)
    chosen, cost = sample(step.points, step.n_samples, chip)
    return MappingRun(
        step.name, "sample", cost, None if step.expected is None else torch.equal(chosen, step.expected)
    )


def run_layer(layer: LayerTrace, chip: PointAccChip, tile_rows: int | None = None) -> LayerRun:
    """The array's cycles, and with a map or gathered rows the three ways to move them.

    Args:
        layer: that runs.
        chip: that runs it.
        tile_rows: as of `matrix_cost`.
    """
    with_cache = plain = gathered = None
    if not layer.is_linear:
        with_cache = best_cached(layer, chip)
        plain, gathered = uncached(layer, chip, with_cache.config), gather_scatter(layer, chip)
    return LayerRun(
        layer.name, layer.n_in, layer.n_rows, layer.n_pairs, layer.c_in, layer.c_out,
        matrix_cost(layer, chip, tile_rows), with_cache, plain, gathered,
    )  # fmt: skip


def same_pairs(found: Pairs, expected: Pairs) -> bool:
    """Whether two lists are equal, entry by entry."""
    return (
        torch.equal(found.starts, expected.starts)
        and torch.equal(found.rows_in, expected.rows_in)
        and torch.equal(found.rows_out, expected.rows_out)
    )


def _tile_rows(layers: Sequence[LayerTrace], plans: Sequence[FusionPlan], chip: PointAccChip) -> list[int]:
    """Output rows that go by while weights stay: as many as sums are held, or as fit on a stack."""
    stacks = iter([group.tile_rows for plan in plans for group in plan.groups for _ in group.layers])
    return [
        chip.tile_rows if layer.map is not None else min(chip.tile_rows, next(stacks)) for layer in layers
    ]


def _known_layer(
    layer: LayerTrace, chip: PointAccChip, tile_rows: int, known: dict[tuple[object, ...], LayerRun]
) -> LayerRun:
    """A network has many layers alike; each kind is run once."""
    rows = id(layer.map if layer.map is not None else layer.gather)
    key = rows, layer.n_in, layer.c_in, layer.c_out, layer.itemsize, layer.pooled, layer.beside, tile_rows
    if key not in known:
        known[key] = run_layer(layer, chip, tile_rows)
    return replace(known[key], name=layer.name)


def _stages(
    trace: NetworkTrace,
    mapping: dict[int, MappingRun],
    layers: Sequence[LayerRun],
    plans: Sequence[FusionPlan],
    chip: PointAccChip,
) -> tuple[Stage, ...]:
    groups = iter([group for plan in plans for group in plan.groups])
    runs = iter(layers)
    # work of each stage, and the mapping in front of it
    works: list[tuple[tuple[str, ...], int, int]] = [((), 0, 0)]
    before = [MappingCost(0, 0, 0, 0, 0)]
    waiting: list[MappingCost] = []
    left = 0
    for step in trace.steps:
        if not isinstance(step, LayerTrace):
            waiting.append(mapping[id(step)].cost)
            continue
        run = next(runs)
        if left:
            # the rest of a fused group
            names, cycles, moved = works[-1]
            works[-1] = names, cycles + run.matrix.cycles, moved
            left -= 1
        elif run.cached is not None and step.map is not None:
            works.append(((step.name,), run.matrix.cycles, run.cached.traffic.total))
        else:
            group: FusedGroup = next(groups)
            works.append((group.layers, run.matrix.cycles, group.traffic.total))
            left = len(group.layers) - 1
        if len(works) > len(before):
            before.append(_sum(waiting))
            waiting = []
    # mapping within a fused group waits for the stage after it; after the last layer nobody needs it
    before.append(_sum(waiting))
    return tuple(
        Stage(
            names,
            cycles,
            after.cycles,
            chip.memory_cycles(moved + after.memory_bytes),
            moved + after.memory_bytes,
        )
        for (names, cycles, moved), after in zip(works, before[1:], strict=True)
    )


def _sum(costs: Sequence[MappingCost]) -> MappingCost:
    return MappingCost(
        sum(cost.cycles for cost in costs),
        sum(cost.steps for cost in costs),
        sum(cost.stalled for cost in costs),
        sum(cost.comparisons for cost in costs),
        sum(cost.memory_bytes for cost in costs),
    )
