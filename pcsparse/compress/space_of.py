"""The search space of a network's channels: its groups as steps, its cost table as terms."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from pcsparse.compress.channels import MULTIPLE, choose_channels, slice_channels
from pcsparse.compress.cost import CostTable, LayerCost, Unit
from pcsparse.compress.graph import ChannelGraph, Group
from pcsparse.compress.search.curves import SensitivityCurves
from pcsparse.compress.search.space import Assignment, CostTerm, Space, Step
from pcsparse.compress.sensitivity import RATIOS
from pcsparse.compress.sensitivity_table import SensitivityTable
from pcsparse.errors import RangeError


def space_of(
    graph: ChannelGraph,
    table: CostTable,
    unit: Unit = "ms",
    *,
    ratios: Iterable[float] = RATIOS,
    multiple: int = MULTIPLE,
) -> Space:
    """All widths that the groups of a network may have, and what the network costs with them.

    Args:
        graph: of the network.
        table: of the same network, measured with a `multiple` no larger than this one.
        unit: of the cost.
        ratios: shares of channels that may be removed, each in [0, 1).
        multiple: widths are rounded up to it.

    Raises:
        RangeError: ratios outside [0, 1), a table of another network, or one that was not measured at the
            widths that the ratios lead to.
    """
    listed = list(ratios)
    layers = {layer.name: layer for layer in table.layers if layer.kind != "cat"}
    missing = [group.name for group in graph.free if _writer(group) not in layers]
    if missing:
        raise RangeError(
            f"the cost table has no layer {missing[0]!r}; measure it on the network of the graph"
        )
    steps = tuple(_step(group, layers[_writer(group)], listed, multiple) for group in graph.free)
    constant = CostTerm("maps and rest", (), np.array(table.fixed(unit)))
    terms = [_term(layer, graph, table, unit, steps) for layer in table.layers]
    return Space(steps, (constant, *terms), unit)


def kept_of(space: Space, assignment: Assignment) -> dict[str, int]:
    """The width of each group; what `ChannelGraph.widths` and `prune_channels` take."""
    return {step.name: width for step, width in zip(space.steps, assignment, strict=True)}


def curves_of(space: Space, table: SensitivityTable) -> SensitivityCurves:
    """What a sensitivity scan found, as a search takes it: the scores of the space's widths.

    Which widths were scanned need not be those of the space: between them lines hold, see
    `SensitivityTable.score_at`. Below the narrowest scanned one scores are None.

    Args:
        space: whose steps have the names of what was scanned.
        table: scored as the search scores, from 0 to 1.

    Raises:
        RangeError: a step that could become narrower and was not scanned, or only as a whole.
    """
    missing = [step.name for step in space.steps if step.name not in table.curves]
    if missing:
        raise RangeError(f"{missing[0]!r} was not scanned; scan every step of the space")
    check_looks(space, {name: min(point.kept for point in points) for name, points in table.curves.items()})
    # of the full width the base is the score
    scores = tuple(
        (*(table.score_at(step.name, width) for width in step.widths[:-1]), None) for step in space.steps
    )
    return SensitivityCurves(table.dense.metric, scores)


def check_looks(space: Space, narrowest: Mapping[str, int]) -> None:
    """Raise RangeError if a step may become narrower and a scan looks at it as a whole alone.

    Whoever decides by the curves of such a scan knows nothing of the step.

    Args:
        space: of choices.
        narrowest: the narrowest width of each step in the scan, by its name.
    """
    blind = [s.name for s in space.steps if len(s.widths) > 1 and narrowest[s.name] >= s.full]
    if blind:
        raise RangeError(
            f"the ratios of the scan leave {blind[0]!r} whole, as rounded, so that nothing is known of its "
            f"narrower widths; scan larger ratios, too ({len(blind)} of {len(space.steps)} steps)"
        )


def network_of(
    model: nn.Module,
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    space: Space,
    assignment: Assignment,
) -> nn.Module:
    """The sliced network of an assignment, with the channels of the highest scores.

    Args:
        model: the whole network; it is not changed.
        graph: of `model`.
        scores: from `channel_scores`, computed once for a whole search.
        space: from `space_of`.
        assignment: of `space`.
    """
    return slice_channels(model, graph, choose_channels(scores, kept_of(space, assignment)))


def _writer(group: Group) -> str:
    """The first layer that writes a group."""
    return next(slot.layer for slot in group.slots if slot.side == "out")


def _step(group: Group, writer: LayerCost, ratios: list[float], multiple: int) -> Step:
    return Step.from_ratios(
        group.name,
        group.width,
        ratios,
        multiple=multiple,
        kind=int(writer.kind == "linear"),
        c_in=writer.c_in,
        c_out=writer.c_out,
        stride=writer.stride,
        kernel=writer.k,
        voxels=writer.n_out,
        pairs=writer.n_pairs,
    )


def sizes_of(
    layer: LayerCost, graph: ChannelGraph, steps: Sequence[Step]
) -> tuple[tuple[str, ...], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The widths of a layer over the grids of the groups that it reads and writes.

    Args:
        layer: of a cost table.
        graph: of its network.
        steps: of `space_of`, with the names of the groups.

    Returns:
        The names of the groups, and c_in and c_out over their grids, an axis a group.
    """
    sides = {"norm": ("norm", "norm"), "cat": ("in", "in")}.get(layer.kind, ("in", "out"))
    counts = [_places(layer.name, side, graph) for side in sides]
    grids = {step.name: step for step in steps}
    names = tuple(dict.fromkeys(name for count in counts for name in count))
    # as many axes as groups; each width of a layer is its full one less what the groups are short of
    axes = np.meshgrid(*(np.array(grids[name].widths) for name in names), indexing="ij")
    short = {name: grids[name].full - axis for name, axis in zip(names, axes, strict=True)}
    shape = tuple(len(grids[name].widths) for name in names)
    ins, outs = (
        np.full(shape, full)
        - sum((times * short[name] for name, times in count.items()), np.zeros(shape, int))
        for full, count in zip((layer.c_in, layer.c_out), counts, strict=True)
    )
    return names, ins, outs


def _term(
    layer: LayerCost, graph: ChannelGraph, table: CostTable, unit: Unit, steps: tuple[Step, ...]
) -> CostTerm:
    names, ins, outs = sizes_of(layer, graph, steps)
    return CostTerm(f"{layer.name} ({layer.kind})", names, _costs(layer, table, unit, ins, outs))


def _places(layer: str, side: str, graph: ChannelGraph) -> dict[str, int]:
    """How often each free group stands at one side of a layer."""
    found: dict[str, int] = {}
    for group in graph.free:
        for slot in group.slots:
            if slot.layer == layer and slot.side == side:
                found[group.name] = found.get(group.name, 0) + slot.fold
    return found


def _costs(
    layer: LayerCost,
    table: CostTable,
    unit: Unit,
    ins: npt.NDArray[np.int64],
    outs: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    sizes = list(zip(ins.reshape(-1).tolist(), outs.reshape(-1).tolist(), strict=True))
    # sums of groups often come to the same width
    known = {size: table.of_layer(layer, unit, *size) for size in dict.fromkeys(sizes)}
    return np.array([known[size] for size in sizes]).reshape(ins.shape)
