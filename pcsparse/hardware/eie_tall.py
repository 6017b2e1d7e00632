"""Layers with more rows than the registers hold sums: one run a batch of rows, as the paper's batches of 4K.

Each batch of rows is a matrix of its own, packed by itself, because skips cannot cross from one to the next.
All broadcast the whole vector again. After each, the sums go to the activation SRAM, which takes a cycle a
write.

Source: Han et al., EIE (ISCA 2016), section IV, for register files of 64 and batches of 4K. That rows beyond
the destination file are further runs, as columns beyond the source file are further batches, is our reading.
"""

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from pcsparse.errors import ShapeError
from pcsparse.hardware.eie import EIERun, simulate
from pcsparse.hardware.eie_chip import ACT_BITS, EIEChip
from pcsparse.hardware.eie_energy import EIEAccesses
from pcsparse.packed.eie import EIEFormat, EIEMatrix, pack_eie


def row_batches(n_out: int, chip: EIEChip) -> list[int]:
    """Rows of each batch: as many as all destination registers hold; the last has the rest."""
    held = chip.n_pe * chip.registers
    return [min(held, n_out - first) for first in range(0, n_out, held)]


def pack_tall(
    codes: Tensor, codebook: Tensor, chip: EIEChip, widths: EIEFormat | None = None
) -> tuple[EIEMatrix, ...]:
    """Pack a layer as `pack_eie` does, in as many batches of rows as the chip needs.

    Args:
        codes: (n_out, n_in) uint8, at least one row.
        codebook: (2^code_bits,) float32.
        chip: whose registers and PEs count.
        widths: of the format; the chip's number of PEs replaces theirs.

    Returns:
        One matrix for each batch of rows, in order.
    """
    widths = replace(widths or EIEFormat(), n_pe=chip.n_pe)
    parts = codes.split(row_batches(len(codes), chip)) if len(codes) else (codes,)
    return tuple(pack_eie(part, codebook, widths) for part in parts)


def simulate_tall(
    matrices: Sequence[EIEMatrix], activations: Tensor, chip: EIEChip, *, relu: bool = False
) -> EIERun:
    """Run the batches of `pack_tall` one after the other; with one, this is `simulate`.

    Raises:
        ShapeError: no matrix.
        RangeError, DtypeError: as `simulate`.
    """
    if not matrices:
        raise ShapeError("a layer needs at least one matrix, got none; pack it with `pack_tall`")
    runs = [simulate(matrix, activations, chip, relu=relu) for matrix in matrices]
    return runs[0] if len(runs) == 1 else _joined(runs, [_writes(matrix, chip) for matrix in matrices])


def _writes(matrix: EIEMatrix, chip: EIEChip) -> int:
    """Of one PE's sums into its SRAM."""
    return -(-matrix.format.slice_rows(0, matrix.n_out) // (chip.act_sram_width // ACT_BITS))


def _joined(runs: Sequence[EIERun], writes: Sequence[int]) -> EIERun:
    chip, cycles = runs[0].chip, sum(writes)
    added = {
        field.name: sum(getattr(run.accesses, field.name) for run in runs) for field in fields(EIEAccesses)
    }
    return EIERun(
        chip=chip,
        out=torch.cat([run.out for run in runs]),
        cycles=sum(run.cycles for run in runs) + cycles,
        n_batches=sum(run.n_batches for run in runs),
        held_back=sum(run.held_back for run in runs),
        busy=torch.stack([run.busy for run in runs]).sum(dim=0),
        starved=torch.stack([run.starved for run in runs]).sum(dim=0) + cycles,
        empty=torch.stack([run.empty for run in runs]).sum(dim=0),
        stalled=torch.stack([run.stalled for run in runs]).sum(dim=0),
        accesses=EIEAccesses(**{**added, "act_sram_writes": cycles * chip.n_pe}),
    )
