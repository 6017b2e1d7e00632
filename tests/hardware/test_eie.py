"""The cycle model of EIE: products, cycles against the recurrences, counters, options, refusals."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pcsparse.errors import DtypeError, RangeError, ShapeError
from pcsparse.hardware.eie import simulate
from pcsparse.hardware.eie_chip import EIEChip
from pcsparse.packed.eie import EIEFormat, pack_eie
from tests.hardware.oracle_eie_cycles import batch_cycles, sram_reads
from tests.hardware.packed_layers import BOOK, dense_product, random_layer

# pipeline of a single entry: broadcast, pointers, pair, fetch, four stages
FILL = 8


def column(codes: list[int]) -> torch.Tensor:
    return torch.tensor(codes, dtype=torch.uint8)[:, None]


def test_the_vector_of_the_paper():
    matrix = pack_eie(column([0, 0, 1, 2] + [0] * 18 + [3]), BOOK, EIEFormat(n_pe=1))
    run = simulate(matrix, torch.tensor([2.0]))

    assert run.out.tolist() == [0, 0, -14, -12] + [0] * 18 + [-10]
    assert (run.accesses.entries, run.accesses.pads) == (4, 1)
    assert run.busy.tolist() == [4]
    # three more entries than one
    assert run.cycles == FILL + 3


def test_sixteen_rows_eight_columns_four_pes_counted_by_hand():
    """The geometry of the paper's figure 2; zeros of the vector leave columns 2, 4 and 5."""
    codes = torch.zeros(16, 8, dtype=torch.uint8)
    # rows 0, 4, 8, 12 are PE 0's; column 3 is not read
    codes[[0, 4, 8], 2] = 1
    codes[[1, 13], 2] = 2
    codes[:, 3] = 9
    codes[12, 4] = 3
    codes[[3, 7, 11, 15], 5] = 8
    acts = torch.tensor([0.0, 0, 3, 0, 1, 2, 0, 0])
    run = simulate(pack_eie(codes, BOOK, EIEFormat(n_pe=4)), acts)

    assert run.out.tolist() == [-21, -18, 0, 2, -21, 0, 0, 2, -21, 0, 0, 2, -5, -18, 0, 2]
    assert run.busy.tolist() == [4, 2, 0, 4]
    assert run.empty.tolist() == [1, 2, 3, 2]
    # one level of the tree; column 5 is sent in cycle 2, so PE 3 is at it from 4 to 7 (PE 0 ends before);
    # five cycles to drain
    assert run.cycles == 1 + 8 + 5
    assert run.accesses.broadcasts == 3
    assert run.accesses.queue_writes == 12
    assert run.accesses.pointer_reads == 3 * 4 * 2
    # a row of eight entries: PE 0 two columns, PE 1 one, PE 3 one
    assert run.accesses.spmat_reads == 4
    assert run.accesses.entries == 10


def test_one_entry_takes_the_pipeline_and_the_tree():
    codes = torch.zeros(64, 1, dtype=torch.uint8)
    codes[5] = 4
    run = simulate(pack_eie(codes, BOOK), torch.tensor([1.0]))
    assert run.cycles == FILL + 3
    assert run.busy.sum() == 1


@pytest.mark.parametrize("gap", [14, 15, 16, 31, 32, 33])
@pytest.mark.parametrize("relu", [False, True])
def test_runs_of_zeros(gap, relu):
    matrix = pack_eie(column([0] * gap + [1, 15]), BOOK, EIEFormat(n_pe=1))
    out = simulate(matrix, torch.tensor([3.0]), relu=relu).out
    assert out.tolist() == [0.0] * gap + ([0.0, 24.0] if relu else [-21.0, 24.0])


