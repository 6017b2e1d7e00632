"""The choice of important rows, cloud by cloud."""

import pytest
import torch

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.errors import DtypeError, RangeError, ShapeError
from pcsparse.ops import important_rows
from pcsparse.ops.importance import rows_kept


def _clouds(batch: list[int], n: int) -> KernelMap:
    return KernelMap.of_groups(torch.tensor(batch, dtype=torch.int32), n)


def test_the_largest_rows_of_each_cloud_are_chosen():
    # means of the magnitudes are 2, 3, 1 in the one cloud and 9, 8 in the other
    feats = torch.tensor([[1.0, -3.0], [-9.0, 9.0], [3.0, 3.0], [8.0, -8.0], [0.0, 2.0]])
    clouds = _clouds([0, 1, 0, 1, 0], 2)

    assert important_rows(feats, clouds, 0.5).tolist() == [True, True, True, False, False]
    assert important_rows(feats, clouds, 1.0).all()
    # at least one of each cloud that has rows
    assert important_rows(feats, clouds, 1e-6).tolist() == [False, True, True, False, False]
    assert important_rows(feats.bfloat16(), clouds, 0.5).tolist() == [True, True, True, False, False]


def test_of_equal_rows_the_lower_ones_are_chosen(rng):
    feats = torch.ones(60, 4)
    batch = torch.arange(60) % 3
    mask = important_rows(feats, _clouds(batch.tolist(), 3), 0.25)
    for cloud in range(3):
        rows = torch.nonzero(batch == cloud).squeeze(1)
        assert mask[rows].tolist() == [True] * 5 + [False] * 15


def test_a_batch_is_its_clouds_one_by_one(rng):
    feats = torch.randn(50, 3, generator=rng)
    batch = torch.randint(4, (50,), generator=rng)
    batch[batch == 2] = 3
    together = important_rows(feats, _clouds(batch.tolist(), 5), 0.3)
    for cloud in range(5):
        rows = batch == cloud
        alone = important_rows(feats[rows], _clouds([0] * int(rows.sum()), 1), 0.3)
        assert torch.equal(together[rows], alone)


@pytest.mark.parametrize(("share", "n", "kept"), [(0.07, 100, 7), (0.3, 10, 3), (1 / 3, 3, 1), (0.5, 3, 2)])
def test_a_share_is_rounded_up_but_not_by_a_rounding_error(share, n, kept):
    assert rows_kept(share, n) == kept


def test_what_cannot_be_ranked_is_refused():
    feats, clouds = torch.zeros(3, 2), _clouds([0, 0, 0], 1)
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(RangeError, match=r"share of rows that are convolved must be in \(0, 1\]"):
            important_rows(feats, clouds, share)
    with pytest.raises(ShapeError, match=r"feats must have shape \(3, \*\)"):
        important_rows(feats[1:], clouds, 0.5)
    with pytest.raises(ShapeError, match="at least 1 channel"):
        important_rows(feats[:, :0], clouds, 0.5)
    with pytest.raises(DtypeError, match="feats must be"):
        important_rows(feats.int(), clouds, 0.5)
