"""Multiply-adds wasted by a sorted implicit GEMM, for each way to order the rows.

A tile runs every offset that any of its rows has; rows without that neighbour multiply zeros. Counted, not
timed.

Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862), section 4.2; Gray order: FlexGEMM.
"""

from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

from pcsparse.bench.cases import TILE_HEIGHTS
from pcsparse.bench.scene import Scene, twin_map
from pcsparse.bench.verify import Check
from pcsparse.coords.relation import Relation
from pcsparse.coords.row_order import Order, row_order
from pcsparse.kernels import reference

_ORDERS: tuple[tuple[Order, int], ...] = (
    ("none", 1),
    *(("binary", splits) for splits in (1, 2, 3, 4)),
    *(("gray", splits) for splits in (1, 2, 3, 4)),
)


@dataclass(frozen=True)
class RedundancyResult:
    """Wasted work of one order at one tile height.

    Attributes:
        order: "none", "binary" or "gray"; "no masks" runs all offsets for every row.
        splits: S, chunks of offsets sorted apart.
        tile: rows.
        check: agreement with a count over the dense table of the twin.
        share: of the multiply-adds, 0 to 1; None where the check failed.
        overhead: multiply-adds run over useful ones; None where the check failed.
    """

    order: str
    splits: int
    tile: int
    check: Check
    share: float | None
    overhead: float | None


def run_redundancy(scene: Scene) -> tuple[RedundancyResult, ...]:
    """All orders at all tile heights, on the submanifold 3^3 map."""
    relation = Relation.of(3)
    kmap = scene.kernel_map(relation)
    _, pairs = twin_map(scene.coords, relation)
    table = reference.pairs_to_table(pairs.rows_in, pairs.rows_out, pairs.starts, kmap.n_out)
    share = 1.0 - kmap.n_pairs / max(kmap.volume * kmap.n_out, 1)
    counted = 1.0 - float((table >= 0).double().mean())
    results = [_result("no masks", 0, tile, share, counted) for tile in TILE_HEIGHTS]
    for order, splits in _ORDERS:
        found = row_order(kmap.table, splits=splits, order=order)
        for tile in TILE_HEIGHTS:
            counted = _counted(table, found.rows, found.chunk, tile)
            results.append(_result(order, splits, tile, found.redundant_share(tile), counted))
    return tuple(results)


def _result(order: str, splits: int, tile: int, share: float, counted: float) -> RedundancyResult:
    check = Check(f"{order} S={splits} tile {tile}: share", abs(share - counted), 1e-12)
    passed = check.passed and share < 1.0
    return RedundancyResult(
        order, splits, tile, check, share if passed else None, 1.0 / (1.0 - share) if passed else None
    )


def _counted(table: Tensor, rows: Tensor, chunk: int, tile: int) -> float:
    """The share by the definition: for every tile and offset, does any row have a neighbour.

    nan if a row is missing or listed twice, which no share equals.
    """
    run = useful = 0
    everyone = torch.arange(table.shape[1])
    for split, order in enumerate(rows):
        if not torch.equal(order.sort().values, everyone):
            return nan
        present = table[split * chunk : (split + 1) * chunk, order] >= 0
        padded = torch.nn.functional.pad(present, (0, -present.shape[1] % tile))
        run += int(padded.view(present.shape[0], -1, tile).any(dim=2).sum()) * tile
        useful += int(present.sum())
    return 1.0 - useful / run if run else 0.0
