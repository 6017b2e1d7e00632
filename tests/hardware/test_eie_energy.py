"""Energy from counted accesses."""

import pytest
import torch

from pcsparse.hardware.eie import simulate
from pcsparse.hardware.eie_chip import EIEChip
from pcsparse.hardware.eie_energy import SPMAT_READ, EIEAccesses, EIEEnergy, sram
from pcsparse.packed.eie import EIEFormat
from tests.hardware.packed_layers import random_layer


def test_each_module_is_priced_by_hand():
    accesses = EIEAccesses(
        entries=100, pads=7, broadcasts=10, queue_writes=40, pointer_reads=80, spmat_reads=20,
        act_sram_reads=3, act_sram_writes=2, act_loads=12, bypassed=5,
    )  # fmt: skip
    energy = EIEEnergy.of(accesses, EIEChip(n_pe=4, sram_width=128, act_sram_width=64))
    assert energy.queue == pytest.approx(40 * 2)
    assert energy.pointers == pytest.approx(80 * 2.5)
    assert energy.spmat == pytest.approx(20 * 20)
    assert energy.arithmetic == pytest.approx(100 * (1 + 0.62 + 0.1 + 0.1))
    assert energy.activations == pytest.approx(10 + 12 + 200 + 5 * 10)
    assert energy.total == pytest.approx(80 + 200 + 400 + 182 + 272)


def test_a_run_has_both_energies(rng):
    matrix, acts = random_layer(rng, 100, 60, 0.2, 0.5, EIEFormat())
    run = simulate(matrix, acts)
    assert run.energy == EIEEnergy.of(run.accesses, run.chip)
    # 0.59 W: pJ = 590 x nanoseconds
    assert run.power_energy == pytest.approx(run.chip.milliwatt * run.cycles / 0.8)


def test_wider_reads_cost_more_and_less_a_bit():
    assert sram(32) == 5.0
    assert torch.tensor(list(SPMAT_READ.values())).diff().min() > 0
    assert torch.tensor([energy / width for width, energy in SPMAT_READ.items()]).diff().max() < 0
