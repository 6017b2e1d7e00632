"""Cycle-level model of EIE: a packed matrix and a vector in; cycles, counters, energy and the product out.

Source: Han et al., EIE (ISCA 2016). What one cycle does, and each choice in it, stands in `eie_cycles`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.errors import RangeError
from pcsparse.hardware.eie_chip import ACT_BITS, EIEChip
from pcsparse.hardware.eie_cycles import (
    BUSY,
    BYPASSED,
    EMPTY,
    PADS,
    POINTERS,
    SPMAT,
    STALLED,
    STARVED,
    Ints,
    Stream,
    Switches,
    fresh_state,
    run_clock,
)
from pcsparse.hardware.eie_energy import EIEAccesses, EIEEnergy
from pcsparse.packed.eie import EIEMatrix


@dataclass(frozen=True, eq=False)
class EIERun:
    """One matrix-vector product on the chip.

    The four counters of a PE's cycles add up to `cycles`.

    Attributes:
        chip: that ran it.
        out: (n_out,) float64, the product, after ReLU if asked for.
        cycles: from the first to the last one.
        n_batches: of columns.
        held_back: cycles in which an activation waited because a queue was full.
        busy: (n_pe,) int64, cycles in which an entry, pads included, entered the arithmetic unit.
        starved: (n_pe,) int64, cycles in which there was nothing to do: no activation, start and end of a
            batch.
        empty: (n_pe,) int64, cycles spent on columns without entries in this PE.
        stalled: (n_pe,) int64, cycles in which an entry waited for the sum of the one before it.
        accesses: of all PEs.
    """

    chip: EIEChip
    out: Tensor
    cycles: int
    n_batches: int
    held_back: int
    busy: Tensor
    starved: Tensor
    empty: Tensor
    stalled: Tensor
    accesses: EIEAccesses

    @property
    def theoretical_cycles(self) -> float:
        """Entries, pads included, over PEs: no imbalance, nothing to fill or drain."""
        return self.accesses.entries / self.chip.n_pe

    @property
    def efficiency(self) -> float:
        """Share of all PEs' cycles that had an entry: 1 - bubbles; theoretical over actual cycles."""
        return self.theoretical_cycles / self.cycles if self.cycles else 1.0

    @property
    def real_work(self) -> float:
        """Entries without pads over entries."""
        entries = self.accesses.entries
        return 1.0 - self.accesses.pads / entries if entries else 1.0

    @property
    def microseconds(self) -> float:
        """Of all cycles."""
        return 1e6 * self.chip.seconds(self.cycles)

    @property
    def theoretical_microseconds(self) -> float:
        """Of the theoretical cycles."""
        return 1e6 * self.chip.seconds(self.theoretical_cycles)

    @property
    def energy(self) -> EIEEnergy:
        """By the published energy of an access, in pJ."""
        return EIEEnergy.of(self.accesses, self.chip)

    @property
    def power_energy(self) -> float:
        """Published power of the chip times the time, in pJ: with wires, clock and leakage."""
        return 1e3 * self.chip.milliwatt * self.microseconds


