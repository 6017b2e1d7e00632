"""The chip of PointAcc as facts: how wide, how much memory, how fast.

Source: Lin et al., PointAcc (MICRO 2021, arXiv 2110.07600), for array, SRAM, memory and clock of both chips
(unverified: recalled, not read). How the SRAM is shared out, the widths of the mapping unit and the bytes of
keys, sums and bursts are not known here; those below are ours, and nothing is fitted to a published result.
"""

from dataclasses import dataclass, fields

from pcsparse.errors import RangeError

_KB = 1024
_MOST_WIDTH = 1024


@dataclass(frozen=True)
class PointAccChip:
    """A chip. `PointAccChip.full()` and `.edge()` are the published ones.

    Attributes:
        name: in tables.
        array_rows: of the systolic array: input channels of a weight tile.
        array_cols: of the systolic array: output channels of a weight tile.
        input_bytes: of the input buffer, which is a cache.
        weight_bytes: of the weight buffer.
        output_bytes: of the accumulators, in two halves: one is written out while the other is filled.
        mapping_bytes: of the buffer of the mapping unit, for keys or points that fit.
        memory_rate: bytes a second of the DRAM.
        clock: Hz.
        merger_width: keys a cycle that leave the merger, n; a power of two.
        fifo_blocks: blocks of n keys that each of the two FIFOs in front of the merger holds.
        loop_cycles: from one step of a merge to the next. The kept keys of a step are an operand of the next,
            so n keys a cycle need a loop of one cycle; a loop around the whole network would take as many
            cycles as it has stages.
        ways: of a set of the input buffer; 1 is direct-mapped.
        burst_bytes: the least that the DRAM moves.
        key_bytes: of a sorted key.
        index_bytes: of a row number.
        sum_bytes: of an accumulator.

    Raises:
        RangeError: a number outside its range.
    """

    name: str
    array_rows: int
    array_cols: int
    input_bytes: int
    weight_bytes: int
    output_bytes: int
    mapping_bytes: int
    memory_rate: float
    clock: float
    merger_width: int
    burst_bytes: int
    fifo_blocks: int = 4
    loop_cycles: int = 1
    ways: int = 1
    key_bytes: int = 8
    index_bytes: int = 4
    sum_bytes: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "name" and not 0 < value < float("inf"):
                raise RangeError(f"{field.name} must be above 0 and finite, got {value}")
        check_width(self.merger_width)
        if self.output_bytes < 2 * self.array_cols * self.sum_bytes:
            raise RangeError(
                f"two halves of output_bytes={self.output_bytes} must each hold a row of {self.array_cols} "
                f"sums of {self.sum_bytes} bytes; give at least {2 * self.array_cols * self.sum_bytes}"
            )

    @staticmethod
    def full() -> "PointAccChip":
        """64x64 multipliers, 776 KB, HBM2 of 256 GB/s, 1 GHz."""
        return PointAccChip(
            "full", 64, 64, 256 * _KB, 128 * _KB, 256 * _KB, 136 * _KB, 256e9, 1e9, 64, burst_bytes=32
        )

    @staticmethod
    def edge() -> "PointAccChip":
        """16x16 multipliers, 274 KB, DDR4 of 17 GB/s, 1 GHz."""
        return PointAccChip(
            "edge", 16, 16, 96 * _KB, 48 * _KB, 64 * _KB, 66 * _KB, 17e9, 1e9, 16, burst_bytes=64
        )

    @property
    def sram_bytes(self) -> int:
        """Of all four buffers."""
        return self.input_bytes + self.weight_bytes + self.output_bytes + self.mapping_bytes

    @property
    def memory_bytes_a_cycle(self) -> float:
        """Of the DRAM."""
        return self.memory_rate / self.clock

    @property
    def pair_bytes(self) -> int:
        """Of one entry of a map: an input row and an output row; the offset is that of its list."""
        return 2 * self.index_bytes

    @property
    def tile_rows(self) -> int:
        """Output rows whose sums for one tile of output channels are held at once."""
        return self.output_bytes // (2 * self.array_cols * self.sum_bytes)

    def seconds(self, cycles: float) -> float:
        """What that many cycles take."""
        return cycles / self.clock

    def memory_cycles(self, n_bytes: float) -> float:
        """What moving that many bytes takes."""
        return n_bytes / self.memory_bytes_a_cycle

    def bursts(self, n_bytes: int) -> int:
        """`n_bytes` that lie side by side, in whole bursts."""
        return -(-n_bytes // self.burst_bytes) * self.burst_bytes


def check_width(width: int) -> None:
    """Refuse a merger that is no bitonic network.

    Raises:
        RangeError: `width` is no power of two from 2 to 1024.
    """
    if not 2 <= width <= _MOST_WIDTH or width & (width - 1):
        raise RangeError(
            f"the width of a merger must be a power of two from 2 to {_MOST_WIDTH}, got {width}; a bitonic "
            "network halves it at every stage"
        )
