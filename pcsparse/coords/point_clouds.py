"""Points and the clouds they belong to: checked, and brought cloud after cloud."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.device_constant import device_constant
from pcsparse.errors import RangeError

_MOST_CLOUDS = 2047


@dataclass(frozen=True, eq=False)
class PointsByCloud:
    """Points cloud after cloud.

    Attributes:
        points: (n, 3) float32, contiguous, without a gradient.
        order: (n,) int64, the row each was given as; None where they were given so.
        starts: (clouds + 1,) int64, the first point of each cloud.
    """

    points: Tensor
    order: Tensor | None
    starts: Tensor


@dataclass(frozen=True)
class Clouds:
    """What is known of clouds.

    Attributes:
        count: up to the highest that has a point.
        ascending: whether points are given cloud after cloud.
    """

    count: int
    ascending: bool


@dataclass(frozen=True, eq=False)
class GivenPoints:
    """Points or queries with their clouds, as they are given.

    Attributes:
        name: for errors.
        points: (n, 3) float32, metres.
        batch: (n,) integer, the cloud of each point; None for one cloud.
        batch_name: for errors.
    """

    name: str
    points: Tensor
    batch: Tensor | None
    batch_name: str

    def check_form(self) -> None:
        """Raise ShapeError, DtypeError or DeviceError where the tensors cannot be points and clouds."""
        check_shape(self.name, self.points, (None, 3))
        check_dtype(self.name, self.points, torch.float32)
        if self.batch is not None:
            check_shape(self.batch_name, self.batch, (len(self.points),))
            check_dtype(self.batch_name, self.batch, torch.int32, torch.int64)
            check_same_device(**{self.name: self.points, self.batch_name: self.batch})

    def survey(self) -> Tensor:
        """(4,) int64 where the points are: rows not finite, first and last cloud, whether clouds fall."""
        wrong = (~self.points.detach().isfinite().all(dim=1)).sum()
        if self.batch is None or len(self.batch) == 0:
            none = torch.zeros_like(wrong)
            return torch.stack([wrong, none, none - int(self.batch is not None), none])
        low, high = self.batch.aminmax()
        falls = (self.batch[1:] < self.batch[:-1]).any()
        return torch.stack([wrong, low.long(), high.long(), falls.long()])

    def check_values(self, n_wrong: int, low: int, high: int) -> None:
        """Raise RangeError for what `survey` found."""
        if n_wrong:
            row = int(torch.nonzero(~self.points.detach().isfinite().all(dim=1))[0])
            raise RangeError(
                f"{n_wrong} of {len(self.points)} {self.name} are not finite, first at row {row}: "
                f"{self.points[row].tolist()}; drop them first"
            )
        if low < 0 or high >= _MOST_CLOUDS:
            raise RangeError(
                f"{self.batch_name} spans {low} to {high}, but clouds are numbered 0 to {_MOST_CLOUDS - 1}; "
                "renumber them, or split the batch"
            )

    def by_cloud(self, clouds: int, ascending: bool) -> PointsByCloud:
        """The points cloud after cloud, those of a cloud in the order of rows."""
        points, batch = self.points.detach(), self.batch
        if batch is None:
            return PointsByCloud(
                points.contiguous(), None, device_constant([0, len(points)], points, torch.int64)
            )
        order = None if ascending else torch.argsort(batch, stable=True)
        numbers = torch.arange(clouds + 1, dtype=batch.dtype, device=batch.device)
        starts = torch.searchsorted(batch.contiguous() if order is None else batch[order], numbers)
        return PointsByCloud(points.contiguous() if order is None else points[order], order, starts)


def surveyed(*given: GivenPoints) -> list[Clouds]:
    """What the host must know of points and queries, in one copy from their device.

    Raises:
        RangeError: a point that is not finite, or a cloud below 0 or above 2046.
    """
    found = torch.stack([one.survey() for one in given]).tolist()
    for one, (n_wrong, low, high, _) in zip(given, found, strict=True):
        one.check_values(n_wrong, low, high)
    return [Clouds(high + 1, not falls) for _, _, high, falls in found]
