"""SparseTensor: features at the occupied voxels of a batch of clouds."""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import as_triple, check_dtype, check_same_device, check_shape
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.clouds import ask_clouds, checked_clouds
from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.voxelize import Voxels, voxelize
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.lack_of_memory import NamesSizes, raise_with_sizes, rows_of
from pcsparse.types import Triple, Vec3

_DENSE_BYTES = 4 << 30


class SparseTensor:
    """Features (n, c) at coordinates (n, 4), with a cache of kernel maps that all derived tensors share.

    Coordinates are level indices: metres = origin + index * stride * voxel_size,
    axis by axis. Rows may stand in any order
    and must be unique; they are checked when the first map is built.

    `DistributedDataParallel(find_unused_parameters=True)` looks for tensors in what a module returns, and
    finds none in a SparseTensor: return `.feats` from the module that is wrapped.

    Attributes:
        feats: (n, c) float.
        coords: (n, 4) int32, columns (batch, x, y, z). Not to be changed in place: a compiled network
            would go on with the maps of before.
        stride: (x, y, z), cells of the finest level a cell of this one spans.
        batch_size: number of clouds, empty ones included.
        cache: maps and levels, shared by everything computed from this tensor.

    Args:
        feats: (n, c).
        coords: (n, 4) int32.
        stride: of the level.
        batch_size: at least the largest batch index + 1; that number if None.
        cache: a new one if None.

    Raises:
        ShapeError: shapes disagree.
        DtypeError: `coords` is not int32.
        RangeError: a batch index is negative or not below `batch_size`. Where `coords` are on a GPU and
            `batch_size` is given, the host does not wait for them: the first map of them raises it.
    """

    __slots__ = ("batch_size", "cache", "coords", "feats", "stride")

    # a scalar of numpy on the left leaves arithmetic to this class
    __array_ufunc__ = None

    def __init__(
        self,
        feats: Tensor,
        coords: Tensor,
        *,
        stride: int | Triple = 1,
        batch_size: int | None = None,
        cache: CoordCache | None = None,
    ) -> None:
        check_shape("feats", feats, (None, None))
        check_shape("coords", coords, (feats.shape[0], 4))
        check_dtype("coords", coords, torch.int32)
        self.feats, self.coords = feats, coords
        self.stride = as_triple("stride", stride, 1)
        self.cache = CoordCache() if cache is None else cache
        if batch_size is not None and _host_waits_for(coords):
            self.cache.expect_clouds(coords, batch_size)
            self.batch_size = batch_size
        else:
            self.batch_size = ask_clouds(coords, batch_size)

    @staticmethod
    def from_points(
        points: Tensor,
        feats: Tensor,
        voxel_size: float | Vec3,
        *,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        origin: Vec3 = (0.0, 0.0, 0.0),
    ) -> "tuple[SparseTensor, Voxels]":
        """Voxelise a cloud; each voxel takes the features of its first point.

        Args:
            points: (n, 3) float32 or float64, metres.
            feats: (n, c).
            voxel_size: edge length in metres; one, or three (x, y, z).
            batch: (n,) integer cloud of each point; None for one cloud, which may be empty.
            batch_size: number of clouds, empty ones included; 1 if `batch` is None.
            origin: metres.

        Returns:
            The tensor, and the Voxels that bring its rows back to the points: `x.feats[voxels.inverse]`.

        Raises:
            ShapeError: `feats` has another number of rows.
            ShapeError, DtypeError, RangeError, OutOfMemoryError: see `coords.voxelize`.
        """
        check_shape("feats", feats, (points.shape[0], None))
        voxels = voxelize(points, voxel_size, batch=batch, origin=origin)
        with NamesSizes(lambda: f"a cloud of {len(voxels.coords)} voxels with {feats.shape[1]} channels"):
            if batch is None:
                # all in cloud 0: nothing to ask the device for
                n_clouds = (
                    1 if batch_size is None else checked_clouds(batch_size, 0, 0 if len(points) else -1)
                )
                return _known(feats[voxels.first], voxels.coords, (1, 1, 1), n_clouds, CoordCache()), voxels
            return SparseTensor(feats[voxels.first], voxels.coords, batch_size=batch_size), voxels

    @staticmethod
    def from_dense(dense: Tensor, *, lower: Triple = (0, 0, 0), stride: int | Triple = 1) -> "SparseTensor":
        """The cells of a dense grid in which any channel is not zero.

        Args:
            dense: (batch, c, x, y, z) float.
            lower: coordinate of the grid's first cell.
            stride: of the level.

        Raises:
            ShapeError: `dense` is not five-dimensional.
        """
        check_shape("dense", dense, (None,) * 5)
        cells = torch.nonzero((dense.detach() != 0).any(dim=1))
        feats = dense.permute(0, 2, 3, 4, 1)[cells[:, 0], cells[:, 1], cells[:, 2], cells[:, 3]]
        coords = (cells + device_constant([0, *lower], cells)).int()
        return SparseTensor(feats, coords, stride=stride, batch_size=dense.shape[0])

    def dense(self, *, lower: Triple | None = None, upper: Triple | None = None) -> tuple[Tensor, Triple]:
        """A dense grid, zero where no voxel is; differentiable.

        Args:
            lower: coordinate of the first cell; the smallest one if None.
            upper: coordinate of the last cell; the largest one if None.

        Returns:
            (batch_size, c, x, y, z), dtype of `feats`, and the coordinate of its first cell.

        Raises:
            RangeError: a voxel lies outside the given box, two rows share a cell, or the grid would take more
                than 4 GiB.
            OutOfMemoryError: the device's memory does not suffice.
        """
        space = self.coords[:, 1:]
        low, high = lower or _ends(space, torch.amin), upper or _ends(space, torch.amax)
        self._check_box(low, high)
        shape = tuple(b - a + 1 for a, b in zip(low, high, strict=True))
        cells = self.batch_size * shape[0] * shape[1] * shape[2]
        needed = cells * self.feats.shape[1] * self.feats.element_size()
        if needed > _DENSE_BYTES:
            raise RangeError(
                f"a dense grid of {shape} cells needs {needed / 2**30:.1f} GiB; give a smaller box"
            )
        try:
            places = (space - device_constant(low, space)).long()
            index = [self.coords[:, 0].long(), *places.unbind(dim=1)]
            grid = self.feats.new_zeros(self.batch_size, *shape, self.feats.shape[1])
            return grid.index_put(tuple(index), self.feats).permute(0, 4, 1, 2, 3), low
        except (RuntimeError, MemoryError) as error:
            raise_with_sizes(error, lambda: f"a dense grid of {shape} cells for {rows_of(self.feats)}")

    def _check_box(self, low: Triple, high: Triple) -> None:
        # two rows in one cell would leave only the last one
        extent = self.cache.sorted_keys(self.coords).extent
        if not len(self) or extent.within(low, high):
            return
        space = self.coords[:, 1:]
        outside = ((space < device_constant(low, space)) | (space > device_constant(high, space))).any(dim=1)
        if bool(outside.any()):
            raise RangeError(
                f"{int(outside.sum())} of {len(self)} voxels lie outside the box {low} to {high}; widen it"
            )

    def replace(self, feats: Tensor) -> "SparseTensor":
        """Other features (n, *) at the same coordinates, sharing the cache.

        Raises:
            ShapeError: `feats` has another number of rows.
        """
        coords = self.coords
        if feats.dim() != 2 or feats.shape[0] != coords.shape[0]:
            check_shape("feats", feats, (None, None))
            check_shape("coords", coords, (feats.shape[0], 4))
        return _known(feats, coords, self.stride, self.batch_size, self.cache)

    def at(self, feats: Tensor, coords: Tensor, stride: Triple) -> "SparseTensor":
        """Features at another level of the same clouds, sharing the cache.

        Args:
            feats: (m, c).
            coords: (m, 4) int32, a level that the cache derived from this one's; its batch column is not
                checked.
            stride: of that level.

        Raises:
            ShapeError: `feats` and `coords` differ in rows.
        """
        if feats.dim() != 2 or coords.shape != (feats.shape[0], 4):
            check_shape("feats", feats, (None, None))
            check_shape("coords", coords, (feats.shape[0], 4))
        return _known(feats, coords, stride, self.batch_size, self.cache)

    def to(self, *args: Any, **kwargs: Any) -> "SparseTensor":
        """Move to a device (the cache is built anew there) or convert the features, as `torch.Tensor.to`.

        Raises:
            OutOfMemoryError: the device's memory does not suffice.
        """
        try:
            feats = self.feats.to(*args, **kwargs)
            if feats.device == self.coords.device:
                return self.replace(feats)
            # what the old cache was told and has not looked at yet
            self.cache.check_clouds(self.coords)
            coords = self.coords.to(feats.device)
        except (RuntimeError, MemoryError) as error:
            raise_with_sizes(error, lambda: f"a copy of {rows_of(self.feats)}")
        return _known(feats, coords, self.stride, self.batch_size, CoordCache())

    def cpu(self) -> "SparseTensor":
        """On the CPU."""
        return self.to("cpu")

    def cuda(self, device: torch.device | str = "cuda") -> "SparseTensor":
        """On a CUDA device."""
        return self.to(device)

    def float(self) -> "SparseTensor":
        """With float32 features."""
        return self.to(torch.float32)

    def half(self) -> "SparseTensor":
        """With float16 features."""
        return self.to(torch.float16)

    def detach(self) -> "SparseTensor":
        """Features out of the graph."""
        return self.replace(self.feats.detach())

    @property
    def device(self) -> torch.device:
        """Where the features live."""
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        return self.feats.dtype

    def __len__(self) -> int:
        """Number of voxels."""
        return self.feats.shape[0]

    def __getitem__(self, clouds: int | slice) -> "SparseTensor":
        """The clouds of a batch, numbered from 0; an integer gives one cloud.

        Raises:
            RangeError: no such cloud.
            UnsupportedError: neither an integer nor a slice; the text says how to keep some voxels or clouds.
        """
        if not isinstance(clouds, slice):
            clouds = _cloud_number(clouds)
            if not -self.batch_size <= clouds < self.batch_size:
                raise RangeError(f"cloud {clouds} of a batch of {self.batch_size}")
            clouds = slice(clouds % self.batch_size, clouds % self.batch_size + 1)
        self.cache.check_clouds(self.coords)
        wanted = range(self.batch_size)[clouds]
        number = torch.full((self.batch_size + 1,), -1, dtype=torch.int32, device=self.coords.device)
        number[list(wanted)] = torch.arange(len(wanted), dtype=torch.int32, device=number.device)
        batch = number[self.coords[:, 0].long()]
        rows = torch.nonzero(batch >= 0).squeeze(1)
        coords = torch.cat([batch[rows, None], self.coords[rows, 1:]], dim=1)
        return _known(self.feats[rows], coords, self.stride, len(wanted), CoordCache())

    def __iter__(self) -> Iterator["SparseTensor"]:
        """The clouds of the batch, one after the other; `len` counts voxels."""
        return (self[number] for number in range(self.batch_size))

    def _with(self, other: "SparseTensor | Tensor | complex", apply: Callable[..., Tensor]) -> "SparseTensor":
        if isinstance(other, SparseTensor):
            check_same_coords((self, other))
            other = other.feats
        try:
            return self.replace(apply(self.feats, other))
        except (RuntimeError, MemoryError) as error:
            raise_with_sizes(error, lambda: f"arithmetic on {rows_of(self.feats)}")

    def __add__(self, other: "SparseTensor | Tensor | complex") -> "SparseTensor":
        """Row by row; both tensors must have the same coordinates."""
        return self._with(other, torch.add)

    def __sub__(self, other: "SparseTensor | Tensor | complex") -> "SparseTensor":
        """Row by row; both tensors must have the same coordinates."""
        return self._with(other, torch.sub)

    def __mul__(self, other: "SparseTensor | Tensor | complex") -> "SparseTensor":
        """Row by row; both tensors must have the same coordinates."""
        return self._with(other, torch.mul)

    def __truediv__(self, other: "SparseTensor | Tensor | complex") -> "SparseTensor":
        """Row by row; both tensors must have the same coordinates."""
        return self._with(other, torch.div)

    def __neg__(self) -> "SparseTensor":
        """Minus the features."""
        return self._with(0, lambda mine, _: -mine)

    def __rsub__(self, other: Tensor | complex) -> "SparseTensor":
        """Row by row."""
        return self._with(other, lambda mine, theirs: theirs - mine)

    def __rtruediv__(self, other: Tensor | complex) -> "SparseTensor":
        """Row by row."""
        return self._with(other, lambda mine, theirs: theirs / mine)

    __radd__ = __add__
    __rmul__ = __mul__

    def __repr__(self) -> str:
        """Sizes, extent and cached maps, on one line."""
        n, c = self.feats.shape
        if n:
            low, high = self.coords[:, 1:].amin(dim=0).tolist(), self.coords[:, 1:].amax(dim=0).tolist()
            extent = " x ".join(f"[{a}, {b}]" for a, b in zip(low, high, strict=True))
        else:
            extent = "empty"
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"SparseTensor({n} voxels x {c} channels, {dtype}, {self.device}, batch_size={self.batch_size}, "
            f"stride={self.stride}, extent={extent}, maps={len(self.cache)})"
        )


