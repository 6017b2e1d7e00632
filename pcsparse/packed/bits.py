"""Streams of values that are a few bits wide each, with no room between them."""

import numpy as np
import numpy.typing as npt

from pcsparse.errors import FormatError, RangeError

# of values a step: eight bytes of bits a value while it is taken apart
_STEP = 1 << 18


def pack_bits(values: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Write values one after the other, the lowest bit first, into bytes that are filled from the lowest bit.

    Args:
        values: (n,) uint8, each below 2^width.
        width: bits a value, 1 to 8.

    Returns:
        (ceil(n * width / 8),) uint8; bits beyond the last value are 0.

    Raises:
        RangeError: a value does not fit into `width` bits.
    """
    if len(values) and int(values.max()) >> width:
        raise RangeError(f"a value of {int(values.max())} does not fit into {width} bits")
    # a multiple of eight values fills whole bytes, whatever the width
    steps = [
        np.packbits(
            np.unpackbits(values[i : i + _STEP, None], axis=1, bitorder="little")[:, :width].ravel(),
            bitorder="little",
        )
        for i in range(0, len(values), _STEP)
    ]
    return np.concatenate(steps) if steps else np.zeros(0, np.uint8)


def unpack_bits(packed: npt.NDArray[np.uint8], width: int, n: int) -> npt.NDArray[np.uint8]:
    """Read back `n` values that `pack_bits` wrote.

    Args:
        packed: (ceil(n * width / 8),) uint8.
        width: bits a value, 1 to 8.
        n: values.

    Raises:
        FormatError: another number of bytes, or bits beyond the last value that are not 0.
    """
    wanted = -(-n * width // 8)
    if len(packed) != wanted:
        raise FormatError(f"{n} values of {width} bits take {wanted} bytes, got {len(packed)}")
    values = np.zeros(n, np.uint8)
    step_bytes = _STEP * width // 8
    for i in range(0, n, _STEP):
        start = i * width // 8
        bits = np.unpackbits(packed[start : start + step_bytes], bitorder="little")
        here = min(_STEP, n - i)
        if bits[here * width :].any():
            raise FormatError(f"bits after the last of {n} values are set; the stream is damaged")
        values[i : i + here] = np.packbits(
            bits[: here * width].reshape(here, width), axis=1, bitorder="little"
        ).ravel()
    return values
