"""Small images of simulated objects, for a dense network that a CPU trains in minutes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pcsparse.data.synthetic.objects import CLASSES, Objects
from pcsparse.data.synthetic.objects_file import ObjectFacts, cached_objects
from pcsparse.models.plain_cnn import PlainCNN, PlainCNNSpec
from pcsparse.programs.sparse_heads_tasks import Batch, Report

SIDE = 32
CHANNELS = 3
_SEEDS = {"train": 11, "search": 12, "held": 13}
_SHIFT = 2
"""Pixels by which a training image is moved at most."""


def object_images(objects: Objects) -> Tensor:
    """What the sensor sees of each object, as an image as wide as the object.

    Channels are depth (from the middle of the crop, towards the sensor), height (both in units of ten
    metres, so that sizes can be told apart) and intensity, of the point nearest to the sensor in each pixel;
    0 where there is none.

    Returns:
        (n, 3, 32, 32) float32.
    """
    points, intensity = torch.from_numpy(objects.points), torch.from_numpy(objects.intensity)
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    # the longer side of what is across and up fills the image
    scale = (high - low)[..., 1:].amax(dim=2, keepdim=True).clamp_min(1e-6)
    pixels = (((points - (low + high) / 2) / scale + 0.5) * (SIDE - 1)).round().long().clamp_(0, SIDE - 1)
    place = (SIDE - 1 - pixels[..., 2]) * SIDE + pixels[..., 1]
    values = torch.stack([-points[..., 0] / 10, points[..., 2] / 10, intensity], dim=2)
    images = torch.zeros(len(points), SIDE * SIDE, CHANNELS)
    # farthest first, so that the nearest point of a pixel is written last; one place at a time is exact
    for i in points[..., 0].argsort(dim=1, descending=True, stable=True).unbind(dim=1):
        rows = torch.arange(len(points))
        images[rows, place[rows, i]] = values[rows, i]
    return images.transpose(1, 2).reshape(-1, CHANNELS, SIDE, SIDE).contiguous()


@dataclass(frozen=True, eq=False)
class Images:
    """Images (n, 3, 32, 32) and their classes (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class ImageTask:
    """Objects told apart by a PlainCNN: what `sparse_heads_tasks.train` and `count_right` ask for.

    Args:
        spec: of the network.
        train: to learn from.
        test: to count on.
        batch_size: images.
    """

    spec: PlainCNNSpec
    train: Images
    test: Images
    batch_size: int = 64
    name: str = field(default="images", init=False)
    classes: tuple[str, ...] = field(default=CLASSES, init=False)
    lr: float = field(default=3e-3, init=False)
    head: str = field(default="classifier", init=False)

    def __post_init__(self) -> None:
        self.n_groups = len(self.test)
        self.n_batches = len(self.train) // self.batch_size

    def network(self) -> nn.Module:
        """A PlainCNN."""
        return PlainCNN(self.spec)

    def train_batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Each image mirrored by chance and moved by up to two pixels."""
        order = torch.randperm(len(self.train), generator=generator)
        for rows in order[: self.n_batches * self.batch_size].view(-1, self.batch_size):
            images = self.train.images[rows]
            mirrored = torch.randint(2, (len(rows),), generator=generator).bool()
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            shift = torch.randint(-_SHIFT, _SHIFT + 1, (2,), generator=generator).tolist()
            yield Batch((images.roll(shift, dims=(2, 3)),), self.train.labels[rows], rows)

    def test_batches(self, size: int | None = None) -> Iterator[Batch]:
        """As they are."""
        for rows in torch.arange(len(self.test)).split(size or 4 * self.batch_size):
            yield Batch((self.test.images[rows],), self.test.labels[rows], rows)


@dataclass(frozen=True)
class ImageSizes:
    """Objects of each class to learn from, to search on and to judge by."""

    train: int = 200
    search: int = 40
    held: int = 60
    n_points: int = 512
    sensor: str = "hdl64e"


def image_sets(folder: Path, sizes: ImageSizes, report: Report) -> dict[str, Images]:
    """Read the objects that `folder` holds, or make them there; as images, by name of the set.

    Raises:
        FormatError: the folder holds others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, seed in _SEEDS.items():
        facts = ObjectFacts(getattr(sizes, name), sizes.n_points, sizes.sensor, seed)
        objects = cached_objects(folder / f"objects-{name}.npz", facts, report)
        found[name] = Images(object_images(objects), torch.from_numpy(objects.labels))
    return found
