"""The task of telling single objects apart: PointNet++ on what a LiDAR sees of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pcsparse.data.synthetic.objects import CLASSES, Objects
from pcsparse.data.synthetic.objects_file import ObjectFacts, cached_objects
from pcsparse.models import PointNet2, PointNet2Spec
from pcsparse.models.pointnet2 import AbstractionSpec, LayerSpec, ScaleSpec
from pcsparse.programs.sparse_heads_tasks import Batch, Report

_TRAIN_SEED, _TEST_SEED = 1, 2
FEATURES = 4
"""Of a point, beside its place: metres from the middle of the crop, and intensity."""


@dataclass
class ObjectTask:
    """Single objects as the simulated LiDAR sees them, told apart by PointNet++.

    Args:
        spec: of the network.
        train: to learn from.
        test: made with another seed.
        batch_size: objects.
    """

    spec: PointNet2Spec
    train: Objects
    test: Objects
    batch_size: int = 32
    name: str = field(default="objects", init=False)
    classes: tuple[str, ...] = field(default=CLASSES, init=False)
    lr: float = field(default=2e-3, init=False)
    head: str = field(default="head", init=False)

    def __post_init__(self) -> None:
        self.n_groups = len(self.test)
        self.n_batches = len(self.train) // self.batch_size

    def network(self) -> nn.Module:
        """PointNet++ of `spec`."""
        return PointNet2(self.spec)

    def train_batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Each object turned about the vertical, mirrored by chance and jittered by up to a hundredth."""
        order = torch.randperm(len(self.train), generator=generator)
        points, labels = torch.from_numpy(self.train.points), torch.from_numpy(self.train.labels)
        intensity = torch.from_numpy(self.train.intensity)
        # the last ones are too few for a batch, and others every time
        for rows in order[: self.n_batches * self.batch_size].view(-1, self.batch_size):
            n = len(rows)
            angle = 2 * torch.pi * torch.rand(n, generator=generator)
            mirror = 1.0 - 2.0 * torch.randint(2, (n,), generator=generator)
            turn = torch.zeros(n, 3, 3)
            turn[:, 0, 0], turn[:, 0, 1] = angle.cos(), -angle.sin()
            turn[:, 1, 0], turn[:, 1, 1] = angle.sin() * mirror, angle.cos() * mirror
            turn[:, 2, 2] = 1.0
            turned = points[rows] @ turn.mT
            noise = torch.randn(turned.shape, generator=generator).clamp(-3, 3) / 300
            yield _batch(turned, intensity[rows], noise, labels[rows], rows)

    def test_batches(self, size: int | None = None) -> Iterator[Batch]:
        """As they are."""
        points, labels = torch.from_numpy(self.test.points), torch.from_numpy(self.test.labels)
        intensity = torch.from_numpy(self.test.intensity)
        for rows in torch.arange(len(labels)).split(size or 2 * self.batch_size):
            yield _batch(points[rows], intensity[rows], torch.zeros(1), labels[rows], rows)


def _batch(points: Tensor, intensity: Tensor, noise: Tensor, labels: Tensor, rows: Tensor) -> Batch:
    """Clouds (b, n, 3) in metres as one list of points that says whose each is.

    A place in the unit sphere says nothing of size, so features of a point are its metres, in units of ten,
    and its intensity.
    """
    clouds = torch.arange(len(points)).repeat_interleave(points.shape[1])
    feats = torch.cat([points / 10.0, intensity[..., None]], dim=2)
    scaled = in_unit_sphere(points) + noise
    return Batch((scaled.flatten(0, 1), feats.flatten(0, 1), clouds), labels, rows)


def in_unit_sphere(points: Tensor) -> Tensor:
    """Clouds (b, n, 3) about their centroids, the farthest point 1 away: PointNet's input.

    Source: PointNet++ (Qi et al., NeurIPS 2017), section 4, "Classification in Euclidean metric space".
    """
    centred = points - points.mean(dim=1, keepdim=True)
    reach = centred.norm(dim=2).amax(dim=1).clamp_min(1e-6)
    return centred / reach[:, None, None]


def small_pointnet2(n_classes: int) -> PointNet2Spec:
    """Single-scale PointNet++ with the published head, 1024-512-256, behind a quarter of the rest.

    A quarter of the published centres, half of the neighbours, half of the channels up to the last layer
    before the head: a CPU trains it in minutes.
    """
    published = PointNet2Spec.classification(FEATURES, n_classes)
    levels, channels = [], published.in_channels
    for level in published.abstractions:
        (scale,) = level.scales
        layers = _halved(3 + channels, scale.layers)
        levels.append(
            AbstractionSpec(level.n_samples // 4, (ScaleSpec(scale.radius, scale.limit // 2, layers),))
        )
        channels = layers[-1].c_out
    pooled = _halved(3 + channels, published.pooled[:-1])
    last = published.pooled[-1]
    pooled = (*pooled, LayerSpec(pooled[-1].c_out, last.c_out))
    return replace(published, abstractions=tuple(levels), pooled=pooled)


def _halved(c_in: int, layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    found = []
    for layer in layers:
        found.append(LayerSpec(c_in, layer.c_out // 2))
        c_in = found[-1].c_out
    return tuple(found)


@dataclass(frozen=True)
class ObjectSizes:
    """How much of it.

    Args:
        per_class: objects of each class to learn from.
        held_out: objects of each class to test on.
        n_points: points an object.
        sensor: what looks.
    """

    per_class: int = 120
    held_out: int = 40
    n_points: int = 256
    sensor: str = "hdl64e"


def object_task(folder: Path, sizes: ObjectSizes, report: Report) -> ObjectTask:
    """Read the objects that `folder` holds, or make them there.

    Raises:
        FormatError: the folder holds others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, per_class, seed in (
        ("train", sizes.per_class, _TRAIN_SEED),
        ("test", sizes.held_out, _TEST_SEED),
    ):
        facts = ObjectFacts(per_class, sizes.n_points, sizes.sensor, seed)
        parts.append(cached_objects(folder / f"objects-{name}.npz", facts, report))
    return ObjectTask(small_pointnet2(len(CLASSES)), parts[0], parts[1])
