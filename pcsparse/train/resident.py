"""Training batches made where the network runs: all sweeps lie in the memory of the device."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pcsparse.coords.voxelize import voxelize
from pcsparse.data.collate import SampleId, SweepSource, VoxelBatch, VoxelSettings
from pcsparse.data.device_augmentation import Clouds, augment, check_augmentation, drawn_sector, joined
from pcsparse.data.sweep_parts import finite_rows
from pcsparse.data.transforms import Augmentation
from pcsparse.errors import FormatError
from pcsparse.ops.voxel_reduce import voxel_reduce
from pcsparse.train.order import BatchesFrom

_SAMPLE_STREAM = 0x4E5D
_READERS = 4


class ResidentSweeps:
    """What `TrainSamples` and its loaders do, without a process beside that of the network.

    A sweep takes 18 bytes a point. Each sample depends on seed, epoch and sweep, its noise on the batch too;
    another kind of device draws other noise.

    Args:
        source: labelled sweeps; each is read once.
        voxels: how points become voxels.
        augmentation: of steps that a device knows.
        seed: of the augmentation.
        device: of the network.

    Raises:
        UnsupportedError: a step of the augmentation needs the loaders.
        FormatError: a sweep has no labels.
    """

    def __init__(
        self,
        source: SweepSource,
        voxels: VoxelSettings,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
    ) -> None:
        check_augmentation(augmentation)
        self._voxels, self._augmentation, self._seed = voxels, augmentation, seed
        self._generator = torch.Generator(device)
        with ThreadPoolExecutor(_READERS) as readers:
            read = list(readers.map(lambda i: _read(source, i, device), range(len(source))))
        self._sweeps = [parts for parts, _ in read]
        self._names = [name for _, name in read]

    def batches(self, order: BatchesFrom) -> Iterator[VoxelBatch]:
        """One batch after another, made when it is asked for."""
        for samples in order:
            yield self._batch(samples)

    def _batch(self, samples: Sequence[SampleId]) -> VoxelBatch:
        rngs = [np.random.default_rng([self._seed, _SAMPLE_STREAM, *sample]) for sample in samples]
        self._generator.manual_seed(int(rngs[0].integers(2**62)))
        sectors = [drawn_sector(self._augmentation.mix, rng) for rng in rngs]
        mixed = [i for i, sector in enumerate(sectors) if sector is not None]
        partners = [int(rngs[i].integers(len(self._sweeps))) for i in mixed]
        chosen = [*(sample.sweep for sample in samples), *partners]
        # a partner draws after its sweep, from the same stream
        of_clouds = [*rngs, *(rngs[i] for i in mixed)]
        clouds = augment(self._clouds(chosen), self._augmentation.steps, of_clouds, self._generator)
        clouds = joined(clouds, [*range(len(samples)), *mixed], sectors)
        return self._voxelised(clouds, tuple(self._names[sample.sweep] for sample in samples))

    def _clouds(self, chosen: Sequence[int]) -> Clouds:
        parts = [self._sweeps[number] for number in chosen]
        points, intensity, targets = (torch.cat([part[i] for part in parts]) for i in range(3))
        sizes = torch.tensor([len(part[0]) for part in parts], device="cpu").to(
            points.device, non_blocking=True
        )
        numbers = torch.arange(len(parts), device=points.device)
        return Clouds(
            points, intensity, targets, torch.repeat_interleave(numbers, sizes, output_size=len(points))
        )

    def _voxelised(self, clouds: Clouds, names: tuple[str, ...]) -> VoxelBatch:
        clouds = self._kept(clouds)
        voxels = voxelize(clouds.points, self._voxels.voxel_size, batch=clouds.cloud)
        none = torch.zeros(0, dtype=torch.int64, device="cpu")
        return VoxelBatch(
            coords=voxels.coords,
            feats=torch.cat([clouds.points, clouds.intensity[:, None]], dim=1)[voxels.first],
            targets=voxel_reduce(clouds.targets.long(), voxels, "majority"),
            inverse=none,
            kept=none.bool(),
            point_targets=None,
            n_points=(0,) * len(names),
            names=names,
        )

    def _kept(self, clouds: Clouds) -> Clouds:
        """Without points outside the crop or too near."""
        crop, near = self._voxels.crop, self._voxels.min_range
        if crop is None and not near:
            return clouds
        keep = clouds.points.square().sum(dim=1) >= near**2
        if crop is not None:
            low, high = clouds.points.new_tensor([crop[:3], crop[3:]])
            keep &= ((clouds.points >= low) & (clouds.points < high)).all(dim=1)
        return clouds.rows(keep)


def _read(source: SweepSource, number: int, device: torch.device) -> tuple[tuple[Tensor, ...], str]:
    """Points, intensity and targets of a sweep, on the device; those that are not finite are left out."""
    sweep = source[number]
    if sweep.targets is None:
        raise FormatError(f"{sweep.name} has no labels, and training needs them; is it a test split?")
    sweep = finite_rows(sweep)
    assert sweep.targets is not None
    parts = (
        sweep.points.astype(np.float32, copy=False),
        sweep.intensity.astype(np.float32, copy=False),
        sweep.targets.astype(np.int16),
    )
    return tuple(torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in parts), sweep.name
