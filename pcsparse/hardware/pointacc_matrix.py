"""Cycles of PointAcc's matrix unit: a systolic array in which weights stay while rows go through.

A tile of weights, as many input channels as the array has rows and output channels as it has columns, serves
the pairs of one offset in one tile of output rows, one a cycle. The next weights move in behind them, a row
of the array a cycle, so that a tile takes as many cycles as it has pairs, but no fewer than its weights need
to get in. Filling and draining happens once a layer, because sums are kept in two halves. Counted, not
clocked: nothing here depends on data but the numbers of pairs, which are those of the real map.

Source: Lin et al., PointAcc (MICRO 2021, arXiv 2110.07600) for an array of weights that stay (unverified).
"""

from dataclasses import dataclass

from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_memory import channel_tiles
from pcsparse.hardware.trace import LayerTrace


@dataclass(frozen=True)
class MatrixCost:
    """A layer on the array.

    Attributes:
        cycles: all.
        macs: multiply-adds that were needed.
        multipliers: of the array.
    """

    cycles: int
    macs: int
    multipliers: int

    @property
    def utilisation(self) -> float:
        """Share of multipliers and cycles that were needed."""
        return self.macs / (self.cycles * self.multipliers) if self.cycles else 0.0


def matrix_cost(layer: LayerTrace, chip: PointAccChip, tile_rows: int | None = None) -> MatrixCost:
    """Cycles of all tiles of weights, and of one fill and drain.

    Args:
        layer: that is computed.
        chip: that does it.
        tile_rows: of the output; as many as sums are held if None. Fused layers may have fewer.
    """
    _, spans = layer.accesses(tile_rows or chip.tile_rows)
    # rows that are added up go through the array as one
    counts = spans.diff(dim=0) // layer.summed
    used = counts[counts > 0]
    a_pass = sum(int(used.clamp(min=rows).sum()) for rows in channel_tiles(layer.c_in, chip.array_rows))
    passes = len(channel_tiles(layer.c_out, chip.array_cols))
    fill = chip.array_rows + chip.array_cols if used.numel() else 0
    return MatrixCost(passes * a_pass + fill, layer.macs, chip.array_rows * chip.array_cols)
