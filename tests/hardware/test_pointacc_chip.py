"""The chips' published sizes, and what cannot be built."""

from dataclasses import replace

import pytest

from pcsparse.errors import RangeError
from pcsparse.hardware.pointacc_chip import PointAccChip

FULL, EDGE = PointAccChip.full(), PointAccChip.edge()


def test_published_sizes():
    assert (FULL.array_rows, FULL.array_cols, FULL.sram_bytes) == (64, 64, 776 * 1024)
    assert (EDGE.array_rows, EDGE.array_cols, EDGE.sram_bytes) == (16, 16, 274 * 1024)
    assert (FULL.memory_bytes_a_cycle, EDGE.memory_bytes_a_cycle) == (256.0, 17.0)
    assert FULL.seconds(1e6) == pytest.approx(1e-3)
    # two halves of 64 sums of four bytes a row
    assert FULL.tile_rows == 256 * 1024 // 512
    assert FULL.memory_cycles(1024) == 4.0
    assert [FULL.bursts(size) for size in (1, 32, 33)] == [32, 32, 64]
    assert FULL.pair_bytes == 8


@pytest.mark.parametrize("width", [0, 1, 3, 48, 2048, -4])
def test_widths_are_powers_of_two(width):
    with pytest.raises(RangeError, match=f"got {width}"):
        replace(FULL, merger_width=width)


@pytest.mark.parametrize(
    ("field", "value"), [("clock", float("inf")), ("memory_rate", 0.0), ("fifo_blocks", 0), ("ways", -1)]
)
def test_other_numbers_are_above_zero(field, value):
    with pytest.raises(RangeError, match=f"{field} must be above 0"):
        replace(FULL, **{field: value})


def test_accumulators_hold_a_row_in_each_half():
    assert replace(FULL, output_bytes=512).tile_rows == 1
    with pytest.raises(RangeError, match="give at least 512"):
        replace(FULL, output_bytes=511)