@pytest.mark.parametrize("n_out", [1, 63, 130])
@pytest.mark.parametrize("n_pe", [1, 3, 4, 64])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.6])
def test_the_product_is_exact(rng, n_out, n_pe, density):
    matrix, acts = random_layer(rng, n_out, 70, density, 0.5, EIEFormat(n_pe=n_pe))
    for relu in (False, True):
        run = simulate(matrix, acts, EIEChip(n_pe=n_pe, registers=130), relu=relu)
        expected = dense_product(matrix, acts)
        assert torch.equal(run.out, expected.clamp(min=0) if relu else expected)


def test_fractions_are_added_in_float64(rng):
    matrix, _ = random_layer(rng, 90, 200, 0.3, 1.0, EIEFormat(n_pe=4))
    matrix = replace(matrix, codebook=BOOK / 7)
    acts = torch.randn(200, generator=rng)
    torch.testing.assert_close(
        simulate(matrix, acts).out, dense_product(matrix, acts), rtol=1e-12, atol=1e-12
    )


def test_nothing_active_and_no_columns():
    matrix = pack_eie(torch.ones(8, 5, dtype=torch.uint8), BOOK, EIEFormat(n_pe=4))
    run = simulate(matrix, torch.zeros(5))
    assert run.out.tolist() == [0.0] * 8
    assert (run.cycles, run.accesses.entries, run.efficiency) == (1, 0, 0.0)
    nothing = simulate(
        pack_eie(torch.zeros(8, 0, dtype=torch.uint8), BOOK, EIEFormat(n_pe=4)), torch.zeros(0)
    )
    assert (nothing.cycles, nothing.efficiency, nothing.real_work) == (0, 1.0, 1.0)


def expected_cycles(matrix, acts, chip, batches) -> int:
    total, counts = 0, matrix.column_counts
    for first, last, lead in batches:
        active = [j for j in range(first, last) if acts[j] != 0]
        total += lead + batch_cycles(counts[:, active].T.tolist(), chip.fifo_depth)
    return total


@pytest.mark.parametrize("depth", [1, 2, 3, 8, 10_000])
@pytest.mark.parametrize(("n_pe", "levels"), [(1, 0), (5, 2), (64, 3)])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.4])
def test_cycles_are_those_of_the_recurrences(rng, depth, n_pe, levels, density):
    matrix, acts = random_layer(rng, 7 * n_pe + 1, 60, density, 0.7, EIEFormat(n_pe=n_pe))
    chip = EIEChip(n_pe=n_pe, fifo_depth=depth)
    assert simulate(matrix, acts, chip).cycles == expected_cycles(matrix, acts, chip, [(0, 60, levels)])


def test_columns_beyond_the_registers_are_batches_with_loads(rng):
    # 2 PEs of 16 registers: 32 columns a batch, of 16, 16 and 9 activations a PE at 4 a read
    matrix, acts = random_layer(rng, 30, 81, 0.3, 0.6, EIEFormat(n_pe=2))
    chip = EIEChip(n_pe=2, registers=16)
    run = simulate(matrix, acts, chip)
    assert run.cycles == expected_cycles(matrix, acts, chip, [(0, 32, 5), (32, 64, 5), (64, 81, 4)])
    assert run.n_batches == 3
    assert run.accesses.act_sram_reads == 2 * (4 + 4 + 3)
    assert run.accesses.act_loads == 81
    assert torch.equal(run.out, dense_product(matrix, acts))


def test_full_pointers_begin_a_batch_too(rng):
    matrix, acts = random_layer(rng, 64, 40, 0.5, 0.8, EIEFormat(n_pe=4, pointer_bits=6))
    assert matrix.n_batches > 3
    chip = EIEChip(n_pe=4)
    starts = matrix.batch_starts.tolist()
    batches = [(first, last, 1) for first, last in pairwise(starts)]
    run = simulate(matrix, acts, chip)
    assert run.cycles == expected_cycles(matrix, acts, chip, batches)
    assert run.accesses.act_sram_reads == 0
    assert torch.equal(run.out, dense_product(matrix, acts))


