"""Kernel mapping by a hash table on chip, as parallel as PointAcc's merger: the design to compare with.

A table of slots with a key and a row number, spread over n single-ported banks by the low bits of the slot's
number. n lanes each hold a request; in a cycle a bank serves one of the lanes that want it, the one that
waited longest, and a lane that finds its slot taken by another key goes on to the next slot, which is in the
next bank. A lane that is done takes the next request at once and does not wait for the others, nor for the
hash function, the crossbar or the DRAM. So this is kind to the hash: it can only be slower.

First all inputs are put in, then for each offset all outputs look for their input. Where a table is too small
for all inputs, it is filled again and again, and all outputs look into each filling.

The paper compares with a hash design too and finds merging ~1.4x faster and ~14x smaller (unverified); its
hash design is not known here, so that ours is no reproduction of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcsparse.coords.kernel_map import Pairs
from pcsparse.errors import RangeError
from pcsparse.hardware.compiled import jit_model
from pcsparse.hardware.pointacc_chip import check_width
from pcsparse.hardware.pointacc_cycles import Ints, Rows
from pcsparse.hardware.pointacc_mapping import check_ascending
from pcsparse.kernels.key_layout import NO_KEY

# at most this share of the slots is filled
_LOAD = 2
# spreads neighbouring keys: the golden ratio in 64 bits
_MIX = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass(frozen=True)
class HashCost:
    """What the hash design takes.

    Attributes:
        build: cycles to fill the table.
        probe: cycles to look up.
        accesses: of banks.
        conflicts: cycles of lanes that waited for a bank.
        table_bytes: of all banks.
    """

    build: int
    probe: int
    accesses: int
    conflicts: int
    table_bytes: int

    @property
    def cycles(self) -> int:
        """All."""
        return self.build + self.probe


@jit_model
def _run_requests(
    keys: Ints, rows: Ints, delta: int, insert: bool, table: Ints, held: Rows, waits: Ints, found: Ints,
    counts: Ints,
) -> Any:  # fmt: skip
    """Send all requests through the lanes; cycles."""
    n_banks, mask, shift = len(waits), len(table) - 1, 0
    while (1 << shift) < len(table):
        shift += 1
    lane_key, lane_slot = np.empty(n_banks, np.int64), np.empty(n_banks, np.int64)
    lane_request = np.full(n_banks, -1, np.int64)
    served = np.empty(n_banks, np.int64)
    cycles, sent, done = 0, 0, 0
    while done < len(keys):
        served[:] = -1
        for lane in range(n_banks):
            if lane_request[lane] < 0 and sent < len(keys):
                lane_request[lane] = sent
                lane_key[lane] = keys[sent] + delta
                # the high bits of a product depend on all bits of the key
                lane_slot[lane] = ((lane_key[lane] * _MIX) >> (64 - shift)) & mask
                waits[lane] = 0
                sent += 1
            if lane_request[lane] >= 0:
                bank = lane_slot[lane] & (n_banks - 1)
                if served[bank] < 0 or waits[lane] > waits[served[bank]]:
                    served[bank] = lane
        for lane in range(n_banks):
            if lane_request[lane] < 0:
                continue
            slot = lane_slot[lane]
            if served[slot & (n_banks - 1)] != lane:
                waits[lane] += 1
                counts[1] += 1
                continue
            counts[0] += 1
            waits[lane] = 0
            if table[slot] == NO_KEY or table[slot] == lane_key[lane]:
                request = lane_request[lane]
                if insert:
                    table[slot] = lane_key[lane]
                    held[slot] = rows[request]
                elif table[slot] != NO_KEY:
                    found[request] = held[slot]
                lane_request[lane] = -1
                done += 1
            else:
                lane_slot[lane] = (slot + 1) & mask
        cycles += 1
    return cycles


def hash_kernel_map(
    inputs: Tensor, queries: Tensor, deltas: Tensor, n_banks: int, *, slots: int | None = None
) -> tuple[Pairs, HashCost]:
    """The pairs of `pointacc_mapping.kernel_map`, by look-up.

    Args:
        inputs: (n,) int64, ascending unique keys.
        queries: (m,) int64, ascending unique keys.
        deltas: (k,) int64.
        n_banks: banks and lanes, a power of two.
        slots: of the table, a power of two, at least 2 n_banks; None takes the least that holds all inputs at
            a load of one half.

    Raises:
        RangeError: keys do not ascend; `n_banks` or `slots` are no such numbers.
    """
    check_ascending("inputs", inputs)
    check_ascending("queries", queries)
    check_width(n_banks)
    slots = slots or max(2 * n_banks, 1 << (_LOAD * max(len(inputs), 1) - 1).bit_length())
    if slots & (slots - 1) or slots < 2 * n_banks:
        raise RangeError(f"slots must be a power of two, at least {2 * n_banks}, got {slots}")
    table, held = np.empty(slots, np.int64), np.zeros(slots, np.int32)
    waits, counts = np.zeros(n_banks, np.int64), np.zeros(2, np.int64)
    wanted, matched = queries.numpy(), np.full((len(deltas), len(queries)), -1)
    build = probe = 0
    for first in range(0, len(inputs), slots // _LOAD):
        part = inputs.numpy()[first : first + slots // _LOAD]
        table.fill(NO_KEY)
        rows = np.arange(first, first + len(part))
        build += _run_requests(part, rows, 0, True, table, held, waits, rows, counts)
        for offset, delta in enumerate(deltas.tolist()):
            probe += _run_requests(wanted, rows, delta, False, table, held, waits, matched[offset], counts)
    offsets, rows_out = np.nonzero(matched >= 0)
    starts = np.searchsorted(offsets, np.arange(len(deltas) + 1))
    pairs = Pairs(
        torch.from_numpy(matched[offsets, rows_out].astype(np.int32)),
        torch.from_numpy(rows_out.astype(np.int32)),
        torch.from_numpy(starts.astype(np.int64)),
    )
    # a key of 8 bytes and a row number of 4
    return pairs, HashCost(int(build), int(probe), int(counts[0]), int(counts[1]), 12 * slots)
