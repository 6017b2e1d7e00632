"""Agreement with the twins, without which nothing is timed."""

from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

# room above the random walk of rounding errors
_FACTOR = 8.0


@dataclass(frozen=True)
class Check:
    """How far a result is from its twin's.

    Attributes:
        what: the result.
        error: largest difference as a share of the twin's largest value, or what the check says instead; inf
            if shapes differ, nan if the result is.
        limit: the largest error allowed.
    """

    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number and within its limit."""
        return self.error <= self.limit


def check_close(
    what: str, actual: Tensor, expected: Tensor, terms: float, dtype: torch.dtype = torch.float32
) -> Check:
    """Compare a result that was summed in float32 with its float64 twin.

    Args:
        what: name of the result.
        actual: the result.
        expected: float64.
        terms: products summed into one value; the limit is eps * sqrt(terms) * 8, because rounding errors
            walk at random.
        dtype: in which the result is stored; 16 bits add their own rounding.
    """
    limit = _FACTOR * torch.finfo(torch.float32).eps * sqrt(max(terms, 1.0))
    if dtype.itemsize < torch.float32.itemsize:
        limit += torch.finfo(dtype).eps
    if actual.shape != expected.shape:
        return Check(what, inf, limit)
    if expected.numel() == 0:
        return Check(what, 0.0, limit)
    difference = (actual.double() - expected).abs().max()
    return Check(what, float(difference / expected.abs().max()), limit)


def check_norm(what: str, actual: Tensor, expected: Tensor, limit: float) -> Check:
    """Compare by length: the error is |actual - expected| / |expected|."""
    if actual.shape != expected.shape:
        return Check(what, inf, limit)
    return Check(what, float((actual.double() - expected).norm() / expected.norm()), limit)


def check_scale(what: str, actual: Tensor, expected: Tensor, limit: float) -> Check:
    """Compare by length along `expected`: the error is |<actual, expected> / <expected, expected> - 1|.

    Rounding that points anywhere hardly moves it, however long it is; a wrong factor moves it in full.
    """
    if actual.shape != expected.shape:
        return Check(what, inf, limit)
    along = (actual.double() * expected).sum() / expected.square().sum()
    return Check(what, float((along - 1).abs()), limit)


def check_equal(what: str, actual: Tensor, expected: Tensor) -> Check:
    """Compare integers: the error is the number of entries that differ."""
    if actual.shape != expected.shape:
        return Check(what, inf, 0.0)
    return Check(what, float((actual != expected).sum()), 0.0)
