"""A coordinate set as the searches of maps read it: sorted keys, and where their rows are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.coords.keys import Extent, pack_and_compare, scaled
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of
from pcsparse.types import Triple


@dataclass(frozen=True, eq=False)
class SortedKeys:
    """The keys of one coordinate set in ascending order, and where each one's row is.

    Attributes:
        keys: (n,) int64, ascending, unique.
        order: (n,) int32 rows, or None where the rows already ascend.
        extent: bounds of the coordinates, known to the host so that it need not ask the device again.
    """

    keys: Tensor
    order: Tensor | None
    extent: Extent

    @staticmethod
    def of(coords: Tensor) -> "SortedKeys":
        """Sort the keys of `coords` (n, 4) int32.

        Raises:
            RangeError: a coordinate leaves the range of a key, or two rows are equal.
        """
        keys, extent, ascending = pack_and_compare(coords)
        return SortedKeys(keys, None, extent) if ascending else SortedKeys.of_packed(coords, keys, extent)

    @staticmethod
    def of_packed(coords: Tensor, keys: Tensor, extent: Extent) -> "SortedKeys":
        """Sort `keys` (n,) int64 of `coords` (n, 4), which do not ascend and whose `extent` fits.

        Raises:
            RangeError: two rows are equal.
        """
        ordered, order = backend_of(keys).sort_keys(keys, (extent.low, extent.high))
        if not backend_of(keys).ascend(ordered):
            unique, _, first = backend_of(keys).unique_keys(keys)
            row = int(_first_repeat(first, keys.numel()))
            raise RangeError(
                f"{keys.numel() - unique.numel()} of {keys.numel()} coordinates are duplicates, first at row "
                f"{row}: {coords[row].tolist()}; merge them with voxelize and voxel_reduce"
            )
        return SortedKeys(ordered, order, extent)

    @staticmethod
    def made(keys: Tensor, bounds: Extent) -> "SortedKeys":
        """Of voxels that a layer makes, in ascending order.

        Args:
            keys: (m,) int64, ascending, unique.
            bounds: of their coordinates, from arithmetic; the voxels are looked at only where these are too
                wide for a key.

        Raises:
            RangeError: a voxel leaves the range of a key; from within the guard the next step could wrap.
        """
        found = SortedKeys(keys, None, bounds)
        if bounds.fits:
            return found
        exact = found.exact_extent()
        exact.check()
        return SortedKeys(keys, None, exact)

    def exact_extent(self) -> Extent:
        """The smallest and largest coordinates, asked of the device."""
        return Extent(*backend_of(self.keys).key_extent(self.keys))

    def check_scaled(self, stride: Triple) -> None:
        """Raise RangeError unless a key holds stride * every coordinate.

        Raises:
            RangeError: one leaves the range of a key.
        """
        if stride != (1, 1, 1) and not self.extent.moved(stride).fits:
            self.exact_extent().moved(stride).check()

    def scaled(self, stride: Triple) -> Tensor:
        """Keys of stride * coordinates, (n,) int64, in the order of `keys`, as scaling keeps it.

        Raises:
            RangeError: one leaves the range of a key.
        """
        self.check_scaled(stride)
        return self.keys if stride == (1, 1, 1) else scaled(self.keys, stride)


def _first_repeat(first: Tensor, n: int) -> Tensor:
    kept = torch.zeros(n, dtype=torch.bool, device=first.device)
    kept[first] = True
    return torch.nonzero(~kept)[0, 0]
