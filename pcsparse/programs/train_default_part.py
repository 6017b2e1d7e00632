"""One training of `train_default`: the process of one model, from its first kernel to its last checkpoint."""

import contextlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import pcsparse
from pcsparse.allocation import keep_freed_memory
from pcsparse.data.collate import TrainSamples
from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.label_map import LabelMap
from pcsparse.data.synthetic.pool import RenderedSweeps
from pcsparse.errors import RangeError
from pcsparse.models.minkunet import MinkUNet, MinkUNetSpec
from pcsparse.programs.default_recipes import Recipe
from pcsparse.train.checkpoint import seconds_spent
from pcsparse.train.fit import fit
from pcsparse.train.loading import open_loader
from pcsparse.train.order import BatchesFrom, SampleOrder
from pcsparse.train.settings import FitSettings
from pcsparse.train.stepper import Stepper

# about the voxels of a batch of either recipe
_MADE_UP_POINTS = 480_000


@dataclass(frozen=True)
class TrainingJob:
    """What one process trains.

    Attributes:
        recipe: of the model.
        pool: folder of its sweeps.
        run: folder of its run.
        device: of the network.
        loaders: processes that augment.
        enough: sweeps to wait for.
        record: see `FitSettings`.
    """

    recipe: Recipe
    pool: Path
    run: Path
    device: str
    loaders: int
    enough: int
    record: str

    def settings(self, seconds: float) -> FitSettings:
        """What `fit` takes."""
        return replace(self.recipe.settings(seconds, self.device, self.loaders), record=self.record)

    def model(self) -> MinkUNet:
        """A new network, always the same one."""
        torch.manual_seed(0)
        return MinkUNet(MinkUNetSpec.minkunet18(width=self.recipe.width))


def train(job: TrainingJob, deadline: float) -> None:
    """Train until `deadline` (Unix time), from when enough sweeps are there; go on with a run that is there.

    Raises:
        FormatError: the folder holds another run.
        RangeError: the loss stopped being finite, or there are not enough sweeps before the deadline.
    """
    keep_freed_memory()
    recipe, source = job.recipe, RenderedSweeps(job.recipe.pool, job.pool)
    with _told(f"{recipe.name}: loaders and kernels compiled"):
        _compile(job)
    with _told(f"{recipe.name}: waited for {job.enough} sweeps"):
        wait_for_sweeps(job, source, deadline)
    seconds = max(deadline - time.time(), 1.0)
    result = fit(
        job.model(),
        source,
        None,
        job.settings(seconds_spent(job.run) + seconds),
        job.run,
        labels=source.label_map,
        augmentation=recipe.augmentation(),
        provenance=_provenance(job, seconds),
    )
    print(f"{recipe.name}: {result.step} steps, {len(source.present)} sweeps", flush=True)


def wait_for_sweeps(job: TrainingJob, source: RenderedSweeps, deadline: float) -> None:
    """Return when enough sweeps are there.

    Raises:
        RangeError: they are not before `deadline` (Unix time).
    """
    while len(source.present) < min(job.enough, len(source)):
        if time.time() > deadline:
            raise RangeError(
                f"{job.recipe.name}: {len(source.present)} of {job.enough} sweeps when the time was over; "
                "give more --seconds or renderers, or start with fewer (--enough)"
            )
        time.sleep(0.2)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}, {time.monotonic() - began:.1f} s", flush=True)


class _MadeUp:
    """Rough ground with random labels: enough to compile what handles sweeps, while real ones are made."""

    def __init__(self, points: int) -> None:
        self.points = points

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Sweep:
        rng, n = np.random.default_rng(index), self.points
        points = rng.uniform([-35, -35, -1.9], [35, 35, -1.6], (n, 3)).astype(np.float32)
        points[: n // 4, 2] += rng.uniform(0, 3, n // 4)
        targets = rng.integers(0, 19, n)
        instances = np.where(targets < 8, targets + 1, 0)
        beams = rng.integers(0, 64, n)
        return Sweep(points, rng.random(n, np.float32), targets, f"{index}", instances, beams)


def _compile(job: TrainingJob) -> None:
    """Run two steps of a network that is thrown away. Forked loaders have kernels of their own (ADR 0009)."""
    recipe, n_classes = job.recipe, LabelMap.load("synthetic").n_classes
    ground = _MadeUp(_MADE_UP_POINTS // recipe.batch_size)
    samples = TrainSamples(ground, recipe.voxels, recipe.augmentation(), seed=1)
    order = BatchesFrom(SampleOrder(64, recipe.batch_size, accumulate=1, epochs=1, seed=1), start=0)
    stepper = Stepper(job.model(), job.settings(1.0), 2, torch.ones(n_classes))
    with open_loader(samples, order, workers=1, prefetch=1) as batches:
        first = next(batches)
        # on a CPU the first real step compiles as fast
        for _ in range(2 if job.device != "cpu" else 0):
            stepper.advance([first])


def _provenance(job: TrainingJob, seconds: float) -> dict[str, str]:
    plan = job.recipe.pool
    sensors = ", ".join(dict.fromkeys(plan.sensors))
    return {
        "pcsparse": pcsparse.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "data": f"simulated towns from seed {plan.seed} on, {plan.sweeps} sweeps each, {plan.stride:g} m "
        f"apart, sensors {sensors}, BVH caster, rendered during the training; no recorded data",
        "sensor": job.recipe.sensor,
        "seconds": f"{seconds:.0f}",
        "device": torch.cuda.get_device_name(job.device) if job.device != "cpu" else "CPU",
        "batch_size": str(job.recipe.batch_size),
        "licence": "Apache-2.0",
    }
