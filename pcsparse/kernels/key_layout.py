"""The bits of a packed key, and how many pairs a map may have: facts that all kernels share.

High to low: batch 11, x 18, y 18, z 16 bits; 63 in all, so a key is never negative. Fields are biased.
"""

from pcsparse.errors import RangeError

SHIFTS = (34, 16, 0)
BATCH_SHIFT = 52
FIELD_BITS = (18, 18, 16)
BIAS = tuple(1 << (bits - 1) for bits in FIELD_BITS)
NO_KEY = (1 << 63) - 1
"""Larger than every key."""

MOST_PAIRS = 2**31 - 1
MOST_OFFSETS = 2**21
"""A search packs the number of an offset into 21 bits, above 42 of its position."""


def key_holds(low: tuple[int, ...], high: tuple[int, ...]) -> bool:
    """Whether the fields of a key hold coordinates from `low` to `high`, (batch, x, y, z) each."""
    (b, x, y, z), (b_end, x_end, y_end, z_end) = low, high
    (x_bias, y_bias, z_bias), batches = BIAS, 1 << (63 - BATCH_SHIFT)
    return (
        b >= 0 and x >= -x_bias and y >= -y_bias and z >= -z_bias
        and b_end < batches and x_end < x_bias and y_end < y_bias and z_end < z_bias
    )  # fmt: skip


def check_pair_count(n_pairs: int, n_in: int, n_out: int, k: int) -> None:
    """Raise RangeError where positions in the lists of a map would not fit into int32.

    Args:
        n_pairs: counted in 64 bits, before anything is allocated for them.
        n_in: input rows.
        n_out: output rows.
        k: kernel offsets.

    Raises:
        RangeError: more than `MOST_PAIRS` pairs.
    """
    if n_pairs > MOST_PAIRS:
        raise RangeError(
            f"{n_pairs} pairs of {n_in} and {n_out} voxels at {k} offsets are more than 32-bit positions can "
            f"tell apart ({MOST_PAIRS}); use a smaller kernel or batch"
        )


def check_offset_count(k: int) -> None:
    """Raise RangeError where the number of an offset would not fit into a hit of the search.

    Args:
        k: kernel offsets, counted before anything is made for each.

    Raises:
        RangeError: more than `MOST_OFFSETS` offsets.
    """
    if k > MOST_OFFSETS:
        raise RangeError(
            f"{k} kernel offsets are more than one search can number ({MOST_OFFSETS}); use a smaller kernel"
        )
