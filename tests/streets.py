"""Tiny hand-made streets: a road, a wall and a car, labelled; in memory and in SemanticKITTI's layout."""

from pathlib import Path

import numpy as np

from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.label_map import LabelMap
from pcsparse.models import MinkUNet, MinkUNetSpec

CAR, ROAD, BUILDING = 0, 8, 12
RAW = {CAR: 10, ROAD: 40, BUILDING: 50}


def tiny_street(seed: int, n: int = 600, name: str = "street") -> Sweep:
    """A road at z = -1.7 m, a wall beside it and a box on it; a tenth of the points unlabelled."""
    rng = np.random.default_rng(seed)
    targets = rng.choice([ROAD, BUILDING, CAR], size=n, p=[0.5, 0.3, 0.2])
    points = np.empty((n, 3), dtype=np.float32)
    points[:, 0] = rng.uniform(-12, 12, n)
    points[:, 1] = np.where(targets == BUILDING, 6.0 + rng.uniform(0, 0.2, n), rng.uniform(-5, 5, n))
    points[:, 2] = np.where(targets == ROAD, -1.7, rng.uniform(-1.4, 3.0, n))
    car = targets == CAR
    where = rng.uniform(-8, 8)
    points[car] = rng.uniform([where, -2, -1.6], [where + 4, 0, -0.2], (int(car.sum()), 3))
    intensity = rng.integers(0, 100, n).astype(np.float32) / 100
    targets[rng.random(n) < 0.1] = -1
    return Sweep(points, intensity, targets.astype(np.int64), f"{name}/{seed:06d}")


class TinyStreets:
    """A source of tiny streets.

    Args:
        n: number of sweeps.
        points: a sweep.
        first_seed: of the first.
    """

    def __init__(self, n: int, points: int = 600, first_seed: int = 0) -> None:
        self.n, self.points, self.first_seed = n, points, first_seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sweep:
        return tiny_street(self.first_seed + index, self.points)


def tiny_model(width: float = 0.125) -> MinkUNet:
    """A MinkUNet-14 for the 19 classes; seed torch before."""
    return MinkUNet(MinkUNetSpec.minkunet14(width=width))


def write_root(root: Path, frames: dict[str, int], points: int = 600) -> Path:
    """Write tiny streets in SemanticKITTI's exact layout: `frames` sweeps of each sequence."""
    labels = LabelMap.load("semantickitti")
    for sequence, n_frames in frames.items():
        folder = root / "sequences" / sequence
        (folder / "velodyne").mkdir(parents=True)
        (folder / "labels").mkdir()
        for frame in range(n_frames):
            sweep = tiny_street(100 * int(sequence) + frame, points)
            rows = np.column_stack([sweep.points, sweep.intensity]).astype("<f4")
            rows.tofile(folder / "velodyne" / f"{frame:06d}.bin")
            instance = np.where(sweep.targets == CAR, 7, 0).astype(np.uint32) << 16
            (labels.to_raw(sweep.targets) | instance).astype("<u4").tofile(
                folder / "labels" / f"{frame:06d}.label"
            )
        pose = " ".join(["1 0 0 0 0 1 0 0 0 0 1 0"])
        (folder / "poses.txt").write_text(f"{pose}\n" * n_frames)
        (folder / "calib.txt").write_text("".join(f"{k}: {pose}\n" for k in ("P0", "P1", "P2", "P3", "Tr")))
        (folder / "times.txt").write_text("".join(f"{0.1 * i:.6e}\n" for i in range(n_frames)))
    return root
