"""The search space of a network's kernel offsets: its maps as steps, numbers of kept offsets as widths."""

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from pcsparse.compress.cost import Unit
from pcsparse.compress.offset_cost import OffsetCost, search_of
from pcsparse.compress.offset_groups import OffsetGroup, Offsets
from pcsparse.compress.offsets import choose_offsets, kept_counts
from pcsparse.compress.search.space import Assignment, CostTerm, Space, Step
from pcsparse.compress.sensitivity import RATIOS
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.errors import RangeError


def offset_space(
    cost: OffsetCost,
    scores: Mapping[str, Tensor],
    unit: Unit = "ms",
    *,
    ratios: Iterable[float] = RATIOS,
    names: Iterable[str] | None = None,
) -> Space:
    """All numbers of offsets that the groups of a network may keep, and what the network costs with them.

    Where groups are layers, the search of maps counts as that of the whole network: which offsets a map needs
    hangs on all its readers at once.

    Args:
        cost: of the network, with its groups.
        scores: from `offset_scores`: which offsets a number of them are.
        unit: of the cost.
        ratios: shares of offsets that may be removed, each in [0, 1); numbers are rounded up to whole pairs.
        names: the groups that may lose offsets; those that are `free` if None.

    Raises:
        RangeError: ratios outside [0, 1), or no such group.
    """
    maps = cost.maps
    groups = [g for g in maps.groups if g.free] if names is None else [maps.group(name) for name in names]
    steps = offset_steps(maps, groups, ratios)
    own = {group.name: {reader.name for reader in group.readers} for group in groups}
    if maps.scope == "map":
        own = {group.name: {*own[group.name], search_of(group.map_name)} for group in groups}
    free = set().union(*own.values())
    rest = sum(value for name, value in cost.parts(unit).items() if name not in free)
    terms = [CostTerm("all else", (), np.array(cost.fixed(unit) + rest))]
    for group, step in zip(groups, steps, strict=True):
        costs = []
        for width in step.widths:
            parts = cost.parts(unit, choose_offsets(maps, scores, {group.name: width}))
            costs.append(sum(value for name, value in parts.items() if name in own[group.name]))
        terms.append(CostTerm(group.name, (group.name,), np.array(costs)))
    return Space(steps, tuple(terms), unit)


def offsets_of(
    space: Space, assignment: Assignment, maps: SharedMaps, scores: Mapping[str, Tensor]
) -> dict[str, Offsets]:
    """The offsets that each step keeps, those of the highest scores; what `slice_offsets` takes.

    Args:
        space: from `offset_space`.
        assignment: of `space`.
        maps: of the network.
        scores: that the space was made with.
    """
    counts = {step.name: width for step, width in zip(space.steps, assignment, strict=True)}
    return choose_offsets(maps, scores, counts)


def offset_steps(
    maps: SharedMaps, groups: Iterable[OffsetGroup], ratios: Iterable[float]
) -> tuple[Step, ...]:
    """A step a group: the numbers of offsets that it may keep.

    Raises:
        RangeError: ratios outside [0, 1).
    """
    listed = list(ratios)
    wrong = [ratio for ratio in listed if not 0.0 <= ratio < 1.0]
    if wrong:
        raise RangeError(f"a ratio is the share to remove, from 0 to below 1, got {wrong}")
    return tuple(_step(group, maps, listed) for group in groups)


def _step(group: OffsetGroup, maps: SharedMaps, ratios: list[float]) -> Step:
    counts = {kept_counts(maps, {group.name: 1.0 - ratio})[group.name] for ratio in (*ratios, 0.0)}
    return Step(
        group.name,
        tuple(sorted(counts)),
        c_in=group.readers[0].c_in,
        c_out=group.readers[0].c_out,
        stride=group.relation.stride[0],
        kernel=group.relation.volume,
        voxels=group.n_out,
        pairs=sum(group.pairs),
    )
