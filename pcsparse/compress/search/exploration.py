"""Actions drawn around the actor's: a normal distribution cut off at both ends."""

import numpy as np
import torch

from pcsparse.errors import RangeError


def truncated_normal(mean: float, sigma: float, low: float, high: float, rng: np.random.Generator) -> float:
    """One draw of a normal distribution that is cut off at both ends, by inverting its distribution.

    Args:
        mean: of the distribution before it is cut, within the bounds.
        sigma: its standard deviation, > 0.
        low: smallest value.
        high: largest, above `low`.
        rng: of which one number is taken.

    Raises:
        RangeError: a mean outside the bounds, or a sigma that is not above 0.
    """
    if not (low <= mean <= high and low < high and sigma > 0):
        raise RangeError(f"no normal distribution around {mean}, sigma {sigma}, between {low} and {high}")
    ends = torch.special.ndtr(
        torch.tensor([low - mean, high - mean], dtype=torch.float64, device="cpu") / sigma
    )
    share = ends[0] + float(rng.random()) * (ends[1] - ends[0])
    # the inverse of 0 and of 1 is infinite; a mean within the bounds keeps every other value near
    return min(high, max(low, mean + sigma * float(torch.special.ndtri(share))))
