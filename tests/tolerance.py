"""How far two ways to compute the same sum may differ: the only place a tolerance is written."""

from math import sqrt

import torch


def tolerance(dtype: torch.dtype, terms: int, factor: float = 8.0, *, roundings: int = 1) -> dict[str, float]:
    """Keyword arguments of `torch.testing.assert_close` for results of order one.

    Both bounds are `eps * sqrt(terms) * factor`, where eps belongs to the type that accumulates: the
    rounding errors of a sum walk at random, so they grow with the root of its length. 16-bit features
    accumulate in float32, and only storing a result rounds to 16 bits.

    Args:
        dtype: of the features and the result under test.
        terms: number of products summed into one result; 0 counts as 1.
        factor: room above the random walk; also the place to put the size of results far from one.
        roundings: how many times a value is stored in a 16-bit `dtype` on its way; unused for wider ones.
    """
    narrow = dtype in (torch.float16, torch.bfloat16)
    accumulator = torch.float32 if narrow else dtype
    bound = torch.finfo(accumulator).eps * sqrt(max(terms, 1)) * factor
    if narrow:
        bound += torch.finfo(dtype).eps * roundings
    return {"rtol": bound, "atol": bound}