@pytest.mark.parametrize("chip", [
    EIEChip(n_pe=4), EIEChip(n_pe=4, bypass=False), EIEChip(n_pe=4, look_ahead=True),
    EIEChip(n_pe=4, pointer_banks=1),
    EIEChip(n_pe=4, look_ahead=True, pointer_banks=1, bypass=False, fifo_depth=1),
], ids=["plain", "no-bypass", "look-ahead", "one-bank", "all"])  # fmt: skip
def test_counters_add_up(rng, chip):
    matrix, acts = random_layer(rng, 50, 90, 0.15, 0.5, EIEFormat(n_pe=4))
    run = simulate(matrix, acts, chip)
    active = acts != 0
    here = matrix.column_counts[:, active]

    assert torch.equal(run.busy + run.starved + run.empty + run.stalled, torch.full((4,), run.cycles))
    assert torch.equal(run.busy, here.sum(dim=1))
    weights = int((matrix.unpack()[:, active] > 0).sum())
    assert run.accesses.entries == weights + run.accesses.pads == int(here.sum())
    assert run.accesses.broadcasts == int(active.sum())
    assert run.accesses.pointer_reads == 2 * 4 * int(active.sum())
    assert torch.equal(run.empty, (here == 0).sum(dim=1) * (not chip.look_ahead))
    assert run.theoretical_cycles == int(here.sum()) / 4
    assert run.efficiency == pytest.approx(float(run.busy.sum()) / (4 * run.cycles))
    assert torch.equal(run.out, dense_product(matrix, acts))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("width", [8, 32, 64, 512])