def simulate(
    matrix: EIEMatrix, activations: Tensor, chip: EIEChip | None = None, *, relu: bool = False
) -> EIERun:
    """Run y = W x, or max(0, W x), through the chip.

    Sums are float64 and columns are added in ascending order, so weights and activations that are small
    integers give the exact product.

    Args:
        matrix: W (n_out, n_in); from outside, `EIEMatrix.checked` first.
        activations: x (n_in,) of a floating dtype, finite; zeros are skipped.
        chip: with as many PEs as the matrix was packed for; the published one with that number if None.
        relu: on the way out.

    Raises:
        ShapeError: `activations` is not (n_in,).
        DtypeError: it is of no floating dtype.
        RangeError: it is not finite, or the chip has another number of PEs than the matrix, or fewer
            registers than the matrix has rows a PE.
    """
    check_shape("activations", activations, (matrix.n_in,))
    check_dtype("activations", activations, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if not bool(activations.isfinite().all()):
        where = int((~activations.isfinite()).nonzero()[0])
        raise RangeError(
            f"activations must be finite, activation {where} is {float(activations[where])}; mend the input"
        )
    chip = chip or EIEChip(n_pe=matrix.format.n_pe)
    if chip.n_pe != matrix.format.n_pe:
        raise RangeError(
            f"the matrix is packed for {matrix.format.n_pe} PEs and the chip has {chip.n_pe}; pack it with "
            f"EIEFormat(n_pe={chip.n_pe}) or take EIEChip(n_pe={matrix.format.n_pe})"
        )
    rows = matrix.format.slice_rows(0, matrix.n_out)
    if rows > chip.registers:
        raise RangeError(
            f"the matrix has {rows} rows a PE and the chip has registers for {chip.registers} sums; run it "
            f"in batches of rows (`eie_tall`), or take EIEChip(registers={rows})"
        )
    return _run(matrix, activations.detach().cpu().double().numpy(), chip, relu)


def _run(matrix: EIEMatrix, acts: np.ndarray, chip: EIEChip, relu: bool) -> EIERun:
    loads = _Loads.of(matrix, chip)
    stream = _stream(matrix, acts, chip, loads)
    rows = matrix.format.slice_rows(0, matrix.n_out)
    state = fresh_state(chip.n_pe, rows)
    entry_bits = matrix.format.code_bits + matrix.format.index_bits
    switches = Switches(
        chip.fifo_depth,
        max(1, chip.sram_width // entry_bits),
        chip.pointer_banks == 2,
        chip.bypass,
        chip.look_ahead,
        chip.keep_row,
    )
    cycles, held_back = run_clock(switches, stream, state)
    counts = torch.from_numpy(state.counts)
    total = counts.sum(dim=0).tolist()
    # row i is local row i // n_pe of PE i mod n_pe
    out = torch.from_numpy(state.sums.T.reshape(-1)[: matrix.n_out].copy())
    return EIERun(
        chip=chip,
        out=out.clamp(min=0) if relu else out,
        cycles=int(cycles),
        n_batches=len(stream.leads),
        held_back=int(held_back),
        busy=counts[:, BUSY],
        starved=counts[:, STARVED],
        empty=counts[:, EMPTY],
        stalled=counts[:, STALLED],
        accesses=EIEAccesses(
            entries=total[BUSY],
            pads=total[PADS],
            broadcasts=len(stream.acts),
            queue_writes=len(stream.acts) * chip.n_pe,
            pointer_reads=total[POINTERS],
            spmat_reads=total[SPMAT],
            act_sram_reads=int(loads.reads.sum()) * chip.n_pe,
            act_sram_writes=0,
            act_loads=matrix.n_in if loads.reads.any() else 0,
            bypassed=total[BYPASSED],
        ),
    )


@dataclass(frozen=True, eq=False)
class _Loads:
    """Batches of columns.

    Attributes:
        starts: (n_batches + 1,) int64, first column of each, and n_in.
        reads: (n_batches,) int64, reads of each PE's activation SRAM before it.
    """

    starts: Ints
    reads: Ints

    @staticmethod
    def of(matrix: EIEMatrix, chip: EIEChip) -> "_Loads":
        held = chip.n_pe * chip.registers
        by_registers = np.arange(0, matrix.n_in, held)
        starts = np.union1d(matrix.batch_starts.numpy(), np.append(by_registers, matrix.n_in)).astype(
            np.int64
        )
        reads = np.zeros(len(starts) - 1, np.int64)
        if matrix.n_in > held:
            a_read = chip.act_sram_width // ACT_BITS
            of_a_pe = -(-np.diff(starts) // chip.n_pe)
            reads = -(-of_a_pe // a_read)
        return _Loads(starts, reads)


def _stream(matrix: EIEMatrix, acts: np.ndarray, chip: EIEChip, loads: _Loads) -> Stream:
    columns = np.flatnonzero(acts).astype(np.int64)
    weights_batch = np.searchsorted(matrix.batch_starts.numpy(), columns, side="right") - 1
    return Stream(
        acts=acts[columns],
        # a batch has one pointer more than columns
        slots=columns + weights_batch,
        weights_batch=weights_batch,
        starts=np.searchsorted(columns, loads.starts).astype(np.int64),
        leads=loads.reads + chip.lnzd_levels,
        pointers=matrix.pointers.numpy(),
        bases=matrix.bases.numpy(),
        codes=matrix.codes.numpy(),
        skips=matrix.skips.numpy(),
        codebook=matrix.codebook.double().numpy(),
    )
