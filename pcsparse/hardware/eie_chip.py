"""The chip of EIE as facts: how many processing elements, how wide, how deep.

Source: Han et al., EIE (ISCA 2016), sections IV and V, table II. The width of the activation SRAM's port is
not published; here it is that of the sparse-matrix SRAM.
"""

from dataclasses import dataclass

from pcsparse.errors import RangeError
from pcsparse.packed.eie import EIEMatrix

MOST_PES = 4096
SPMAT_BYTES = 128 * 1024
"""Of one PE, for entries."""
POINTER_BYTES = 32 * 1024
"""Of one PE, both banks."""
ACT_BYTES = 2 * 1024
"""Of one PE, for activations that the registers do not hold."""
ACT_BITS = 16
PE_MILLIWATT = {"queue": 0.112, "pointers": 1.807, "spmat": 4.955, "arithmetic": 1.162, "activations": 1.122}
"""Published power of one PE by module, of 9.157 mW in all."""
LNZD_MILLIWATT = 0.023
"""Of one node of the quadtree."""


@dataclass(frozen=True)
class EIEChip:
    """A chip; the defaults are the published one.

    Attributes:
        n_pe: processing elements, 1 to 4096.
        fifo_depth: activations that wait in front of a PE, at least 1.
        clock: Hz.
        sram_width: bits that one read of the sparse-matrix SRAM brings.
        registers: activations that a PE's source file holds, and sums that its destination file holds.
        act_sram_width: bits of a read or write of the activation SRAM.
        pointer_banks: 2 read p_j and p_j+1 in one cycle, 1 takes two.
        bypass: whether a sum is handed on to the next entry of the same row; a stall of one cycle if not.
        look_ahead: whether pointers are read one column ahead, and pairs without entries dropped there.
        keep_row: whether a column that begins in the row of the sparse-matrix SRAM that was read last saves a
            read, as in the authors' simulator; if not, each column reads anew, as the paper's choice of 64
            bits (6.4 entries a column, 8 a read) has it. No cycle depends on it.

    Raises:
        RangeError: a number outside its range.
    """

    n_pe: int = 64
    fifo_depth: int = 8
    clock: float = 800e6
    sram_width: int = 64
    registers: int = 64
    act_sram_width: int = 64
    pointer_banks: int = 2
    bypass: bool = True
    look_ahead: bool = False
    keep_row: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        ranges = {
            "n_pe": (1, MOST_PES),
            "fifo_depth": (1, 1 << 40),
            "sram_width": (1, 1 << 16),
            "registers": (1, 1 << 20),
            "act_sram_width": (ACT_BITS, 1 << 16),
            "pointer_banks": (1, 2),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise RangeError(f"{name} must be {least} to {most}, got {value}")
        if not 0 < self.clock < float("inf"):
            raise RangeError(f"clock must be above 0 Hz and finite, got {self.clock}")

    @property
    def lnzd_levels(self) -> int:
        """Levels of the quadtree that finds non-zero activations: four PEs, or four nodes, a node."""
        levels, reach = 0, 1
        while reach < self.n_pe:
            levels, reach = levels + 1, 4 * reach
        return levels

    @property
    def lnzd_nodes(self) -> int:
        """Nodes of that tree; 21 for 64 PEs."""
        nodes, width = 0, self.n_pe
        while width > 1:
            width = -(-width // 4)
            nodes += width
        return nodes

    @property
    def milliwatt(self) -> float:
        """Published power of this many PEs and their tree, at 800 MHz and 64 bits a read."""
        return self.n_pe * sum(PE_MILLIWATT.values()) + self.lnzd_nodes * LNZD_MILLIWATT

    def seconds(self, cycles: float) -> float:
        """What that many cycles take."""
        return cycles / self.clock

    def misfits(self, matrix: EIEMatrix) -> tuple[str, ...]:
        """What of a matrix is larger than the published PE's SRAM for it; it is simulated all the same.

        Then a run would have to bring more from outside between two batches, which costs nothing here.
        """
        entry_bits = matrix.format.code_bits + matrix.format.index_bits
        bytes_of = {
            "entries": (int(matrix.column_counts.sum(dim=1).max()) * entry_bits / 8, SPMAT_BYTES),
            "pointers": (matrix.pointers.shape[1] * matrix.format.pointer_bits / 8, POINTER_BYTES),
            "activations": (-(-matrix.n_in // self.n_pe) * ACT_BITS / 8, ACT_BYTES),
        }
        return tuple(
            f"{name} of a PE take {need / 1024:.1f} KB of {have / 1024:g}"
            for name, (need, have) in bytes_of.items()
            if need > have
        )
