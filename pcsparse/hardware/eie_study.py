"""EIE's evaluation again: the nine layers on one chip, and the five sweeps of its design space.

Sweeps: depth of the queues (figure 8), width of the sparse-matrix SRAM (9), number of PEs: speed-up (11),
share of work that is not padding (12), load balance at the chip's depth (13).
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcsparse.hardware.eie import EIERun, simulate
from pcsparse.hardware.eie_chip import EIEChip
from pcsparse.hardware.eie_energy import SPMAT_READ
from pcsparse.hardware.eie_layers import (
    EIELayer,
    draw_activations,
    draw_codes,
    exact_product,
    stand_in_codebook,
)
from pcsparse.hardware.eie_tall import pack_tall, row_batches, simulate_tall
from pcsparse.hardware.eie_theory import padded_cycles, slice_floor_cycles
from pcsparse.packed.eie import EIEFormat, EIEMatrix, pack_eie

DEPTHS = tuple(1 << i for i in range(9))
PES = tuple(1 << i for i in range(9))
WIDTHS = tuple(SPMAT_READ)


@dataclass(frozen=True)
class OnePass:
    """A layer with more rows than sums fit, on a chip whose registers hold them all; microseconds."""

    closed_us: float
    theory_us: float
    actual_us: float


@dataclass(frozen=True)
class LayerResult:
    """A layer on the chip.

    Attributes:
        layer: what was drawn.
        n_weights: that are not zero.
        closed_us: closed form with pads, of the slices as they are packed.
        floor_us: closed form of what the PEs with most rows need if each empty slice costs a cycle.
        theory_us: simulated entries, pads included, over PEs.
        actual_us: simulated.
        energy_uj: by accesses.
        power_uj: published power times simulated time.
        exact: whether the product equals the dense one, bit for bit.
        row_batches: runs that its rows took.
        one_pass: what a single one would be; None where it is one.
        misfits: what of it is larger than the published SRAMs.
        seconds: of the processor that the simulation took, packing not included.
    """

    layer: EIELayer
    n_weights: int
    closed_us: float
    floor_us: float
    theory_us: float
    actual_us: float
    energy_uj: float
    power_uj: float
    exact: bool
    row_batches: int
    one_pass: OnePass | None
    misfits: tuple[str, ...]
    seconds: float

    @property
    def ratio(self) -> float:
        """Actual over theoretical time."""
        return self.actual_us / self.theory_us


@dataclass(frozen=True)
class LayerCurves:
    """A layer in the sweeps; each tuple is as long as its axis.

    Attributes:
        name: of the layer.
        efficiency: by `DEPTHS`, entries over PEs' cycles.
        reads: by `WIDTHS`, of the sparse-matrix SRAM.
        reads_kept: the same with `EIEChip.keep_row`.
        cycles: by `PES`.
        real_work: by `PES`, share of entries that are no pads.
        balance: by `PES`, entries over PEs' cycles.
    """

    name: str
    efficiency: tuple[float, ...]
    reads: tuple[int, ...]
    reads_kept: tuple[int, ...]
    cycles: tuple[int, ...]
    real_work: tuple[float, ...]
    balance: tuple[float, ...]

    @property
    def speedup(self) -> tuple[float, ...]:
        """Over one PE."""
        return tuple(self.cycles[0] / cycles for cycles in self.cycles)


@dataclass(frozen=True, eq=False)
class _Drawn:
    layer: EIELayer
    codes: Tensor
    acts: Tensor

    @staticmethod
    def of(layer: EIELayer, seed: int) -> "_Drawn":
        return _Drawn(layer, draw_codes(layer, seed), draw_activations(layer, seed + 1))

    def packed(self, chip: EIEChip) -> tuple[EIEMatrix, ...]:
        return pack_tall(self.codes, stand_in_codebook(), chip)


def run_layers(
    layers: Iterable[EIELayer], chip: EIEChip, seed: int, *, curves: bool
) -> Iterator[tuple[LayerResult, LayerCurves | None]]:
    """Draw each layer, run it, and sweep it.

    Args:
        layers: to draw.
        chip: of the results and, but for what is swept, of the curves.
        seed: layer i has the seeds 1000 seed + 2 i and one more.
        curves: whether to sweep, which takes some fifty simulations a layer.
    """
    _compile(chip)
    for i, layer in enumerate(layers):
        drawn = _Drawn.of(layer, 1000 * seed + 2 * i)
        matrices = drawn.packed(chip)
        result = _result(drawn, matrices, chip)
        yield result, _curves(drawn, matrices, chip) if curves else None


def _compile(chip: EIEChip) -> None:
    """A first run, so that no layer's seconds have the compiler in them."""
    codes = torch.ones(1, 1, dtype=torch.uint8, device="cpu")
    simulate(
        pack_eie(codes, stand_in_codebook(), EIEFormat(n_pe=chip.n_pe)), torch.ones(1, device="cpu"), chip
    )


