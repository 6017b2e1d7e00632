"""Row reordering for sorted implicit GEMM against brute force over the table."""

from itertools import pairwise

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.coords.row_order import row_order
from pcsparse.errors import RangeError
from tests.clouds import CLOUDS, lidar_like


def _table(name: str, kernel_size=3) -> torch.Tensor:
    coords = lidar_like(700) if name == "lidar" else CLOUDS[name].coords
    return CoordCache().kernel_map(coords, coords, Relation.of(kernel_size)).table


def _mask(table: torch.Tensor, chunk: int, split: int, row: int) -> int:
    offsets = range(split * chunk, min(len(table), (split + 1) * chunk))
    return sum(1 << (k - split * chunk) for k in offsets if table[k, row] >= 0)


TABLES = ["lidar", "unsorted", "two-batches", "one", "empty"]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("splits", [1, 2, 3, 4])
@pytest.mark.parametrize("order", ["none", "binary", "gray"])
def test_rows_and_masks(device, name, splits, order):
    table = _table(name).to(device)
    arranged = row_order(table, splits=splits, order=order)
    n_out = table.shape[1]

    assert arranged.chunk == {1: 27, 2: 14, 3: 9, 4: 7}[splits]
    assert arranged.rows.shape == arranged.masks.shape == (splits, n_out)
    for s in range(splits):
        rows = arranged.rows[s].tolist()
        masks = arranged.masks[s].tolist()
        assert sorted(rows) == list(range(n_out))
        assert masks == [_mask(table, arranged.chunk, s, row) for row in rows]
        if order == "none":
            assert rows == list(range(n_out))
        elif order == "binary":
            # descending, ties in row order
            assert rows == sorted(rows, key=lambda row: (-_mask(table, arranged.chunk, s, row), row))
        else:
            assert rows == sorted(
                rows, key=lambda row: (_gray_rank(_mask(table, arranged.chunk, s, row)), row)
            )


def _gray_rank(code: int) -> int:
    rank = 0
    while code:
        rank ^= code
        code >>= 1
    return rank


def test_gray_order_of_all_masks_changes_one_bit_a_step():
    table = torch.tensor(
        [[0 if code >> k & 1 else -1 for code in range(32)] for k in range(5)], dtype=torch.int32
    )
    masks = row_order(table, order="gray").masks[0].tolist()

    assert sorted(masks) == list(range(32))
    assert all((a ^ b).bit_count() == 1 for a, b in pairwise(masks))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("splits", "order"), [(1, "none"), (1, "binary"), (3, "binary"), (4, "gray")])
@pytest.mark.parametrize("tile", [1, 7, 64, 128])
def test_tile_masks_and_redundant_share(name, splits, order, tile):
    table = _table(name)
    arranged = row_order(table, splits=splits, order=order)
    tiles = arranged.tile_masks(tile)

    n_out = table.shape[1]
    assert tiles.shape == (splits, -(-n_out // tile))
    run = useful = 0
    for s in range(splits):
        for t in range(tiles.shape[1]):
            union = 0
            for mask in arranged.masks[s, t * tile : (t + 1) * tile].tolist():
                union |= mask
                useful += mask.bit_count()
            assert tiles[s, t] == union
            # a tile runs all its rows, also beyond the last output
            run += union.bit_count() * tile
    assert useful == int((table >= 0).sum())
    expected = 1 - useful / run if run else 0.0
    assert arranged.redundant_share(tile) == pytest.approx(expected, abs=1e-12)


def test_sorting_and_splitting_save_multiply_adds():
    table = _table("lidar")
    unsorted = row_order(table, order="none").redundant_share(64)
    whole = row_order(table, order="binary").redundant_share(64)
    split = row_order(table, splits=4, order="binary").redundant_share(64)

    assert unsorted > whole > split > 0
    assert row_order(table, order="gray").redundant_share(64) < unsorted
    assert row_order(table, order="none").redundant_share(1) == 0


def test_kernels_of_more_offsets_than_bits_need_splits():
    table = _table("unsorted", kernel_size=5)
    with pytest.raises(RangeError, match="splits=1 does not fit k=125: a split holds 1 to 63 offsets"):
        row_order(table)

    for splits in (2, 3, 4):
        arranged = row_order(table, splits=splits)
        useful = sum(mask.bit_count() for mask in arranged.masks.view(-1).tolist())
        assert useful == int((table >= 0).sum())
        assert bool((arranged.masks >= 0).all())


@pytest.mark.parametrize("splits", [0, -1, 28])
def test_impossible_splits_are_refused(splits):
    with pytest.raises(RangeError, match=f"splits={splits} does not fit k=27"):
        row_order(_table("one"), splits=splits)


def test_unknown_order_is_refused():
    with pytest.raises(RangeError, match="order must be 'none', 'binary' or 'gray', got 'morton'"):
        row_order(_table("one"), order="morton")  # type: ignore[arg-type]
