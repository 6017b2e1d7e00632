"""Ways to group the offsets."""

import pytest

from pcsparse.bench.cases import BATCH_BELOW, EPSILONS
from pcsparse.bench.groupings import groupings, run_groupings
from pcsparse.coords.relation import Relation
from pcsparse.engine.grouping import padding_share
from pcsparse.kernels import cpu
from tests.bench.scenes import small_scene


def _counts(scene):
    kmap = scene.kernel_map(Relation.of(3))
    return kmap, kmap.pairs.starts.diff().tolist()


def test_every_grouping_has_every_offset_once_but_the_centre():
    kmap, counts = _counts(small_scene())
    wanted = [i for i in range(27) if counts[i] and i != 13]
    found = groupings(kmap)
    assert len(found) == 3 + len(EPSILONS) * len(BATCH_BELOW) + 1
    for grouping in found:
        assert sorted(i for group in grouping.groups for i in group.offsets) == wanted, grouping.name


def test_padding_of_the_hand_made_groupings():
    kmap, counts = _counts(small_scene())
    separate, one, three = groupings(kmap)[:3]
    used = [n for i, n in enumerate(counts) if n and i != 13]

    assert padding_share(separate.groups, counts) == 0
    assert padding_share(one.groups, counts) == pytest.approx(1 - sum(used) / (len(used) * max(used)))
    offsets = kmap.relation.offsets()
    for group, norm in zip(three.groups, (1, 2, 3), strict=True):
        assert {sum(map(abs, offsets[i])) for i in group.offsets} == {norm}
    assert 0 < padding_share(three.groups, counts) < padding_share(one.groups, counts)


def test_all_are_right_and_equal_groups_share_a_time():
    results = run_groupings(small_scene(), 16, runs=1)
    assert all(result.check.passed and result.time is not None for result in results)
    # S = 0 never batches, so epsilon changes nothing but the cut
    unbatched = [result for result in results if result.batch_below == 0]
    assert {(result.n_batched, result.padding) for result in unbatched} == {(0, 0.0)}


def test_a_wrong_scatter_has_no_time(monkeypatch):
    segment_sum = cpu.segment_sum

    def wrong(values, order, starts):
        out = segment_sum(values, order, starts)
        out[0] += 0.01
        return out

    monkeypatch.setattr(cpu, "segment_sum", wrong)
    results = run_groupings(small_scene(), 16, runs=1)
    assert not any(result.check.passed for result in results)
    assert all(result.time is None for result in results)
