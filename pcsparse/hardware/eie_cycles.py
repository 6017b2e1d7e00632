"""The clock of EIE: every module as combinational logic (`propagate`) and flip-flops (`update`), in Numba.

In one cycle each module of each processing element (PE) looks at registers `q`, as the last clock edge left
them, and writes what they become into `d`; then the edge copies `d` to `q`. Modules are visited from the last
to the first, because "I am ready" runs against the data. What was decided here, where the paper is silent:

- *Central control.* The quadtree of leading-non-zero detectors takes one cycle a level until the first
  activation of a batch is at the root; from then on one (a_j, j) a cycle goes to all queues at once, j
  ascending. Nothing is sent in a cycle that begins with a full queue, be one of its places about to be free.
- *Queues.* A PE works on the head of its queue, which keeps its place until the last entry of its column has
  left: at depth 1 all PEs wait for the slowest at every column. (In the authors' simulator seven wait and
  the eighth is at work.) All queues hold the same stream, so one is
  two numbers: how many broadcasts its PE has begun, and how many it has done with.
- *Pointer read.* Takes (a_j, j) from the queue and reads p_j and p_j+1, in one cycle because they lie in
  banks of odd and even j; with one bank in two. The pair then stays for as many cycles as it has entries, but
  for one at least: **an empty slice costs a cycle**, as in the authors' simulator. With `look_ahead` a second
  pair is read meanwhile, and one without entries is dropped there: it costs a cycle of the pointer SRAM,
  which longer columns hide.
- *Sparse-matrix read.* One entry a cycle out of the row that was read last. Another row, and the first row of
  each column, is an SRAM read, which is counted and costs no cycle, because its address is known one cycle
  ahead. With `keep_row` a column that begins in the row that was read last goes on with it.
- *Arithmetic.* (1) look up the code, add skip + 1 to the row; (2) read the sum, multiply; (3) add; (4) write.
  The sum of the entry two ahead is written in the cycle in which it is read, and the register file hands it
  through; that of the entry one ahead comes over the bypass, and without one stage 2 waits a cycle. Pads go
  the same way.
- *Batches.* As many columns as source registers hold (64 a PE), and no longer than the pointers allow. A
  batch begins when the one before it has left the pipeline. A vector that is longer than the registers comes
  from the activation SRAM, at the beginning of each batch; others are in the registers, where the layer
  before left them.
- *Results* stay where they are: the files swap their roles for the next layer, ReLU is on the way. Rows
  beyond the destination registers are another run, see `eie_tall`.

Source: Han et al., EIE (ISCA 2016), section IV; the two phases, and that an empty slice takes a cycle, from
the authors' C++ simulator (RalphMao/EIE-simulator@7ee0029: src/ptrvec.cpp, src/arithm.cpp). The code is ours.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcsparse.hardware.compiled import jit_model

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# what a slot of the pipeline holds: nothing came, an entry, the cycle of a pair without entries
_NOTHING, _ENTRY, _EMPTY = 0, 1, 2

# registers of a PE. HEAD: broadcasts begun; DONE: with; HALF: one of two pointers is read.
# NEXT_*: pair read ahead. PAIR_*: pair at work. FETCH_*: address at the SRAM; ROW: of the SRAM, read last.
# ONE_* to FOUR_*: stages of arithmetic; ADDRESS: row of the entry that was last in stage 1
(
    HEAD, DONE, HALF,
    NEXT_VALID, NEXT_AT, NEXT_END, NEXT_SENT,
    PAIR_VALID, PAIR_AT, PAIR_END, PAIR_SENT, PAIR_BEGUN,
    FETCH_KIND, FETCH_AT, FETCH_SENT, FETCH_FIRST, ROW,
    ONE_KIND, ONE_AT, ONE_SENT, ONE_FIRST, ADDRESS,
    TWO_VALID, TWO_ADDRESS,
    THREE_VALID, THREE_ADDRESS, THREE_BYPASS,
    FOUR_VALID, FOUR_ADDRESS,
    N_REGISTERS,
) = range(30)  # fmt: skip
TWO_WEIGHT, TWO_ACT, THREE_PRODUCT, THREE_SUM, FOUR_SUM, N_NUMBERS = range(6)

# counters of a PE; the first four add up to all cycles
BUSY, STARVED, EMPTY, STALLED, PADS, POINTERS, SPMAT, BYPASSED, N_COUNTERS = range(9)


class Switches(NamedTuple):
    """What of the chip the clock needs; see `EIEChip`."""

    fifo_depth: int
    entries_a_row: int
    two_banks: bool
    bypass: bool
    look_ahead: bool
    keep_row: bool


class Stream(NamedTuple):
    """A layer as the PEs see it: the non-zero activations in order, and what their memories hold.

    Attributes:
        acts: (n_sent,) float64.
        slots: (n_sent,) int64, where the first of its two pointers stands in a PE's.
        weights_batch: (n_sent,) int64, batch of the matrix.
        starts: (n_batches + 1,) int64, first broadcast of each batch.
        leads: (n_batches,) int64, cycles before the first broadcast of a batch.
        pointers: (n_pe, n_slots) int32.
        bases: (n_weight_batches, n_pe) int64, where entry 0 of a PE is.
        codes: (n_entries,) uint8.
        skips: (n_entries,) uint8.
        codebook: (n_codes,) float64.
    """

    acts: Floats
    slots: Ints
    weights_batch: Ints
    starts: Ints
    leads: Ints
    pointers: NDArray[np.int32]
    bases: Ints
    codes: NDArray[np.uint8]
    skips: NDArray[np.uint8]
    codebook: Floats


class State(NamedTuple):
    """All flip-flops before (`q`) and after (`d`) the next edge, the sums, and the counters.

    Attributes:
        q: (n_pe, N_REGISTERS) int64.
        d: the same.
        numbers_q: (n_pe, N_NUMBERS) float64.
        numbers_d: the same.
        sums: (n_pe, rows of a PE) float64.
        counts: (n_pe, N_COUNTERS) int64.
    """

    q: Ints
    d: Ints
    numbers_q: Floats
    numbers_d: Floats
    sums: Floats
    counts: Ints


def fresh_state(n_pe: int, rows: int) -> State:
    """Everything zero, as after a reset."""
    registers, numbers = (n_pe, N_REGISTERS), (n_pe, N_NUMBERS)
    return State(
        np.zeros(registers, np.int64),
        np.zeros(registers, np.int64),
        np.zeros(numbers),
        np.zeros(numbers),
        np.zeros((n_pe, max(rows, 1))),
        np.zeros((n_pe, N_COUNTERS), np.int64),
    )


@jit_model
def _propagate_arithmetic(pe: int, chip: Switches, stream: Stream, state: State) -> Any:
    """Four stages; whether the first takes another entry."""
    q, d, x, y, counts = state.q, state.d, state.numbers_q, state.numbers_d, state.counts
    # 3: add. The operand of a bypassed entry is the sum that its predecessor got in the cycle before
    operand = x[pe, FOUR_SUM] if q[pe, THREE_BYPASS] else x[pe, THREE_SUM]
    y[pe, FOUR_SUM] = operand + x[pe, THREE_PRODUCT]
    d[pe, FOUR_VALID] = q[pe, THREE_VALID]
    d[pe, FOUR_ADDRESS] = q[pe, THREE_ADDRESS]
    # 2: read the sum, multiply
    address = q[pe, TWO_ADDRESS]
    hit = q[pe, TWO_VALID] and q[pe, THREE_VALID] and q[pe, THREE_ADDRESS] == address
    if hit and not chip.bypass:
        d[pe, THREE_VALID] = 0
        counts[pe, STALLED] += 1
        return False
    d[pe, THREE_VALID] = q[pe, TWO_VALID]
    d[pe, THREE_ADDRESS] = address
    d[pe, THREE_BYPASS] = hit
    y[pe, THREE_PRODUCT] = x[pe, TWO_WEIGHT] * x[pe, TWO_ACT]
    if q[pe, TWO_VALID]:
        through = q[pe, FOUR_VALID] and q[pe, FOUR_ADDRESS] == address
        y[pe, THREE_SUM] = x[pe, FOUR_SUM] if through else state.sums[pe, address]
        counts[pe, BYPASSED] += hit
    # 1: look up the code, find the row
    kind = q[pe, ONE_KIND]
    d[pe, TWO_VALID] = kind == _ENTRY
    if kind == _ENTRY:
        entry = q[pe, ONE_AT]
        code = stream.codes[entry]
        above = -1 if q[pe, ONE_FIRST] else q[pe, ADDRESS]
        row = above + stream.skips[entry] + 1
        d[pe, ADDRESS] = row
        d[pe, TWO_ADDRESS] = row
        y[pe, TWO_WEIGHT] = stream.codebook[code]
        y[pe, TWO_ACT] = stream.acts[q[pe, ONE_SENT]]
        counts[pe, BUSY] += 1
        counts[pe, PADS] += code == 0
    else:
        counts[pe, EMPTY if kind == _EMPTY else STARVED] += 1
    return True


@jit_model
def _propagate_sparse_matrix(pe: int, ready: bool, chip: Switches, stream: Stream, state: State) -> None:
    """Reads the row of the address, if it is another one, and hands out one entry of it."""
    q, d = state.q, state.d
    if not ready:
        return
    d[pe, ONE_KIND] = q[pe, FETCH_KIND]
    if q[pe, FETCH_KIND] == _ENTRY:
        row = q[pe, FETCH_AT] // chip.entries_a_row
        if row != q[pe, ROW] or (q[pe, FETCH_FIRST] and not chip.keep_row):
            d[pe, ROW] = row
            state.counts[pe, SPMAT] += 1
        sent = q[pe, FETCH_SENT]
        d[pe, ONE_AT] = stream.bases[stream.weights_batch[sent], pe] + q[pe, FETCH_AT]
        d[pe, ONE_SENT] = sent
        d[pe, ONE_FIRST] = q[pe, FETCH_FIRST]


@jit_model
def _take(pe: int, sent: int, chip: Switches, state: State) -> Any:
    """Whether the pair of the queue's head is read in this cycle."""
    q, d = state.q, state.d
    if q[pe, HEAD] >= sent:
        return False
    if not chip.two_banks and not q[pe, HALF]:
        d[pe, HALF] = 1
        state.counts[pe, POINTERS] += 1
        return False
    d[pe, HALF] = 0
    d[pe, HEAD] = q[pe, HEAD] + 1
    state.counts[pe, POINTERS] += 2 if chip.two_banks else 1
    return True


