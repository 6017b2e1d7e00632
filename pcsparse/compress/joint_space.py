"""The search space of a network's channels and kernel offsets together.

A group of channels and a map may both be called by the layer that comes first, so that the names of steps say
of which axis they are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from pcsparse.compress.channels import MULTIPLE, choose_channels, slice_channels
from pcsparse.compress.cost import LayerCost, Unit
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.joint_cost import JointCost
from pcsparse.compress.offset_cost import search_of
from pcsparse.compress.offset_groups import Offsets
from pcsparse.compress.offset_space import offset_steps
from pcsparse.compress.offsets import choose_offsets, slice_offsets
from pcsparse.compress.search.space import Assignment, CostTerm, Space, Step
from pcsparse.compress.sensitivity import RATIOS
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.compress.space_of import sizes_of, space_of
from pcsparse.errors import RangeError

CHANNELS, OFFSETS = "channels of ", "offsets of "
"""How the names of steps begin; then comes the name of the group."""
KIND = 2
"""Of a step of offsets: channels of convolutions have 0, of linear layers 1."""


def joint_space(
    cost: JointCost,
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    unit: Unit = "ms",
    *,
    ratios: Iterable[float] = RATIOS,
    multiple: int = MULTIPLE,
    offset_ratios: Iterable[float] = RATIOS,
) -> Space:
    """All widths and all numbers of kept offsets that a network may have, and what it costs with them.

    A step of offsets comes before those of the channels that its convolutions write.

    Args:
        cost: of the network.
        graph: of it.
        scores: from `offset_scores`, of the maps of `cost`: which offsets a number of them are.
        unit: of the cost.
        ratios: shares of channels that a group may lose, each in [0, 1).
        multiple: widths are rounded up to it.
        offset_ratios: shares of offsets that a map may lose, each in [0, 1); rounded to whole pairs.

    Raises:
        RangeError: see `space_of` and `offset_steps`.
    """
    channels = space_of(graph, cost.whole, unit, ratios=ratios, multiple=multiple).steps
    maps = cost.maps
    offsets = offset_steps(maps, [group for group in maps.groups if group.free], offset_ratios)
    reads = {reader.name: step for step in offsets for reader in maps.group(step.name).readers}
    terms = [CostTerm("maps and rest", (), np.array(cost.fixed(unit)))]
    for layer in cost.whole.layers:
        step = reads.get(layer.name) if layer.kind == "conv" else None
        terms.append(_term(layer, step, cost, graph, scores, unit, channels))
    terms += _searches(offsets, cost, scores, unit)
    places = {layer.name: i for i, layer in reversed(list(enumerate(cost.whole.layers)))}
    first = {group.name: min(places[name] for name in group.layers("out")) for group in graph.free}
    named = [(places[step.name], 0, replace(step, name=OFFSETS + step.name, kind=KIND)) for step in offsets]
    named += [(first[step.name], 1, replace(step, name=CHANNELS + step.name)) for step in channels]
    steps = [step for _, _, step in sorted(named, key=lambda one: one[:2])]
    return Space(tuple(steps), tuple(terms), unit)


@dataclass(frozen=True)
class JointChoice:
    """What a joint assignment keeps, by the names of the groups.

    Attributes:
        widths: channels; what `ChannelGraph.widths` and `prune_channels` take.
        counts: offsets; what `prune_offsets` takes.
    """

    widths: dict[str, int]
    counts: dict[str, int]


def joint_choice(space: Space, assignment: Assignment) -> JointChoice:
    """The two axes of an assignment apart.

    Raises:
        RangeError: a step of neither axis.
    """
    widths: dict[str, int] = {}
    counts: dict[str, int] = {}
    for step, kept in zip(space.steps, assignment, strict=True):
        axis, group = axis_of_step(step.name)
        (widths if axis == CHANNELS else counts)[group] = kept
    return JointChoice(widths, counts)


def axis_of_step(name: str) -> tuple[str, str]:
    """`CHANNELS` or `OFFSETS`, and the name of the group.

    Raises:
        RangeError: the name begins with neither.
    """
    for axis in (CHANNELS, OFFSETS):
        if name.startswith(axis):
            return axis, name.removeprefix(axis)
    raise RangeError(f"{name!r} is no step of a joint space: its name begins with neither axis")


def joint_offsets(
    space: Space, assignment: Assignment, maps: SharedMaps, scores: Mapping[str, Tensor]
) -> dict[str, Offsets]:
    """The offsets that an assignment keeps, those of the highest scores, by map."""
    return choose_offsets(maps, scores, joint_choice(space, assignment).counts)


def joint_network(
    model: nn.Module,
    graph: ChannelGraph,
    channel_scores: Mapping[str, Tensor],
    maps: SharedMaps,
    offset_scores: Mapping[str, Tensor],
    space: Space,
    assignment: Assignment,
) -> nn.Module:
    """The sliced network of an assignment, with the channels and the offsets of the highest scores.

    Args:
        model: the whole network; it is not changed.
        graph: of `model`.
        channel_scores: of its channels.
        maps: of `model`.
        offset_scores: of its offsets.
        space: from `joint_space`.
        assignment: of `space`.
    """
    widths = joint_choice(space, assignment).widths
    narrow = slice_channels(model, graph, choose_channels(channel_scores, widths))
    # positions of offsets are those of the whole kernel, whatever the widths are
    return slice_offsets(narrow, maps, joint_offsets(space, assignment, maps, offset_scores))


def _term(
    layer: LayerCost,
    step: Step | None,
    cost: JointCost,
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    unit: Unit,
    channels: tuple[Step, ...],
) -> CostTerm:
    """A layer over its groups of channels and, where it reads a map that is a step, over that."""
    names, ins, outs = sizes_of(layer, graph, channels)
    sizes = list(zip(ins.reshape(-1).tolist(), outs.reshape(-1).tolist(), strict=True))
    # sums of groups often come to the same width
    distinct = list(dict.fromkeys(sizes))
    tables = []
    for kept in [None] if step is None else _kept(layer, step, cost, scores):
        known = {size: cost.of_layer(layer, unit, *size, kept) for size in distinct}
        tables.append(np.array([known[size] for size in sizes]).reshape(ins.shape))
    groups = tuple(CHANNELS + name for name in names)
    title = f"{layer.name} ({layer.kind})"
    if step is None:
        return CostTerm(title, groups, tables[0])
    return CostTerm(title, (*groups, OFFSETS + step.name), np.stack(tables, axis=-1))


def _kept(layer: LayerCost, step: Step, cost: JointCost, scores: Mapping[str, Tensor]) -> list[Offsets]:
    """Of each width of a step the offsets that a layer keeps."""
    maps = cost.maps
    chosen = [choose_offsets(maps, scores, {step.name: width}) for width in step.widths]
    return [maps.by_layer(each)[layer.name] for each in chosen]


def _searches(
    offsets: tuple[Step, ...], cost: JointCost, scores: Mapping[str, Tensor], unit: Unit
) -> list[CostTerm]:
    """The search of each map over its step; where steps are layers, a constant: it hangs on all at once."""
    maps, whole = cost.maps, cost.searches(unit)
    own = {maps.group(step.name).map_name: step for step in offsets} if maps.scope == "map" else {}
    terms = []
    for map_name, ms in whole.items():
        title, step = search_of(map_name), own.get(map_name)
        if step is None:
            terms.append(CostTerm(title, (), np.array(ms)))
            continue
        chosen = [choose_offsets(maps, scores, {step.name: width}) for width in step.widths]
        times = [cost.searches(unit, each)[map_name] for each in chosen]
        terms.append(CostTerm(title, (OFFSETS + step.name,), np.array(times)))
    return terms
