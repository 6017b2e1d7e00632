"""Voxelised clouds on a device, by plain torch: nothing here is what the benchmark measures."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pcsparse.bench.clouds import Cloud, file_cloud, simulated_cloud, simulated_sweeps, small_cloud
from pcsparse.errors import FormatError
from pcsparse.kernels.reference.keys import pack_rows
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.types import Triple, Vec3

UNET_VOXEL: Vec3 = (0.05, 0.05, 0.05)
SECOND_VOXEL: Vec3 = (0.075, 0.075, 0.2)
SECOND_CORNER: Vec3 = (-54.0, -54.0, -5.0)
"""Metres: voxels and lowest corner of CenterPoint on nuScenes."""


@dataclass(frozen=True, eq=False)
class DeviceScene:
    """A batch of voxelised clouds.

    Attributes:
        name: of the cloud.
        n_points: points before voxelisation, of all clouds.
        coords: (n, 4) int32, ascending by key.
        feats: (n, c) float32.
        batch: clouds.
        grid: cells along x, y and z where it has an end, else None.
    """

    name: str
    n_points: int
    coords: Tensor
    feats: Tensor
    batch: int
    grid: Triple | None = None

    @staticmethod
    def of(
        cloud: Cloud,
        device: torch.device,
        *,
        voxel: Vec3 = UNET_VOXEL,
        batch: int = 1,
        corner: Vec3 | None = None,
        grid: Triple | None = None,
        channels: int = 4,
    ) -> "DeviceScene":
        """Voxelise; a batch is the cloud and its mirror images; each voxel takes its first point's features.

        Args:
            cloud: points in metres.
            device: where the tensors go.
            voxel: size along x, y, z, metres.
            batch: clouds.
            corner: of the cell (0, 0, 0), metres; points beyond the grid are dropped.
            grid: cells along x, y, z, of a scene that has an end.
            channels: features a voxel; those that the cloud has not are 0.
        """
        coords, feats = [], []
        for i in range(batch):
            # mirrored in x, y, both: other voxels, the same density
            mirror = torch.tensor([(-1.0) ** (i & 1), (-1.0) ** (i >> 1 & 1), 1.0])
            points = cloud.points * mirror
            cells = torch.floor((points - torch.tensor(corner or (0.0,) * 3)) / torch.tensor(voxel)).int()
            wide = torch.zeros(len(points), channels)
            wide[:, : cloud.feats.shape[1]] = cloud.feats[:, :channels]
            wide[:, :3] = points
            if grid is not None:
                inside = ((cells >= 0) & (cells < torch.tensor(grid))).all(dim=1)
                cells, wide = cells[inside], wide[inside]
            coords.append(torch.cat([torch.full((len(cells), 1), i, dtype=torch.int32), cells], dim=1))
            feats.append(wide)
        chosen, rows = _unique(torch.cat(coords))
        return DeviceScene(
            cloud.name,
            batch * len(cloud.points),
            chosen.to(device),
            torch.cat(feats)[rows].to(device),
            batch,
            grid,
        )

    def fresh(self, feats: Tensor | None = None) -> SparseTensor:
        """The input of a network, without any map; with other features (n, c) if given."""
        return SparseTensor(self.feats if feats is None else feats, self.coords, batch_size=self.batch)

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.name}, {self.n_points:,} points, {len(self.coords):,} voxels, batch {self.batch}, "
            f"{neighbours(self.coords):.2f} of 27 neighbours a voxel"
        )


def cloud_of(path: Path | None, *, quick: bool, several: bool = False) -> Cloud:
    """The cloud of a file; without one the miniature street if `quick`, else simulated: one sweep or several.

    A `.npy` of shape (n, 4 or more) keeps all its columns as features: x, y, z in metres, intensity, time.

    Raises:
        FormatError: the file is missing or cannot be read.
    """
    if path is None:
        if quick:
            return small_cloud()
        return simulated_sweeps() if several else simulated_cloud()
    if not path.is_file():
        raise FormatError(f"no point file at {path}; name one with --cloud or --sweeps")
    if path.suffix == ".npy":
        import numpy as np

        table = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        if table.dim() != 2 or table.shape[1] < 3:
            raise FormatError(f"{path} has shape {tuple(table.shape)}, not (n, 3 or more)")
        return Cloud(f"{path.name} (file)", table[:, :3].contiguous(), table)
    return file_cloud(path)


def cube(side: int, device: torch.device, channels: int) -> DeviceScene:
    """Every cell of a cube, so that nearly all neighbours are there."""
    cells = torch.cartesian_prod(*(torch.arange(side, dtype=torch.int32) for _ in range(3)))
    coords = torch.cat([torch.zeros(len(cells), 1, dtype=torch.int32), cells], dim=1).to(device)
    feats = torch.zeros(len(cells), channels, device=device)
    return DeviceScene(f"cube of {side}^3", len(cells), coords, feats, 1)


def rank(coords: Tensor) -> Tensor:
    """Rows of `coords` (n, 4) int32 in the order of their keys."""
    return torch.argsort(pack_rows(coords)[0])


def neighbours(coords: Tensor) -> float:
    """Occupied cells among the 27 around a voxel, its own included; the mean over voxels."""
    keys = pack_rows(coords)[0]
    found = 0
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            for dz in (-1, 0, 1):
                step = coords.new_tensor([[0, dx, dy, dz]])
                place = torch.searchsorted(keys, wanted := pack_rows(coords + step)[0])
                found += int((keys[place.clamp(max=len(keys) - 1)] == wanted).sum())
    return found / max(len(coords), 1)


def _unique(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows in the order of their keys, and the first row of each."""
    keys = pack_rows(coords)[0]
    unique, inverse = torch.unique(keys, return_inverse=True)
    first = torch.full_like(unique, len(keys)).scatter_reduce(
        0, inverse, torch.arange(len(keys)), reduce="amin"
    )
    return coords[first], first
