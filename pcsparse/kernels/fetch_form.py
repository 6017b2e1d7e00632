"""How eight threads share a row in `fetch_on_demand`, and what that takes, from a layer's sizes alone."""

from dataclasses import dataclass
from functools import lru_cache

LANES = 8
"""Threads of a row: their loads of 16 bytes are one pass over all banks of shared memory."""
MOST_SHARED = 48 << 10
"""Bytes of shared memory that a block gets for the asking, on every GPU."""
_BYTES_A_LOAD = 16
# input channels of a thread and step
_TOGETHER = 2


@dataclass(frozen=True)
class FetchForm:
    """A way to share a row.

    Attributes:
        lanes: threads side by side over output channels; the other 8 / lanes over input channels.
        width: output channels of a block.
        outs: blocks side by side, that all output channels are owned.
        steps: of a pair, two input channels a thread each.
        shared: bytes of shared memory, with the weights of all offsets to a block's output channels.
        bytes_a_pair: of shared memory that are read for a pair, in all blocks.
    """

    lanes: int
    width: int
    outs: int
    steps: int
    shared: int
    bytes_a_pair: int


def fetch_forms(k: int, c_in: int, c_out: int, itemsize: int) -> tuple[FetchForm, ...]:
    """All ways whose weights fit shared memory, the one that reads least of it first.

    Args:
        k: kernel offsets.
        c_in: input channels.
        c_out: output channels.
        itemsize: bytes of a weight, 2 or 4.
    """
    # a thread must own a sum where eight of them have met
    fewest = itemsize // 2
    found = [_form(k, c_in, c_out, itemsize, lanes) for lanes in (1, 2, 4, 8) if lanes >= fewest]
    # of equal ones that with the fewest blocks, which all fetch the same features
    found = sorted(found, key=lambda form: (form.bytes_a_pair, form.outs, form.shared))
    return tuple(form for form in found if form.shared <= MOST_SHARED)


@lru_cache(maxsize=4096)
def fetch_form(k: int, c_in: int, c_out: int, itemsize: int, lanes: int = 0) -> FetchForm:
    """The way of `fetch_forms` with `lanes` side by side, or the best one for 0."""
    forms = fetch_forms(k, c_in, c_out, itemsize)
    return next(form for form in forms if lanes in (0, form.lanes))


def _form(k: int, c_in: int, c_out: int, itemsize: int, lanes: int) -> FetchForm:
    width = lanes * _BYTES_A_LOAD // itemsize
    outs, steps = -(-c_out // width), -(-c_in // (_TOGETHER * LANES // lanes))
    bytes_a_step = _TOGETHER * LANES * _BYTES_A_LOAD
    return FetchForm(lanes, width, outs, steps, k * steps * bytes_a_step, outs * steps * bytes_a_step)
