"""Gather-GEMM-scatter under four ways to group the offsets: what padding costs and what batching brings.

Source: TorchSparse (MLSys 2022, arXiv 2204.10319), section 4.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from pcsparse.bench.cases import BATCH_BELOW, EPSILONS
from pcsparse.bench.limits import Work, conv_work
from pcsparse.bench.scene import Scene, draw, twin_map
from pcsparse.bench.verify import Check, check_close
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.gather_scatter import GatherScatterConfig, gather_gemm_scatter
from pcsparse.engine.grouping import Group, adaptive_groups, padding_share
from pcsparse.kernels import reference
from pcsparse.timing import Timing, time_in_turns


@dataclass(frozen=True)
class Grouping:
    """One way to run the offsets together.

    Attributes:
        name: what it is.
        groups: every offset with pairs once, less the centre.
        epsilon: of the adaptive rule, else None.
        batch_below: S of the adaptive rule, else None.
    """

    name: str
    groups: tuple[Group, ...]
    epsilon: float | None = None
    batch_below: int | None = None


@dataclass(frozen=True)
class GroupingResult:
    """A grouping at a width.

    Attributes:
        name: of the grouping.
        channels: in and out.
        epsilon: of the adaptive rule, else None.
        batch_below: S of the adaptive rule, else None.
        n_groups: groups, the centre not counted.
        n_batched: groups that run as one batched GEMM.
        padding: share of the multiplied rows that are padding.
        check: agreement with the twin.
        time: seconds, None where the check failed.
        work: of the convolution, whatever the grouping.
    """

    name: str
    channels: int
    epsilon: float | None
    batch_below: int | None
    n_groups: int
    n_batched: int
    padding: float
    check: Check
    time: Timing | None
    work: Work


def groupings(kmap: KernelMap) -> tuple[Grouping, ...]:
    """Separate GEMMs, one padded group, three fixed groups, the grid of the adaptive rule and its default.

    Args:
        kmap: symmetric, with a 3^3 kernel.
    """
    counts = kmap.pairs.starts.diff().tolist()
    offsets = kmap.relation.offsets()
    near = [sum(map(abs, offset)) for offset in offsets]
    used = [i for i in range(kmap.volume) if near[i] and counts[i]]
    everything = tuple(used)
    default = GatherScatterConfig()
    fixed = tuple(_batch(tuple(i for i in used if near[i] == norm), counts) for norm in (1, 2, 3))
    return (
        Grouping("separate GEMMs", tuple(Group((i,), counts[i], batched=False) for i in everything)),
        Grouping("one padded group", (_batch(everything, counts),)),
        Grouping("fixed three groups (faces, edges, corners)", fixed),
        *(_adaptive(counts, epsilon, below) for epsilon in EPSILONS for below in BATCH_BELOW),
        _adaptive(counts, default.epsilon, default.batch_below),
    )


def _batch(members: tuple[int, ...], counts: Sequence[int]) -> Group:
    return Group(members, max((counts[i] for i in members), default=0), batched=True)


def _adaptive(counts: Sequence[int], epsilon: float, batch_below: int) -> Grouping:
    groups = adaptive_groups(counts, epsilon=epsilon, batch_below=batch_below, symmetric=True)
    return Grouping(f"adaptive epsilon={epsilon:g} S={batch_below}", groups, epsilon, batch_below)


def run_groupings(scene: Scene, channels: int, runs: int) -> tuple[GroupingResult, ...]:
    """Verify and time every grouping on the submanifold 3^3 map; equal groups are timed once.

    Args:
        scene: the cloud.
        channels: in and out.
        runs: runs of each.
    """
    relation = Relation.of(3)
    kmap = scene.kernel_map(relation)
    feats = draw(kmap.n_in, channels)
    weight = draw(kmap.volume, channels, channels, scale=(kmap.volume * channels) ** -0.5)
    _, pairs = twin_map(scene.coords, relation)
    expected = reference.output_stationary(
        feats.double(), weight.double(), pairs.rows_in, pairs.rows_out, pairs.starts, kmap.n_out, 0
    )
    wanted = groupings(kmap)
    checks, candidates = {}, {}
    with torch.no_grad():
        for grouping in wanted:
            key = repr(grouping.groups)
            if key not in checks:
                run = partial(gather_gemm_scatter, feats, weight, kmap, grouping.groups)
                checks[key] = check_close(grouping.name, run(), expected, kmap.volume * channels)
                if checks[key].passed:
                    candidates[key] = run
        timings = time_in_turns(candidates, runs=runs, warmup=1)
    work = conv_work(kmap.n_in, kmap.n_out, kmap.n_pairs, kmap.volume, channels, channels, backward=False)
    counts = kmap.pairs.starts.diff().tolist()
    return tuple(
        GroupingResult(
            grouping.name,
            channels,
            grouping.epsilon,
            grouping.batch_below,
            len(grouping.groups),
            sum(group.batched for group in grouping.groups),
            padding_share(grouping.groups, counts),
            checks[repr(grouping.groups)],
            timings.get(repr(grouping.groups)),
            work,
        )
        for grouping in wanted
    )
