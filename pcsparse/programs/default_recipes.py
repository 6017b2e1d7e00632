"""How the models that pcsparse brings are trained: data, augmentation, network, schedule. No file is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pcsparse.data.collate import VoxelSettings
from pcsparse.data.synthetic.pool import PoolPlan
from pcsparse.data.transforms import (
    Augmentation,
    ConcatMix,
    HeightShift,
    IntensityJitter,
    Jitter,
    OneOf,
    RandomDrop,
    RandomFlip,
    RandomScale,
    RandomYaw,
    SectorMix,
)
from pcsparse.data.transforms_mix import InclinationMix, ObjectPaste
from pcsparse.data.transforms_sensor import (
    BeamDrop,
    IntensityResponse,
    Occlusion,
    RandomTilt,
    RangeDrop,
    Undulation,
)
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.train.settings import FitSettings, LossSettings, OptimSettings

# targets of SemanticKITTI: things but cars, which are everywhere; and what they stand on
_RARE = (1, 2, 3, 4, 5, 6, 7)
_GROUND = (8, 9, 10, 11, 16)
# of all points of SemanticKITTI's training sequences: `content` of semantic-kitti.yaml in
# PRBonn/semantic-kitti-api, moving classes with those that stand; in the order of targets
PUBLISHED_SHARES = (
    0.042608, 0.000166, 0.000398, 0.002165, 0.001807, 0.000338, 0.000127, 0.0000375, 0.198796, 0.014717,
    0.143923, 0.003905, 0.132686, 0.072359, 0.266815, 0.006035, 0.078142, 0.002855, 0.000616,
)  # fmt: skip
# what a fence is differs more between the towns and that data set than how frequent one is
_OTHER_THERE = (13,)


def wanted_shares(trained: Sequence[float]) -> tuple[float, ...]:
    """Class shares that a default model is moved to, from those of its towns (19,); fences keep theirs."""
    return tuple(trained[i] if i in _OTHER_THERE else share for i, share in enumerate(PUBLISHED_SHARES))


@dataclass(frozen=True)
class Recipe:
    """One default model.

    Attributes:
        name: of its files.
        sensor: which one it is for, in words.
        pool: the simulated sweeps it is trained on; no town of it may be used to judge.
        beams: how whole beams are left out.
        batch_size: sweeps a step.
        loader_share: of the processes that augment, 0 ... 1; the recipes' add up to 1.
        voxels: see `VoxelSettings`.
        width: of the MinkUNet-18.
        lr: peak learning rate.
    """

    name: str
    sensor: str
    pool: PoolPlan
    beams: BeamDrop
    batch_size: int
    loader_share: float
    voxels: VoxelSettings = field(default_factory=VoxelSettings)
    width: float = 0.5
    lr: float = 4e-3

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not self.width > 0:
            raise RangeError(
                f"{self.name} needs a batch size of 1 or more and a width above 0, got {self.batch_size} and "
                f"{self.width:g}"
            )

    def augmentation(self) -> Augmentation:
        """From simulated to real sweeps; `configs/augment/sim_to_real.yaml` has the same for 64 beams."""
        steps = (
            self.beams,
            Occlusion(sectors=3, width=0.35, near=3.0, far=25.0),
            RangeDrop(limit=0.4, reach=60.0),
            IntensityResponse(gamma=0.5, beams=0.1, constant=0.1),
            RandomTilt(limit=0.02),
            Undulation(cell=8.0, limit=0.08),
            IntensityJitter(scale=0.3, shift=0.05, sigma=0.03, drop=0.05),
            RandomDrop(limit=0.15),
            RandomYaw(limit=math.pi),
            RandomFlip(x=0.5, y=0.5),
            RandomScale(low=0.93, high=1.07),
            HeightShift(limit=0.25),
            Jitter(sigma=0.015, clip=0.06),
        )
        mixes = (
            ConcatMix(1.0),
            SectorMix(1.0, width=math.pi),
            InclinationMix(1.0, bands=(3, 4, 5, 6)),
            ObjectPaste(_RARE, _GROUND, count=8, tries=4),
        )
        return Augmentation(steps, OneOf(mixes, (0.1, 0.25, 0.2, 0.25)))

    def settings(self, seconds: float, device: str, workers: int) -> FitSettings:
        """What `fit` takes for a run that ends by the clock."""
        return FitSettings(
            # more than any clock allows
            epochs=1000,
            batch_size=self.batch_size,
            voxels=self.voxels,
            optim=OptimSettings(lr=self.lr),
            loss=LossSettings(lovasz=1.0),
            precision="bfloat16",
            ema_decay=0.995,
            keep="last",
            validate_every=0,
            checkpoint_every=0,
            workers=workers,
            device=device,
            progress="plain",
            time_limit=seconds,
        )


RECIPES = (
    Recipe(
        name="minkunet-hdl64e",
        sensor="64 beams, HDL-64E",
        pool=PoolPlan(("hdl64e",), towns=240, sweeps=16, seed=20_000, stride=8.0),
        beams=BeamDrop(probability=0.15, every=(2, 3), limit=0.15),
        batch_size=8,
        loader_share=0.75,
    ),
    Recipe(
        name="minkunet-32beam",
        sensor="32 beams, HDL-32E as on nuScenes",
        # a quarter of the towns carries another 32-beam sensor, so that it learns no ring pattern by heart
        pool=PoolPlan(
            ("hdl32e", "hdl32e", "hdl32e", "vlp32c"), towns=240, sweeps=16, seed=40_000, stride=8.0
        ),
        beams=BeamDrop(probability=0.1, every=(2,), limit=0.15),
        batch_size=16,
        loader_share=0.25,
        # a quarter of a nuScenes sweep is the roof that the sensor stands on
        voxels=VoxelSettings(min_range=1.75),
    ),
)


def recipe_named(name: str) -> Recipe:
    """The recipe `name`.

    Raises:
        UnsupportedError: no such recipe; the text lists those there are.
    """
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise UnsupportedError(f"no recipe {name!r}; choose one of: {', '.join(r.name for r in RECIPES)}")
