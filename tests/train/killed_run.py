"""The process that `test_kill` kills: a small training run with two loader workers.

python -m tests.train.killed_run FOLDER PAUSE_MS
"""

import sys
import time

import torch

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.label_map import LabelMap
from pcsparse.data.transforms import Augmentation, Jitter, RandomDrop, RandomYaw, SectorMix
from pcsparse.train.fit import fit
from pcsparse.train.settings import FitSettings, LossSettings, OptimSettings
from tests.streets import TinyStreets, tiny_model

SETTINGS = FitSettings(
    epochs=3,
    batch_size=2,
    voxels=VoxelSettings(0.5),
    optim=OptimSettings(lr=5e-3),
    loss=LossSettings(lovasz=0.5),
    ema_decay=0.9,
    workers=2,
    checkpoint_every=3,
    progress="none",
)
N_SWEEPS = 16
N_STEPS = 24


class SlowStreets(TinyStreets):
    """Takes its time, so that the run can be killed in its middle."""

    def __init__(self, n, pause_ms):
        super().__init__(n)
        self.pause_ms = pause_ms

    def __getitem__(self, index):
        time.sleep(self.pause_ms / 1000)
        return super().__getitem__(index)


def main(folder: str, pause_ms: str) -> None:
    """Train to the end, or until killed."""
    torch.manual_seed(0)
    fit(
        tiny_model(),
        SlowStreets(N_SWEEPS, int(pause_ms)),
        TinyStreets(2, first_seed=90),
        SETTINGS,
        folder,
        labels=LabelMap.load("semantickitti"),
        augmentation=Augmentation((RandomYaw(), Jitter(), RandomDrop()), SectorMix()),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