def check_same_coords(tensors: Sequence[SparseTensor]) -> None:
    """Raise ShapeError unless all tensors have the same rows.

    Raises:
        ShapeError: coordinates or strides differ.
    """
    first = tensors[0]
    for other in tensors[1:]:
        if other.stride != first.stride:
            raise ShapeError(
                f"strides differ: {first.stride} and {other.stride}; bring them to one level first"
            )
        if other.coords is not first.coords and not torch.equal(other.coords, first.coords):
            raise ShapeError(
                f"coordinates differ ({len(first)} and {len(other)} voxels); they must be the same voxels"
            )
        if other.batch_size != first.batch_size:
            raise ShapeError(f"batch sizes differ: {first.batch_size} and {other.batch_size}")


def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Join the channels of tensors with the same coordinates.

    Raises:
        ShapeError: no tensor, or coordinates differ.
        OutOfMemoryError: the device's memory does not suffice.
    """
    if not tensors:
        raise ShapeError("cat needs at least one SparseTensor, got none")
    check_same_coords(tensors)
    parts = [tensor.feats for tensor in tensors]
    try:
        return tensors[0].replace(torch.cat(parts, dim=1))
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"joining the channels of {' and '.join(map(rows_of, parts))}")


def collate(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Stack clouds into one batch, renumbered in order.

    Raises:
        ShapeError: no tensor, or strides or channels differ.
        DeviceError: devices differ.
        OutOfMemoryError: the device's memory does not suffice.
    """
    if not tensors:
        raise ShapeError("collate needs at least one SparseTensor, got none")
    check_same_device(**{f"tensor {i}": tensor.feats for i, tensor in enumerate(tensors)})
    if len({(tensor.stride, tensor.feats.shape[1]) for tensor in tensors}) > 1:
        found = [(tensor.stride, tensor.feats.shape[1]) for tensor in tensors]
        raise ShapeError(f"tensors must share stride and channels, got {found}")
    parts = [tensor.feats for tensor in tensors]
    coords, before = [], 0
    try:
        for tensor in tensors:
            # else a cloud of one could become one of the next
            tensor.cache.check_clouds(tensor.coords)
            coords.append(tensor.coords + device_constant([before, 0, 0, 0], tensor.coords))
            before += tensor.batch_size
        return _known(torch.cat(parts), torch.cat(coords), tensors[0].stride, before, CoordCache())
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"a batch of {' and '.join(map(rows_of, parts))}")