@jit_model
def _propagate_pointers(
    pe: int, ready: bool, sent: int, chip: Switches, stream: Stream, state: State
) -> None:
    """Hands out the addresses of a pair one by one, and reads the next pair when the last one leaves."""
    q, d = state.q, state.d
    free = not q[pe, PAIR_VALID]
    if ready:
        d[pe, FETCH_KIND] = _NOTHING
        if q[pe, PAIR_VALID]:
            at, end = q[pe, PAIR_AT], q[pe, PAIR_END]
            free = at + 1 >= end
            d[pe, DONE] += free
            d[pe, FETCH_KIND] = _ENTRY if at < end else _EMPTY
            d[pe, FETCH_AT] = at
            d[pe, FETCH_SENT] = q[pe, PAIR_SENT]
            d[pe, FETCH_FIRST] = not q[pe, PAIR_BEGUN]
            d[pe, PAIR_AT] = at + 1
            d[pe, PAIR_BEGUN] = 1
    if free:
        d[pe, PAIR_VALID] = 0
    head = q[pe, HEAD]
    if chip.look_ahead:
        room = free or not q[pe, NEXT_VALID]
        if free and q[pe, NEXT_VALID]:
            d[pe, PAIR_VALID] = 1
            d[pe, PAIR_AT] = q[pe, NEXT_AT]
            d[pe, PAIR_END] = q[pe, NEXT_END]
            d[pe, PAIR_SENT] = q[pe, NEXT_SENT]
            d[pe, PAIR_BEGUN] = 0
            d[pe, NEXT_VALID] = 0
        if room and _take(pe, sent, chip, state):
            slot = stream.slots[head]
            d[pe, NEXT_AT] = stream.pointers[pe, slot]
            d[pe, NEXT_END] = stream.pointers[pe, slot + 1]
            d[pe, NEXT_SENT] = head
            d[pe, NEXT_VALID] = d[pe, NEXT_AT] < d[pe, NEXT_END]
            d[pe, DONE] += not d[pe, NEXT_VALID]
    elif free and _take(pe, sent, chip, state):
        slot = stream.slots[head]
        d[pe, PAIR_VALID] = 1
        d[pe, PAIR_AT] = stream.pointers[pe, slot]
        d[pe, PAIR_END] = stream.pointers[pe, slot + 1]
        d[pe, PAIR_SENT] = head
        d[pe, PAIR_BEGUN] = 0