def test_sram_reads_are_counted_row_by_row(rng, width, keep):
    matrix, acts = random_layer(rng, 40, 60, 0.3, 0.7, EIEFormat(n_pe=2))
    ends = matrix.column_counts.cumsum(dim=1).tolist()
    active = acts.nonzero()[:, 0].tolist()
    expected = sum(
        sram_reads([(pe[j - 1] if j else 0, pe[j]) for j in active], width // 8, keep) for pe in ends
    )
    run = simulate(matrix, acts, EIEChip(n_pe=2, sram_width=width, keep_row=keep))
    assert run.accesses.spmat_reads == expected
    assert run.cycles == simulate(matrix, acts).cycles


def test_endless_queues_leave_the_slowest_pe_and_the_pipeline(rng):
    matrix, acts = random_layer(rng, 16 * 9, 400, 0.2, 0.6, EIEFormat(n_pe=16))
    run = simulate(matrix, acts, EIEChip(n_pe=16, fifo_depth=1 << 20))
    slowest = int(matrix.column_counts[:, acts != 0].clamp(min=1).sum(dim=1).max())
    assert slowest <= run.cycles <= slowest + 2 + FILL
    assert run.held_back == 0


def test_deeper_queues_never_cost_cycles(rng):
    matrix, acts = random_layer(rng, 64 * 8, 300, 0.15, 0.7, EIEFormat())
    cycles = [simulate(matrix, acts, EIEChip(fifo_depth=1 << i)).cycles for i in range(9)]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > 1.8 * cycles[3]


def test_activations_are_held_back_by_a_full_queue():
    # 5 entries a column: at depth 1 the next one leaves when the pair is through, 7 cycles after the last one
    matrix = pack_eie(torch.full((5, 3), 2, dtype=torch.uint8), BOOK, EIEFormat(n_pe=1))
    run = simulate(matrix, torch.ones(3), EIEChip(n_pe=1, fifo_depth=1))
    assert run.held_back == 2 * 6
    assert run.cycles == 2 * 7 + FILL + 4
    assert int(run.starved) == run.cycles - 15


def test_a_batch_of_other_weights_reads_its_first_row_anew():
    # pointers of 3 bits: three columns of two entries a batch, the second in another row 0 of the SRAM
    matrix = pack_eie(torch.ones(2, 6, dtype=torch.uint8), BOOK, EIEFormat(n_pe=1, pointer_bits=3))
    assert matrix.n_batches == 2
    assert simulate(matrix, torch.ones(6), EIEChip(n_pe=1, keep_row=True)).accesses.spmat_reads == 2


def test_adjacent_entries_of_a_row_use_the_bypass_or_wait():
    # one row: every entry adds to the sum of the one before it
    matrix = pack_eie(torch.full((1, 20), 15, dtype=torch.uint8), BOOK, EIEFormat(n_pe=1))
    acts = torch.arange(1.0, 21.0)
    fast = simulate(matrix, acts)
    slow = simulate(matrix, acts, EIEChip(n_pe=1, bypass=False))

    assert fast.out.tolist() == slow.out.tolist() == [8.0 * 210]
    assert fast.accesses.bypassed == 19
    assert (slow.accesses.bypassed, int(fast.stalled)) == (0, 0)
    assert slow.cycles == fast.cycles + 19
    assert int(slow.stalled) == 19


def test_one_bank_takes_a_cycle_more_a_column():
    matrix = pack_eie(torch.full((3, 20), 2, dtype=torch.uint8), BOOK, EIEFormat(n_pe=1))
    acts = torch.ones(20)
    assert (
        simulate(matrix, acts, EIEChip(n_pe=1, pointer_banks=1)).cycles == simulate(matrix, acts).cycles + 20
    )
    ahead = EIEChip(n_pe=1, pointer_banks=1, look_ahead=True)
    # a second pair is read while the first is at work, so only the first one waits
    assert simulate(matrix, acts, ahead).cycles <= simulate(matrix, acts).cycles + 2


def test_looking_ahead_hides_empty_slices_behind_long_ones():
    codes = torch.zeros(4, 40, dtype=torch.uint8)
    codes[:, ::4] = 3
    matrix, acts = pack_eie(codes, BOOK, EIEFormat(n_pe=1)), torch.ones(40)
    plain, ahead = simulate(matrix, acts), simulate(matrix, acts, EIEChip(n_pe=1, look_ahead=True))
    assert plain.cycles == 3 + 70 - 1 + 5 - 3
    assert ahead.cycles < plain.cycles - 25
    assert torch.equal(ahead.out, plain.out)


def test_the_chip_of_the_paper_is_the_default():
    chip = EIEChip()
    assert (chip.n_pe, chip.fifo_depth, chip.clock, chip.sram_width, chip.registers) == (64, 8, 8e8, 64, 64)


@pytest.mark.parametrize(
    ("acts", "chip", "error", "text"),
    [
        (torch.ones(4), None, ShapeError, r"activations must have shape \(5\)"),
        (torch.ones(5, dtype=torch.int64), None, DtypeError, "activations must be float16"),
        (torch.tensor([1.0, 1, float("nan"), 1, 1]), None, RangeError, "activation 2 is nan"),
        (torch.ones(5), EIEChip(), RangeError, r"packed for 4 PEs and the chip has 64.*EIEFormat\(n_pe=64\)"),
        (torch.ones(5), EIEChip(n_pe=4, registers=2), RangeError, r"3 rows a PE.*2 sums.*registers=3"),
    ],
)
def test_wrong_input_is_refused(acts, chip, error, text):
    matrix = pack_eie(torch.ones(12, 5, dtype=torch.uint8), BOOK, EIEFormat(n_pe=4))
    with pytest.raises(error, match=text):
        simulate(matrix, acts, chip)


def test_a_run_leaves_its_chip_and_the_inputs_alone(rng):
    matrix, acts = random_layer(rng, 40, 30, 0.2, 0.5, EIEFormat(n_pe=4))
    before = acts.clone()
    first, second = simulate(matrix, acts), simulate(matrix, acts)
    assert torch.equal(acts, before)
    assert (first.cycles, first.accesses) == (second.cycles, second.accesses)
    assert replace(first.chip) == second.chip
