"""Simulated streets for the studies of compression: three sets of towns, and a network trained on one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from pcsparse.data.collate import VoxelBatch, VoxelSettings, voxel_batch
from pcsparse.data.datasets.semantic_kitti import SemanticKitti
from pcsparse.data.synthetic.pool import PoolPlan, RenderedSweeps, render
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.writer import write_towns
from pcsparse.data.transforms import (
    Augmentation,
    HeightShift,
    IntensityJitter,
    Jitter,
    RandomDrop,
    RandomFlip,
    RandomScale,
    RandomYaw,
    SectorMix,
)
from pcsparse.errors import PcsparseError, RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.programs.bench_compress_claim import claim
from pcsparse.programs.default_model import checkpoint_or_default
from pcsparse.train.checkpoint import seconds_spent
from pcsparse.train.fit import fit
from pcsparse.train.model_file import load_model
from pcsparse.train.passes import ExtraLoss
from pcsparse.train.settings import FitSettings, LossSettings, OptimSettings

IN_CHANNELS = 4
_ENDED = "ended.txt"
AUGMENTATION = Augmentation(
    (
        RandomYaw(), RandomFlip(), RandomScale(), HeightShift(), Jitter(), RandomDrop(), IntensityJitter(),
    ),
    SectorMix(),
)  # fmt: skip


@dataclass(frozen=True)
class Towns:
    """One set of simulated sweeps.

    Args:
        name: of its folder.
        towns: how many, with seeds of their own.
        sweeps: of each.
        seed: of the first town.
        stride_metres: between two sweeps.
    """

    name: str
    towns: int
    sweeps: int
    seed: int
    stride_metres: float

    @property
    def sequences(self) -> list[str]:
        """Names of the sequences, one a town."""
        return [f"{town:02d}" for town in range(self.towns)]


@dataclass(frozen=True)
class Streets:
    """Towns to learn from, towns to search on, towns to judge by; no town is in two of them.

    Args:
        root: folder of all three.
        train, search, held: see above.
        voxel_size: metres.
        reach: metres from the sensor, along x and y each way, to which sweeps are cropped where a search
            looks at them many times.
        sensor: what looks.
        pooled: store them as `data.synthetic.pool` does, by the caster that needs no extra: smaller, read
            faster, and by several processes at once.
    """

    root: Path
    train: Towns = field(default_factory=lambda: Towns("train", 96, 8, 1000, 20.0))
    search: Towns = field(default_factory=lambda: Towns("search", 8, 1, 4000, 10.0))
    held: Towns = field(default_factory=lambda: Towns("held", 24, 2, 5000, 40.0))
    voxel_size: float = 0.2
    reach: float = 15.0
    sensor: str = "hdl64e"
    pooled: bool = field(default=False, repr=False)

    @property
    def facts(self) -> str:
        """What the sweeps are, wherever they lie."""
        sets = f"{self.train} {self.search} {self.held}"
        return (
            f"{sets} {self.voxel_size} m, search within {self.reach} m, {self.sensor}, pooled={self.pooled}"
        )

    def plan(self, towns: Towns) -> PoolPlan:
        """Of a set that is pooled."""
        return PoolPlan((self.sensor,), towns.towns, towns.sweeps, towns.seed, towns.stride_metres)

    def render(self, sets: Sequence[Towns], part: int = 0, parts: int = 1) -> None:
        """Make what is missing of pooled sets, or one of several parts of it."""
        for towns in sets:
            render(self.plan(towns), self.root / towns.name, part, parts)

    def complete(self, towns: Towns) -> bool:
        """Whether all sweeps of a pooled set are there."""
        plan = self.plan(towns)
        return all(plan.path(self.root / towns.name, index).is_file() for index in range(len(plan)))

    def write(self) -> None:
        """Make what is not there yet; an interrupted set is gone on with."""
        if self.pooled:
            self.render((self.train, self.search, self.held))
            return
        for towns in (self.train, self.search, self.held):
            seeds = {name: towns.seed + i for i, name in enumerate(towns.sequences)}
            write_towns(
                self.root / towns.name, seeds, towns.sweeps, sensor_named(self.sensor), "auto",
                towns.stride_metres, "resume",
            )  # fmt: skip

    def read(self, towns: Towns) -> SemanticKitti | RenderedSweeps:
        """A set as a source of sweeps."""
        if self.pooled:
            return RenderedSweeps(self.plan(towns), self.root / towns.name)
        return SemanticKitti(self.root / towns.name, "train", towns.sequences)

    def batches(
        self, towns: Towns, numbers: Sequence[int] | None = None, *, cropped: bool = False
    ) -> list[VoxelBatch]:
        """Voxels of sweeps of a set, each a batch of its own; of all of them if `numbers` is None."""
        crop = [-self.reach, -self.reach, -100.0, self.reach, self.reach, 100.0] if cropped else None
        source, voxels = self.read(towns), VoxelSettings(self.voxel_size, crop)
        chosen = range(len(source)) if numbers is None else numbers
        return [voxel_batch(source[number], voxels) for number in chosen]

    def calibration(self, n: int, *, cropped: bool = False) -> list[VoxelBatch]:
        """Sweeps of at most n training towns, evenly spread, to measure batch norms on."""
        n = min(n, self.train.towns)
        step = self.train.towns // n
        numbers = [town * self.train.sweeps for town in range(0, step * n, step)]
        return self.batches(self.train, numbers, cropped=cropped)


@dataclass(frozen=True)
class Place:
    """Where a training runs; it changes what it learns by rounding alone.

    Args:
        device: of the network.
        record: see `FitSettings`.
        until: Unix time by which a training has ended, its rate annealed; 0 for no limit.
    """

    device: str = "cpu"
    record: str = "auto"
    until: float = 0.0

    def of(self, settings: FitSettings, spent: float = 0.0) -> FitSettings:
        """The settings of a training that runs there, from now on.

        Args:
            settings: of anywhere.
            spent: seconds that the training took in earlier starts, which its limit counts.
        """
        # a limit that has passed is one still; no limit is 0
        seconds = max(self.until - time.time() + spent, 1.0) if self.until else 0.0
        settings = replace(settings, device=self.device, record=self.record, time_limit=seconds)
        # on a GPU an epoch takes seconds: the state is stored after each, the network after the last
        gpu = self.device != "cpu"
        return replace(settings, checkpoint_every=0, store_every=settings.epochs) if gpu else settings

    def part(self, share: float) -> "Place":
        """For a training that may take a share of the time from now on."""
        now = time.time()
        return replace(self, until=now + share * max(self.until - now, 0.0)) if self.until else self


@dataclass(frozen=True)
class Training:
    """How a network of the studies is trained.

    Args:
        epochs: passes over the training towns.
        lr: peak of the one-cycle rate.
        seed: of weights, order and augmentation.
        precision: see `FitSettings`.
        validate_every: epochs between validations on the search towns; 0 for none.
        batch_size: sweeps a step.
        resident: see `FitSettings`.

    Raises:
        RangeError: no epoch, or a rate that is not above 0.
    """

    epochs: int = 5
    lr: float = 3e-3
    seed: int = 0
    precision: str = "bfloat16"
    validate_every: int = 1
    batch_size: int = 2
    resident: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.lr > 0:
            raise RangeError(f"epochs must be at least 1 and lr above 0, got {self.epochs} and {self.lr}")

    def settings(self, voxel_size: float) -> FitSettings:
        """For `train.fit`: the recipe of the default model."""
        return FitSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            voxels=VoxelSettings(voxel_size),
            optim=OptimSettings(lr=self.lr),
            loss=LossSettings(lovasz=1.0),
            precision=self.precision,
            ema_decay=0.99,
            keep="last",
            seed=self.seed,
            resident=self.resident,
            checkpoint_every=100,
            validate_every=self.validate_every,
            progress="plain",
        )


def train_on(
    streets: Streets,
    model: torch.nn.Module,
    training: Training,
    folder: Path,
    extra_loss: ExtraLoss | None = None,
    place: Place | None = None,
) -> Path:
    """Train a network on the training towns, or go on with it; its folder, which `load_model` reads.

    A finished one is only looked at, one that the clock has ended too: others may have begun from it.

    Raises:
        FormatError: the folder holds a training that has ended, of other settings.
        PcsparseError: a signal ended it; the same call goes on from there.
    """
    if has_ended(folder):
        claim(folder, str(training), _ENDED, "a training that has ended, of other settings")
        return folder
    place = place or Place()
    source = streets.read(streets.train)
    result = fit(
        model,
        source,
        streets.read(streets.search) if training.validate_every else None,
        place.of(training.settings(streets.voxel_size), seconds_spent(folder) if place.until else 0.0),
        folder,
        labels=source.label_map,
        augmentation=AUGMENTATION,
        extra_loss=extra_loss,
        provenance={"data": f"simulated streets, {streets.train.towns} towns from {streets.train.seed}"},
    )
    if result.stopped_by is not None:
        raise PcsparseError(
            f"training stopped at step {result.step} of {result.n_steps}; the same command goes on from there"
        )
    if result.timed_out or result.step == result.n_steps:
        claim_ended(folder, training)
    return folder


def claim_ended(folder: Path, training: Training) -> None:
    """Say that the training of a folder is done."""
    claim(folder, str(training), _ENDED)


def has_ended(folder: Path) -> bool:
    """Whether the training of a folder was done, or ended by the clock; one that was stopped has not."""
    return (folder / _ENDED).is_file()


def dense_network(
    streets: Streets, width: float, training: Training, folder: Path, *, from_default: bool = False
) -> Path:
    """MinkUNet-18 of a width ratio, trained once; a finished one is taken as it is.

    Args:
        streets: to train on.
        width: ratio.
        training: how.
        folder: of the run.
        from_default: start from the default model, whose voxels are smaller, if it has these widths.
    """
    n_classes = streets.read(streets.train).label_map.n_classes
    torch.manual_seed(training.seed)
    model = MinkUNet(MinkUNetSpec.minkunet18(IN_CHANNELS, n_classes, width))
    known = load_model(checkpoint_or_default(None))[0] if from_default else None
    if known is not None and known.spec == model.spec:
        model.load_state_dict(known.state_dict())
    return train_on(streets, model, training, folder)