def _result(drawn: _Drawn, matrices: tuple[EIEMatrix, ...], chip: EIEChip) -> LayerResult:
    layer, widths = drawn.layer, matrices[0].format
    # of this thread: what else the machine does must not count
    begin = time.thread_time()
    run = simulate_tall(matrices, drawn.acts, chip)
    seconds = time.thread_time() - begin
    parts = [replace(layer, n_out=rows) for rows in row_batches(layer.n_out, chip)]
    misfits = [misfit for matrix in matrices for misfit in chip.misfits(matrix)]
    return LayerResult(
        layer=layer,
        n_weights=int(drawn.codes.count_nonzero()),
        closed_us=1e6 * chip.seconds(sum(padded_cycles(part, widths) for part in parts)),
        floor_us=1e6 * chip.seconds(sum(slice_floor_cycles(part, widths) for part in parts)),
        theory_us=run.theoretical_microseconds,
        actual_us=run.microseconds,
        energy_uj=run.energy.total / 1e6,
        power_uj=run.power_energy / 1e6,
        exact=torch.equal(run.out, exact_product(drawn.codes, stand_in_codebook(), drawn.acts)),
        row_batches=len(matrices),
        one_pass=_one_pass(drawn, chip) if len(matrices) > 1 else None,
        misfits=tuple(dict.fromkeys(misfits)),
        seconds=seconds,
    )


def _one_pass(drawn: _Drawn, chip: EIEChip) -> OnePass:
    large = replace(chip, registers=-(-drawn.layer.n_out // chip.n_pe))
    matrices = drawn.packed(large)
    run = simulate_tall(matrices, drawn.acts, large)
    closed = padded_cycles(drawn.layer, matrices[0].format)
    return OnePass(1e6 * chip.seconds(closed), run.theoretical_microseconds, run.microseconds)


def _curves(drawn: _Drawn, matrices: tuple[EIEMatrix, ...], chip: EIEChip) -> LayerCurves:
    def on(chip: EIEChip) -> EIERun:
        return simulate_tall(matrices, drawn.acts, chip)

    wide = [replace(chip, sram_width=width) for width in WIDTHS]
    by_pe = [_at_pes(drawn, chip, n_pe) for n_pe in PES]
    return LayerCurves(
        name=drawn.layer.name,
        efficiency=tuple(on(replace(chip, fifo_depth=depth)).efficiency for depth in DEPTHS),
        reads=tuple(on(each).accesses.spmat_reads for each in wide),
        reads_kept=tuple(on(replace(each, keep_row=True)).accesses.spmat_reads for each in wide),
        cycles=tuple(run.cycles for run in by_pe),
        real_work=tuple(run.real_work for run in by_pe),
        balance=tuple(run.efficiency for run in by_pe),
    )


def _at_pes(drawn: _Drawn, chip: EIEChip, n_pe: int) -> EIERun:
    """Other PEs, but registers for 4K in all at any number, so that batches of rows and columns stay."""
    some = replace(chip, n_pe=n_pe, registers=chip.n_pe * chip.registers // n_pe)
    return simulate_tall(drawn.packed(some), drawn.acts, some)