def _known(feats: Tensor, coords: Tensor, stride: Triple, batch_size: int, cache: CoordCache) -> SparseTensor:
    """A tensor whose parts are known to fit each other."""
    tensor = object.__new__(SparseTensor)
    tensor.feats, tensor.coords, tensor.stride = feats, coords, stride
    tensor.batch_size, tensor.cache = batch_size, cache
    return tensor


def _cloud_number(given: object) -> int:
    """The integer that `given` is; a mask of one voxel is none, though torch would make one of it."""
    whole = not isinstance(given, bool) and (
        not isinstance(given, Tensor) or (given.dim() == 0 and given.dtype != torch.bool)
    )
    try:
        if whole:
            return operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        pass
    what = f"{given!r:.80}"
    if isinstance(given, Tensor):
        what = f"a tensor {tuple(given.shape)} of {given.dtype}"
    raise UnsupportedError(
        f"x[...] takes the number of a cloud or a slice of numbers, got {what}; for some clouds use "
        "collate([x[i] for i in numbers]), for the voxels of a mask SparseTensor(x.feats[mask], "
        "x.coords[mask], stride=x.stride, batch_size=x.batch_size)"
    )


def _host_waits_for(coords: Tensor) -> bool:
    return coords.is_cuda


def _ends(space: Tensor, end: Callable[..., Tensor]) -> Triple:
    if not len(space):
        return 0, 0, 0
    x, y, z = end(space, dim=0).tolist()
    return int(x), int(y), int(z)
