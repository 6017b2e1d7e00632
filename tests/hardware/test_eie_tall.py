"""Layers of more rows than the registers hold."""

import pytest
import torch

from pcsparse.errors import ShapeError
from pcsparse.hardware.eie import simulate
from pcsparse.hardware.eie_chip import EIEChip
from pcsparse.hardware.eie_tall import pack_tall, row_batches, simulate_tall
from tests.hardware.packed_layers import BOOK

CHIP = EIEChip(n_pe=4, registers=8)


def layer(rng, n_out):
    codes = torch.randint(1, 16, (n_out, 20), generator=rng)
    codes = (codes * (torch.rand(n_out, 20, generator=rng) < 0.3)).to(torch.uint8)
    return codes, torch.arange(20).float() % 3


@pytest.mark.parametrize(("n_out", "rows"), [(0, []), (1, [1]), (32, [32]), (33, [32, 1]), (70, [32, 32, 6])])
def test_batches_of_rows(n_out, rows):
    assert row_batches(n_out, CHIP) == rows


@pytest.mark.parametrize("n_out", [0, 5, 32, 33, 70])
def test_the_product_is_that_of_all_rows(rng, n_out):
    codes, acts = layer(rng, n_out)
    run = simulate_tall(pack_tall(codes, BOOK, CHIP), acts, CHIP, relu=True)
    assert torch.equal(run.out, (BOOK[codes.int()].double() @ acts.double()).clamp(min=0))


def test_runs_add_up_and_each_writes_its_sums(rng):
    codes, acts = layer(rng, 70)
    matrices = pack_tall(codes, BOOK, CHIP)
    run, parts = simulate_tall(matrices, acts, CHIP), [simulate(matrix, acts, CHIP) for matrix in matrices]

    # 8, 8 and 2 rows a PE at four a write
    assert run.cycles == sum(part.cycles for part in parts) + 2 + 2 + 1
    assert run.accesses.act_sram_writes == 4 * 5
    assert run.accesses.entries == sum(part.accesses.entries for part in parts)
    assert run.n_batches == 3
    assert torch.equal(run.busy + run.starved + run.empty + run.stalled, torch.full((4,), run.cycles))


def test_one_matrix_is_a_plain_run(rng):
    codes, acts = layer(rng, 30)
    matrices = pack_tall(codes, BOOK, CHIP)
    assert len(matrices) == 1
    assert simulate_tall(matrices, acts, CHIP).cycles == simulate(matrices[0], acts, CHIP).cycles
    assert simulate_tall(matrices, acts, CHIP).accesses.act_sram_writes == 0


def test_no_matrix_is_refused():
    with pytest.raises(ShapeError, match="at least one matrix"):
        simulate_tall([], torch.zeros(3), CHIP)
