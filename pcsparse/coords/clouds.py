"""How many clouds a batch has, and that the batch column names no other."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcsparse.coords.sorted_keys import SortedKeys
from pcsparse.errors import RangeError


def ask_clouds(coords: Tensor, given: int | None) -> int:
    """The number of clouds of `coords` (n, 4) int32; the host waits for their device.

    Args:
        coords: columns (batch, x, y, z).
        given: what the number is said to be; one more than the largest batch index if None.

    Raises:
        RangeError: a batch index is negative or not below `given`.
    """
    if coords.shape[0] == 0:
        return checked_clouds(given, 0, -1)
    # one pass; amin and amax of a strided column take twelve times as long
    low, high = torch.stack(coords[:, 0].aminmax()).tolist()
    return checked_clouds(given, low, high)


def checked_clouds(given: int | None, low: int, high: int) -> int:
    """The number of clouds, where batch indices span `low` to `high`; -1 is no index.

    Raises:
        RangeError: a batch index is negative or not below `given`.
    """
    if given is not None and given < 0:
        raise RangeError(f"batch_size must be at least 0, got {given}")
    if low < 0 or (given is not None and high >= given):
        raise RangeError(
            f"batch indices span {low} to {high}, but batch_size is {given}; the first column is the batch"
        )
    return high + 1 if given is None else given


@dataclass(eq=False)
class Claims:
    """How many clouds coordinate sets are said to have, by the numbers of the sets, until somebody looks."""

    _of: dict[int, int] = field(default_factory=dict)

    def add(self, coords: Tensor, token: int, n_clouds: int, known: SortedKeys | None) -> None:
        """Believe that `coords` have at most `n_clouds`, unless their keys are there and say otherwise.

        Raises:
            RangeError: they say so, or `n_clouds` is negative.
        """
        checked_clouds(n_clouds, 0, -1)
        if not len(coords):
            return
        if known is None:
            # of two claims the stricter one
            self._of[token] = min(n_clouds, self._of.get(token, n_clouds))
        elif known.extent.low[0] < 0 or known.extent.high[0] >= n_clouds:
            # bounds may be wider than what is there
            ask_clouds(coords, n_clouds)

    def settle(self, coords: Tensor, token: int) -> None:
        """Look now; the host waits where there is a claim."""
        if token in self._of:
            ask_clouds(coords, self._of[token])
            del self._of[token]

    def keys_of(
        self, coords: Tensor, token: int, make: Callable[[Tensor], SortedKeys] = SortedKeys.of
    ) -> SortedKeys:
        """The keys of `coords`, whose extent settles a claim.

        Args:
            coords: (n, 4) int32.
            token: number of the set.
            make: what makes the keys.

        Raises:
            RangeError: it was wrong; or see `SortedKeys.of`.
        """
        try:
            found = make(coords)
        except RangeError:
            # the batch column has words of its own for what is wrong with it
            self.settle(coords, token)
            raise
        if token in self._of:
            checked_clouds(self._of[token], found.extent.low[0], found.extent.high[0])
            del self._of[token]
        return found
