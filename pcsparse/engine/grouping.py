"""Which kernel offsets share one batched GEMM.

Offsets of a map have different numbers of pairs. One batched GEMM for all pads every offset to the largest;
one GEMM an offset leaves small ones to starve. Adaptive grouping batches neighbours of similar size.

Source: TorchSparse (MLSys 2022, arXiv 2204.10319), section 4.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Offsets that run together.

    Attributes:
        offsets: positions in the weights.
        rows: rows of the largest member; members of a batched group are padded to it.
        batched: one batched GEMM, or one GEMM a member without padding.
    """

    offsets: tuple[int, ...]
    rows: int
    batched: bool


def adaptive_groups(
    counts: Sequence[int], *, epsilon: float, batch_below: int, symmetric: bool
) -> tuple[Group, ...]:
    """Greedy scan over the offsets.

    Args:
        counts: pairs an offset, (k,).
        epsilon: tolerated share of redundant rows in [0, 1]: a group is closed before an offset that would
            make `1 - min / max` larger. 0 groups equal sizes only, 1 makes one group.
        batch_below: S; a group whose largest member has fewer rows is batched, a larger one fills the machine
            by single GEMMs and is not padded.
        symmetric: visit 0, k - 1, 1, k - 2, ...: such pairs have equal counts and batch without padding. The
            centre is left out; it is a plain GEMM of all rows.
    """
    k = len(counts)
    mirrored = [offset for i in range(k // 2) for offset in (i, k - 1 - i)]
    order = mirrored if symmetric else list(range(k))
    groups: list[list[int]] = []
    low = high = 0
    for offset in (offset for offset in order if counts[offset] > 0):
        count = counts[offset]
        low, high = min(low, count), max(high, count)
        if not groups or 1 - low / high > epsilon:
            groups.append([])
            low = high = count
        groups[-1].append(offset)
    return tuple(_group(members, counts, batch_below) for members in groups)


def _group(members: Sequence[int], counts: Sequence[int], batch_below: int) -> Group:
    rows = max(counts[offset] for offset in members)
    return Group(tuple(members), rows, batched=len(members) > 1 and rows < batch_below)


def padding_share(groups: Sequence[Group], counts: Sequence[int]) -> float:
    """Share of the multiplied rows that are padding."""
    run = useful = 0
    for group in groups:
        useful += sum(counts[offset] for offset in group.offsets)
        members = len(group.offsets) * group.rows
        run += members if group.batched else sum(counts[offset] for offset in group.offsets)
    return 1.0 - useful / run if run else 0.0
