"""Points in metres to voxels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.keys import COORD_MAX, COORD_MIN, Extent, pack, unpack
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.select import backend_of
from pcsparse.lack_of_memory import NamesSizes
from pcsparse.types import Vec3


@dataclass(frozen=True, eq=False)
class Voxels:
    """The occupied voxels of a cloud and who lives in them.

    Attributes:
        coords: (m, 4) int32, columns (batch, x, y, z), unique, ascending by key.
        inverse: (n,) int64; point i lies in voxel `coords[inverse[i]]`.
        first: (m,) int64; the first point of each voxel, in input order.
    """

    coords: Tensor
    inverse: Tensor
    first: Tensor
    _groups: list[KernelMap] = field(init=False, default_factory=list, repr=False)

    def groups(self) -> KernelMap:
        """The map that leads every point to its voxel; made at the first call and kept."""
        if not self._groups:
            # made in inference mode, but used in training too
            with torch.inference_mode(False):
                self._groups.append(KernelMap.of_groups(self.inverse, len(self.coords)))
        return self._groups[0]


def voxelize(
    points: Tensor,
    voxel_size: float | Vec3,
    *,
    batch: Tensor | None = None,
    origin: Vec3 = (0.0, 0.0, 0.0),
) -> Voxels:
    """Group points into voxels.

    Voxel index = floor((point - origin) / voxel_size), computed in float64, so that a point on a face belongs
    to the voxel above it. Serial: safe in the workers of a DataLoader.

    Args:
        points: (n, 3) float32 or float64, metres. Must be finite.
        voxel_size: edge length in metres, > 0; one, or three (x, y, z).
        batch: (n,) integer, the cloud of each point; 0 for all if None.
        origin: three (x, y, z), metres; the corner of voxel (0, 0, 0).

    Returns:
        Voxels; none if n = 0.

    Raises:
        ShapeError: `points` is not (n, 3), `batch` not (n,), `voxel_size` not one number or three, or
            `origin` not three.
        DtypeError: `points` is not float32 or float64, or `batch` not an integer.
        RangeError: `voxel_size` is not positive, `origin` or a point is not finite, or an index leaves the
            range of a key.
        OutOfMemoryError: the device's memory does not suffice; the text names the points.
    """
    check_shape("points", points, (None, 3))
    check_dtype("points", points, torch.float32, torch.float64)
    sizes = _three("voxel_size", voxel_size, "one number or three (x, y, z)")
    if not all(0 < size < math.inf for size in sizes):
        raise RangeError(f"voxel_size must be positive and finite metres, got {voxel_size}")
    from_corner = _three("origin", origin, "three numbers (x, y, z)")
    if not all(map(math.isfinite, from_corner)):
        raise RangeError(f"origin must be finite metres, got {origin}")
    if batch is not None:
        check_shape("batch", batch, (points.shape[0],))
        check_dtype("batch", batch, torch.int32, torch.int64)
    with NamesSizes(lambda: f"the voxels of {len(points)} points"):
        corner = device_constant(from_corner, points, torch.float64)
        one = sizes[0] == sizes[1] == sizes[2]
        # a tensor, also of one: a GPU takes a number's inverse and multiplies, which loses a bit
        edges = device_constant(sizes[:1] if one else sizes, points, torch.float64)
        cells = torch.floor((points.double() - corner) / edges)
        clouds = cells.new_zeros(len(cells), 1, dtype=torch.int64) if batch is None else batch[:, None].long()
        _check_cells(points, cells, clouds, sizes[0] if one else sizes)
        keys = pack(torch.cat([clouds, cells], dim=1).int())
        unique, inverse, first = backend_of(keys).unique_keys(keys)
        return Voxels(unpack(unique), inverse, first)


def _three(name: str, given: object, wanted: str) -> Vec3:
    """Three floats; a single number stands for all three where `wanted` says so."""
    try:
        if isinstance(given, str):
            raise TypeError
        if isinstance(given, Sequence) or getattr(given, "ndim", 0) > 0:
            x, y, z = map(float, given)  # type: ignore[call-overload]
            return x, y, z
        if wanted.startswith("one"):
            return (float(given),) * 3  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        pass
    raise ShapeError(f"{name} must be {wanted} in metres, got {given!r}")


def _check_cells(points: Tensor, cells: Tensor, clouds: Tensor, voxel_size: float | Vec3) -> None:
    """Check before the cast to int, where a large or non-finite value would wrap silently."""
    if not len(cells):
        return
    low, high = (device_constant(end, cells) for end in (COORD_MIN, COORD_MAX))
    # what is not finite is not within
    within = (cells >= low) & (cells <= high)
    # one question to the device
    all_within, first, last = torch.stack([within.all().long(), *clouds.aminmax()]).tolist()
    Extent((first, 0, 0, 0), (last, 0, 0, 0)).check()
    if all_within:
        return
    # of the points: cells of finite ones are not, where voxels are next to nothing
    finite = torch.isfinite(points).all(dim=1)
    if not bool(finite.all()):
        row = int(torch.nonzero(~finite)[0])
        raise RangeError(
            f"{int((~finite).sum())} of {len(points)} points are not finite, first at row {row}: "
            f"{points[row].tolist()}; drop them before voxelising"
        )
    outside = ~within.all(dim=1)
    row = int(torch.nonzero(outside)[0])
    raise RangeError(
        f"{int(outside.sum())} of {len(points)} points lie beyond the key's range at "
        f"voxel_size={voxel_size} m, first at row {row}: {points[row].tolist()} m is voxel "
        f"{cells[row].tolist()}, allowed are {COORD_MIN} to {COORD_MAX}; subtract an origin near the "
        f"cloud, crop it, or enlarge the voxels"
    )
