"""Energy of a run of EIE, from counted accesses and published energies of one access.

The published table (45 nm, pJ): int add 0.1, int mul 3.1 and a 16-bit one a fifth of it, register 1, SRAM 5
and DRAM 640 for 32 bits. SRAM of another width is priced by the bit. Wires, clock and leakage are not in that
table; `EIERun.power_energy`, published power times simulated time, has them.

How the energy of a read of one and the same SRAM grows with its width is not published either. `SPMAT_READ`
is what CACTI 7.0 says, and is used for the choice of that width alone.

Source: Han et al., EIE (ISCA 2016), table I and sections V and VI.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from types import MappingProxyType

from pcsparse.hardware.eie_chip import EIEChip

ADD = 0.1
MULTIPLY_16 = 3.1 / 5
REGISTER = 1.0
SRAM_32 = 5.0

SPMAT_READ: Mapping[int, float] = MappingProxyType(
    {32: 13.417, 64: 16.324, 128: 22.547, 256: 36.410, 512: 64.565}
)
"""pJ of a read of 128 KB of SRAM, by bits a read.

CACTI 7.0 (HewlettPackard/cacti@1ffd8df): cache.cfg with size 131072, type "ram", technology 0.045, cells and
periphery "itrs-lop", no ECC, 350 K, block and bus of that width, optimize "NONE", so that the file's own
objective holds, the cycle time. Among its cells, itrs-hp leaks 120 mW, a dozen times the power of a whole PE,
and itrs-lstp does not reach 800 MHz; under the objectives "ED" and "ED^2", 256 and 512 bits do not reach it
either.
"""


def sram(bits: int) -> float:
    """Energy of one access of so many bits by the published figure, pJ."""
    return SRAM_32 * bits / 32


@dataclass(frozen=True)
class EIEAccesses:
    """What all PEs of a run did together.

    Attributes:
        entries: multiplied and added, pads included.
        pads: of them.
        broadcasts: activations sent, each once for all PEs.
        queue_writes: an activation into one queue; it is read as often.
        pointer_reads: of 16 bits.
        spmat_reads: of `EIEChip.sram_width` bits.
        act_sram_reads: of `EIEChip.act_sram_width` bits, to fill the source registers.
        act_sram_writes: of the same width, of results that the registers cannot keep.
        act_loads: activations that the reads brought.
        bypassed: sums that came over the bypass.
    """

    entries: int
    pads: int
    broadcasts: int
    queue_writes: int
    pointer_reads: int
    spmat_reads: int
    act_sram_reads: int
    act_sram_writes: int
    act_loads: int
    bypassed: int


@dataclass(frozen=True)
class EIEEnergy:
    """Picojoule by module."""

    queue: float
    pointers: float
    spmat: float
    arithmetic: float
    activations: float

    @property
    def total(self) -> float:
        """Picojoule."""
        return float(sum(astuple(self)))

    @staticmethod
    def of(accesses: EIEAccesses, chip: EIEChip) -> "EIEEnergy":
        """Price the accesses: a look-up is a register's, and an entry adds twice, to its row and its sum."""
        act_sram = accesses.act_sram_reads + accesses.act_sram_writes
        return EIEEnergy(
            queue=2 * REGISTER * accesses.queue_writes,
            pointers=sram(16) * accesses.pointer_reads,
            spmat=sram(chip.sram_width) * accesses.spmat_reads,
            arithmetic=(REGISTER + MULTIPLY_16 + 2 * ADD) * accesses.entries,
            activations=REGISTER * (accesses.broadcasts + accesses.act_loads + 2 * accesses.entries)
            + sram(chip.act_sram_width) * act_sram,
        )