@jit_model
def _propagate_control(sent: int, last: int, chip: Switches, state: State) -> Any:
    """Whether an activation may be sent: no queue is full."""
    if sent == last:
        return False
    full = False
    for pe in range(len(state.q)):
        full |= sent - state.q[pe, DONE] >= chip.fifo_depth
    return not full


@jit_model
def _update(pe: int, state: State) -> Any:
    """The clock edge of one PE; whether its pipeline holds anything."""
    q, d = state.q, state.d
    if q[pe, FOUR_VALID]:
        state.sums[pe, q[pe, FOUR_ADDRESS]] = state.numbers_q[pe, FOUR_SUM]
    for i in range(N_REGISTERS):
        q[pe, i] = d[pe, i]
    for i in range(N_NUMBERS):
        state.numbers_q[pe, i] = state.numbers_d[pe, i]
    held = q[pe, NEXT_VALID] or q[pe, PAIR_VALID] or q[pe, FETCH_KIND] or q[pe, ONE_KIND]
    return held or q[pe, TWO_VALID] or q[pe, THREE_VALID] or q[pe, FOUR_VALID]


@jit_model
def run_clock(chip: Switches, stream: Stream, state: State) -> Any:
    """Run until all is written.

    Returns:
        Cycles, and those in which a full queue kept an activation back.
    """
    n_pe = len(state.q)
    cycles, held_back, sent = 0, 0, 0
    for batch in range(len(stream.leads)):
        cycles += stream.leads[batch]
        for pe in range(n_pe):
            state.counts[pe, STARVED] += stream.leads[batch]
            # what the row buffer holds may be of another batch
            state.q[pe, ROW] = state.d[pe, ROW] = -1
        last = stream.starts[batch + 1]
        active = sent < last
        while active:
            send = _propagate_control(sent, last, chip, state)
            held_back += sent < last and not send
            for pe in range(n_pe):
                ready = _propagate_arithmetic(pe, chip, stream, state)
                _propagate_sparse_matrix(pe, ready, chip, stream, state)
                _propagate_pointers(pe, ready, sent, chip, stream, state)
            sent += send
            active = sent < last
            for pe in range(n_pe):
                if _update(pe, state) or state.q[pe, HEAD] < sent:
                    active = True
            cycles += 1
    return cycles, held_back
