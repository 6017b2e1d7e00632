"""A trained model applied to one cloud: points in, one target a point out."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pcsparse.checks import usable_device
from pcsparse.data.collate import VoxelSettings, voxel_batch
from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.label_map import IGNORE
from pcsparse.errors import RangeError
from pcsparse.nn.fuse import fuse


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a cloud.

    Attributes:
        targets: (n,) int64, one a point, in input order; -1 for points that were left out.
        confidence: (n,) float32, 0-1: the network's share (softmax) of that class; 0 for points left out.
        n_left_out: points that are not finite or outside the crop.
        n_voxels: voxels that the network saw.
        voxelize_s, network_s: seconds.
    """

    targets: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    n_left_out: int
    n_voxels: int
    voxelize_s: float
    network_s: float


class Predictor:
    """Semantic segmentation of clouds of any size, the empty one included.

    Args:
        model: takes a SparseTensor with 4 channels, returns one whose feats are logits. A copy
            with batch norm folded into its convolutions is used (`nn.fuse`).
        voxels: as in training.
        device: where the network runs.
    """

    def __init__(self, model: nn.Module, voxels: VoxelSettings, device: torch.device | str = "cpu") -> None:
        self.device = usable_device(device)
        self.model = fuse(model.to(self.device))
        self.voxels = voxels

    def __call__(
        self, points: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32] | None, name: str = "cloud"
    ) -> Prediction:
        """Predict the class of every point.

        Args:
            points: (n, 3) float32, metres, sensor frame (x forward, y left, z up).
            intensity: (n,) float32, 0-1; None counts as 0 everywhere.
            name: of the cloud, for messages.

        Raises:
            RangeError: a point lies beyond the range of coordinates at this voxel size, or the network
                returned a value that is not finite.
            FormatError: points and intensity differ in number.
        """
        began = time.perf_counter()
        if intensity is None:
            intensity = np.zeros(len(points), dtype=np.float32)
        batch = voxel_batch(Sweep(points, intensity, None, name), self.voxels)
        voxelized = time.perf_counter()
        with torch.no_grad():
            logits = self.model(batch.tensor(self.device)).feats
            if not bool(torch.isfinite(logits).all()):
                raise RangeError(
                    f"{name}: the network returned values that are not finite; are intensities 0-1?"
                )
            classes = logits.argmax(dim=1).cpu()
            shares = logits.float().softmax(dim=1).amax(dim=1).cpu()
        targets = batch.to_points(classes)[0].numpy()
        confidence = np.zeros(len(points), dtype=np.float32)
        confidence[batch.kept.numpy()] = shares[batch.inverse].numpy()
        return Prediction(
            targets=targets,
            confidence=confidence,
            n_left_out=int((targets == IGNORE).sum()),
            n_voxels=len(batch.coords),
            voxelize_s=voxelized - began,
            network_s=time.perf_counter() - voxelized,
        )
