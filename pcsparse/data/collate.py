"""From sweeps to batches of voxels: crop, voxelisation, network input, targets, the loader's data sets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pcsparse.coords.voxelize import voxelize
from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.label_map import IGNORE
from pcsparse.data.sweep_parts import check_lengths, finite_rows
from pcsparse.data.transforms import Augmentation
from pcsparse.errors import FormatError, RangeError
from pcsparse.ops.voxel_reduce import voxel_reduce
from pcsparse.sparse_tensor import SparseTensor

N_FEATURES = 4
"""Channels of the network input: x, y, z (metres), intensity (0-1)."""

_SAMPLE_STREAM = 0x5A3E


class SweepSource(Protocol):
    """A data set: sweeps by number."""

    def __len__(self) -> int:
        """Number of sweeps."""

    def __getitem__(self, index: int) -> Sweep:
        """Sweep `index`, read from disk."""


class SampleId(NamedTuple):
    """Which sample: the epoch chooses the augmentation."""

    epoch: int
    sweep: int


@dataclass(frozen=True)
class VoxelSettings:
    """How points become voxels.

    Attributes:
        voxel_size: edge length, metres.
        crop: x, y, z minimum, then x, y, z maximum, metres; points outside are left out and predicted as
            unlabelled. None keeps all.
        min_range: metres from the sensor; nearer points, the own vehicle's, are left out likewise.
    """

    voxel_size: float = 0.1
    crop: list[float] | None = None
    min_range: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.voxel_size < float("inf"):
            raise RangeError(f"voxel_size must be positive and finite metres, got {self.voxel_size}")
        if self.crop is not None and (
            len(self.crop) != 6
            or any(low >= high for low, high in zip(self.crop[:3], self.crop[3:], strict=True))
        ):
            raise RangeError(f"crop must be x, y, z minimum, then x, y, z maximum, got {self.crop}")
        if not 0 <= self.min_range < float("inf"):
            raise RangeError(f"min_range must be finite metres, not negative, got {self.min_range}")

    def keeps(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """(n,) bool: the points, (n, 3) metres, that are finite, inside the crop and not too near."""
        rows = np.isfinite(points).all(axis=1)
        if self.crop is not None:
            low, high = np.array(self.crop[:3], np.float32), np.array(self.crop[3:], np.float32)
            # a comparison with NaN is false, which is what we want
            rows &= (points >= low).all(axis=1) & (points < high).all(axis=1)
        if self.min_range:
            near = np.einsum("ij,ij->i", points, points) < np.float32(self.min_range) ** 2
            rows &= ~np.asarray(near)
        return np.asarray(rows)


@dataclass(frozen=True, eq=False)
class VoxelBatch:
    """Voxels of one or more sweeps, ready for the network.

    Attributes:
        coords: (m, 4) int32, columns (batch, x, y, z), ascending by key.
        feats: (m, 4) float32, the first point of each voxel: x, y, z (metres), intensity (0-1).
        targets: (m,) int64, majority of the labels in each voxel; None without labels.
        inverse: (p,) int64, voxel of each point that was kept.
        kept: (n,) bool over the points of all sweeps, in order: those inside the crop and finite.
        point_targets: (n,) int64, None without labels.
        n_points: points of each sweep; they sum to n.
        names: of the sweeps.
    """

    coords: Tensor
    feats: Tensor
    targets: Tensor | None
    inverse: Tensor
    kept: Tensor
    point_targets: Tensor | None
    n_points: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def n_labelled(self) -> int:
        """Voxels whose target counts."""
        return 0 if self.targets is None else int((self.targets != IGNORE).sum())

    def tensor(self, device: torch.device | str = "cpu") -> SparseTensor:
        """The network input."""
        return SparseTensor(self.feats.to(device), self.coords.to(device), batch_size=len(self.names))

    def voxels_only(self) -> "VoxelBatch":
        """The same for training, which asks for no point: less to hand from process to process."""
        none = torch.zeros(0, dtype=torch.int64, device="cpu")
        n_points = (0,) * len(self.n_points)
        return replace(self, inverse=none, kept=none.bool(), point_targets=None, n_points=n_points)

    def to_points(self, voxel_targets: Tensor) -> tuple[Tensor, ...]:
        """Targets of voxels, (m,) int64 on the CPU, to targets of all points, one (n_i,) tensor a sweep.

        A point that was left out gets `IGNORE`.
        """
        points = torch.full((len(self.kept),), IGNORE, dtype=torch.int64, device="cpu")
        points[self.kept] = voxel_targets[self.inverse]
        return points.split(self.n_points)


def voxel_batch(sweep: Sweep, settings: VoxelSettings) -> VoxelBatch:
    """Voxels of one sweep. Serial: safe in the workers of a loader.

    Points that are not finite (intensity included) or outside the crop are left out; `to_points` gives them
    `IGNORE`.

    Raises:
        FormatError: points, intensity and targets differ in number.
        RangeError: the sweep reaches beyond the range of coordinates; the text names it.
    """
    check_lengths(sweep)
    kept = settings.keeps(sweep.points) & np.isfinite(sweep.intensity)
    points = torch.from_numpy(np.ascontiguousarray(sweep.points[kept], dtype=np.float32))
    try:
        voxels = voxelize(points, settings.voxel_size)
    except RangeError as error:
        raise RangeError(f"{sweep.name}: {error}") from error
    intensity = torch.from_numpy(sweep.intensity[kept].astype(np.float32, copy=False))
    feats = torch.cat([points, intensity[:, None]], dim=1)[voxels.first]
    targets = point_targets = None
    if sweep.targets is not None:
        point_targets = torch.from_numpy(np.ascontiguousarray(sweep.targets, dtype=np.int64))
        targets = voxel_reduce(point_targets[torch.from_numpy(kept)], voxels, "majority")
    return VoxelBatch(
        coords=voxels.coords,
        feats=feats,
        targets=targets,
        inverse=voxels.inverse,
        kept=torch.from_numpy(kept),
        point_targets=point_targets,
        n_points=(len(sweep.points),),
        names=(sweep.name,),
    )


def collate(batches: Sequence[VoxelBatch]) -> VoxelBatch:
    """One batch of several: batch columns are renumbered, inverses shifted.

    Raises:
        FormatError: some have labels and some have not.
    """
    if len(batches) == 1:
        return batches[0]
    unlabelled = [name for b in batches for name in b.names if b.targets is None]
    if unlabelled and any(b.targets is not None for b in batches):
        raise FormatError(f"a batch must be labelled as a whole or not at all; without labels: {unlabelled}")
    coords, inverses = [], []
    n_sweeps = n_voxels = 0
    for batch in batches:
        coords.append(batch.coords + torch.tensor([n_sweeps, 0, 0, 0], dtype=torch.int32, device="cpu"))
        inverses.append(batch.inverse + n_voxels)
        n_sweeps += len(batch.names)
        n_voxels += len(batch.coords)
    return VoxelBatch(
        coords=torch.cat(coords),
        feats=torch.cat([b.feats for b in batches]),
        targets=None if unlabelled else torch.cat([b.targets for b in batches if b.targets is not None]),
        inverse=torch.cat(inverses),
        kept=torch.cat([b.kept for b in batches]),
        point_targets=(
            None
            if unlabelled or any(b.point_targets is None for b in batches)
            else torch.cat([b.point_targets for b in batches if b.point_targets is not None])
        ),
        n_points=tuple(n for b in batches for n in b.n_points),
        names=tuple(name for b in batches for name in b.names),
    )


class TrainSamples(Dataset[VoxelBatch]):
    """Augmented, voxelised sweeps, addressed by `SampleId`; the same id gives the same bytes in any process.

    Args:
        source: labelled sweeps.
        settings: how points become voxels.
        augmentation: what happens to the points before.
        seed: of the augmentation.
    """

    def __init__(
        self, source: SweepSource, settings: VoxelSettings, augmentation: Augmentation, seed: int
    ) -> None:
        self.source = source
        self.settings = settings
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, sample: SampleId) -> VoxelBatch:
        rng = np.random.default_rng([self.seed, _SAMPLE_STREAM, sample.epoch, sample.sweep])
        sweep = self._finite(sample.sweep)
        if sweep.targets is None:
            raise FormatError(f"{sweep.name} has no labels, and training needs them; is it a test split?")
        augmented = self.augmentation(sweep, rng, lambda: self._finite(int(rng.integers(len(self.source)))))
        return voxel_batch(augmented, self.settings).voxels_only()

    def _finite(self, index: int) -> Sweep:
        # before anything is drawn or measured: one NaN among the angles or ranges spoils those of all points
        return finite_rows(self.source[index])


class PlainSamples(Dataset[VoxelBatch]):
    """Voxelised sweeps as they are, by index: for validation and prediction."""

    def __init__(self, source: SweepSource, settings: VoxelSettings) -> None:
        self.source = source
        self.settings = settings

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> VoxelBatch:
        return voxel_batch(self.source[index], self.settings)
