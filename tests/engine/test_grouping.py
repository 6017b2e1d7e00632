"""Adaptive grouping: the rules of TorchSparse, section 4.2."""

from itertools import pairwise

import pytest

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.engine.grouping import Group, adaptive_groups, padding_share
from tests.clouds import lidar_like

NEVER, ALWAYS = 0, 1 << 60


def _counts(kernel_size: int = 3) -> list[int]:
    coords = lidar_like(600)
    return CoordCache().kernel_map(coords, coords, Relation.of(kernel_size)).pairs.starts.diff().tolist()


COUNTS = {
    "none": [],
    "no-pairs": [0, 0, 0],
    "one": [7],
    "equal": [5, 5, 5, 5],
    "equal-apart": [5, 9, 5, 9],
    "with-holes": [0, 5, 0, 5, 4, 0],
    "falling": [100, 90, 80, 40, 20, 10],
    "lidar": _counts(),
    "lidar-even": _counts(2),
}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_every_offset_with_pairs_runs_once_in_order(counts, epsilon):
    groups = adaptive_groups(counts, epsilon=epsilon, batch_below=ALWAYS, symmetric=False)

    visited = [offset for group in groups for offset in group.offsets]
    assert visited == [offset for offset, count in enumerate(counts) if count]
    for group in groups:
        sizes = [counts[offset] for offset in group.offsets]
        assert group.rows == max(sizes)
        assert 1 - min(sizes) / max(sizes) <= epsilon


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3, 0.5])
def test_a_group_closes_only_where_it_must(counts, epsilon):
    groups = adaptive_groups(counts, epsilon=epsilon, batch_below=ALWAYS, symmetric=False)

    for group, following in pairwise(groups):
        sizes = [counts[offset] for offset in (*group.offsets, following.offsets[0])]
        assert 1 - min(sizes) / max(sizes) > epsilon


def test_the_ends_of_epsilon():
    counts = [5, 5, 4, 4, 5, 0, 1000]
    sizes = [
        [counts[offset] for offset in group.offsets]
        for group in adaptive_groups(counts, epsilon=0.0, batch_below=ALWAYS, symmetric=False)
    ]
    assert sizes == [[5, 5], [4, 4], [5], [1000]]

    one = adaptive_groups(counts, epsilon=1.0, batch_below=ALWAYS, symmetric=False)
    assert one == (Group((0, 1, 2, 3, 4, 6), 1000, batched=True),)


def test_the_greedy_scan_keeps_the_smallest_and_the_largest():
    # 100 and 80 differ by 0.2, 80 and 65 by 0.1875, but 100 and 65 by 0.35
    groups = adaptive_groups([100, 80, 65], epsilon=0.2, batch_below=ALWAYS, symmetric=False)
    assert [group.offsets for group in groups] == [(0, 1), (2,)]
    groups = adaptive_groups([80, 100, 75], epsilon=0.2, batch_below=ALWAYS, symmetric=False)
    assert [group.offsets for group in groups] == [(0, 1), (2,)]


@pytest.mark.parametrize("k", [1, 3, 5, 27, 125])
def test_symmetric_order_visits_mirrored_pairs_and_leaves_the_centre_out(k):
    counts = [1 + min(i, k - 1 - i) for i in range(k)]
    groups = adaptive_groups(counts, epsilon=1.0, batch_below=ALWAYS, symmetric=True)
    visited = [offset for group in groups for offset in group.offsets]

    assert visited == [offset for i in range(k // 2) for offset in (i, k - 1 - i)]
    assert k // 2 not in visited


def test_symmetric_pairs_batch_without_padding():
    counts = COUNTS["lidar"]
    groups = adaptive_groups(counts, epsilon=0.0, batch_below=ALWAYS, symmetric=True)

    assert padding_share(groups, counts) == 0
    assert all(len(group.offsets) % 2 == 0 and group.batched for group in groups)
    for group in groups:
        for left, right in zip(group.offsets[::2], group.offsets[1::2], strict=True):
            assert left + right == 26


def test_batching_is_for_small_groups_of_several():
    counts = [10, 10, 20, 20, 30]
    for batch_below, batched in (
        (NEVER, [False] * 3),
        (20, [True, False, False]),
        (21, [True, True, False]),
        (ALWAYS, [True, True, False]),
    ):
        groups = adaptive_groups(counts, epsilon=0.0, batch_below=batch_below, symmetric=False)
        assert [group.batched for group in groups] == batched


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("batch_below", [NEVER, 50, ALWAYS])
def test_padding_share(counts, epsilon, batch_below):
    groups = adaptive_groups(counts, epsilon=epsilon, batch_below=batch_below, symmetric=False)
    rows = padding = 0
    for group in groups:
        largest = max(counts[offset] for offset in group.offsets)
        for offset in group.offsets:
            rows += largest if group.batched else counts[offset]
            padding += largest - counts[offset] if group.batched else 0

    share = padding_share(groups, counts)
    assert share == pytest.approx(padding / rows if rows else 0, abs=1e-12)
    if batch_below == NEVER or epsilon == 0:
        assert share == 0
    elif batch_below == ALWAYS:
        assert share <= epsilon
