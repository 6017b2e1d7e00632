"""Parameters in more bits than the features, as they are under autocast.

Operators narrow them within, so that what autograd asks for is the gradient of the wide ones: a sum over all
pairs, which in 16 bits loses digits, and beyond 65,504 in float16 is infinity.
"""

import torch
from torch import Tensor

from pcsparse.lack_of_memory import raise_with_sizes, rows_of

_HALVES = (torch.float16, torch.bfloat16)


def is_narrow(feats: Tensor) -> bool:
    """Whether features have 16 bits."""
    return feats.dtype in _HALVES


def narrowed(part: Tensor, feats: Tensor) -> Tensor:
    """`part` in the dtype of `feats` if that has 16 bits; else as it is, for whoever checks dtypes."""
    return part.to(feats.dtype) if is_narrow(feats) else part


def cast_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Feature rows (n, c) in another dtype, and as they are in the same.

    Raises:
        OutOfMemoryError: memory does not suffice.
    """
    if rows.dtype == dtype:
        return rows
    try:
        return rows.to(dtype)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"a copy in {str(dtype).removeprefix('torch.')} of {rows_of(rows)}")


def unread(part: Tensor, dtype: torch.dtype) -> Tensor:
    """What a cast of `part` would be, for checks that read no values; without memory."""
    return part.new_empty((), dtype=dtype).expand(part.shape)
