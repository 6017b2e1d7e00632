"""Row reordering for sorted implicit GEMM: rows with alike neighbours side by side.

A tile of output rows must run every offset that any of its rows has. Rows whose bit masks are alike share
offsets, so sorting by mask saves multiply-adds with zeros. One sort groups by the leading bits only; S splits
sort S chunks of the offsets apart, at the price of S partial outputs.

Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862), section 4.2; Gray order: JeffreyXiang/FlexGEMM@6dd94a8.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of

Order = Literal["none", "binary", "gray"]
_BITS = 63


@dataclass(frozen=True, eq=False)
class RowOrder:
    """How the output rows are arranged, once a split.

    Attributes:
        rows: (splits, n_out) int64; position p of split s holds output row `rows[s, p]`.
        masks: (splits, n_out) int64; the neighbour mask of each position, bit j = offset s * chunk + j.
        chunk: offsets a split.
    """

    rows: Tensor
    masks: Tensor
    chunk: int

    def tile_masks(self, tile: int) -> Tensor:
        """Offsets that each tile of `tile` rows must run, (splits, ceil(n_out / tile)) int64."""
        splits, n_out = self.masks.shape
        tiles = -(-n_out // tile)
        padded = self.masks.new_zeros(splits, tiles * tile)
        padded[:, :n_out] = self.masks
        rows = padded.view(splits, tiles, tile)
        # torch has no bitwise-or reduction; halving the rows takes log2(tile) steps
        while rows.shape[2] > 1:
            if rows.shape[2] % 2:
                rows = torch.nn.functional.pad(rows, (0, 1))
            rows = rows[:, :, 0::2] | rows[:, :, 1::2]
        return rows[:, :, 0]

    def redundant_share(self, tile: int) -> float:
        """Share of multiply-adds on absent neighbours where tiles of `tile` rows run whole."""
        run = _popcount(self.tile_masks(tile)) * tile
        useful = _popcount(self.masks)
        return 1.0 - useful / run if run else 0.0


def row_order(table: Tensor, *, splits: int = 1, order: Order = "binary") -> RowOrder:
    """Arrange the output rows of a map.

    Args:
        table: (k, n_out) int32, `KernelMap.table`.
        splits: 1 to k chunks of offsets, arranged apart; a chunk holds at most 63 offsets.
        order: "none" keeps the rows, "binary" sorts by mask descending, "gray" by the mask's Gray rank
            ascending.

    Raises:
        RangeError: `splits` is out of range for the table's k, or `order` is unknown.
    """
    k = table.shape[0]
    if not (1 <= splits <= max(k, 1)) or -(-k // splits) > _BITS:
        raise RangeError(f"splits={splits} does not fit k={k}: a split holds 1 to {_BITS} offsets")
    backend = backend_of(table)
    masks = backend.row_masks(table.contiguous(), splits)
    if order == "none":
        rows = torch.arange(table.shape[1], device=table.device).repeat(splits, 1)
    elif order == "binary":
        rows = torch.argsort(masks, dim=1, descending=True, stable=True)
    elif order == "gray":
        rows = torch.argsort(backend.gray_rank(masks), dim=1, stable=True)
    else:
        raise RangeError(f"order must be 'none', 'binary' or 'gray', got {order!r}")
    return RowOrder(rows, masks.gather(1, rows), -(-k // splits))


def _popcount(masks: Tensor) -> int:
    return sum(int(((masks >> bit) & 1).sum()) for bit in range(_BITS))
