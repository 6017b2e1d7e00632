"""The task of telling what stands on each cell of the ground: PillarBEV on sweeps of simulated towns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pcsparse.coords.pillars import PillarGrid
from pcsparse.data.bev_labels import bev_targets
from pcsparse.data.datasets.semantic_kitti import SemanticKitti
from pcsparse.data.label_map import IGNORE
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.writer import write_towns
from pcsparse.models import PillarBEV, PillarBEVSpec
from pcsparse.programs.sparse_heads_tasks import Batch, Report

_FIRST_SEED = 100

# what a planner asks of the ground, from the names of SemanticKITTI
GROUPS: dict[str, tuple[str, ...]] = {
    "drivable": ("road", "parking"),
    "other ground": ("sidewalk", "other-ground", "terrain"),
    "structure": ("building", "fence", "pole", "traffic-sign"),
    "vegetation": ("vegetation", "trunk"),
    "traffic": (
        "car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist", "motorcyclist",
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Ground:
    """One sweep over the ground around the sensor: points, intensity, targets of the cells, and its town."""

    points: Tensor
    intensity: Tensor
    targets: Tensor
    town: int


@dataclass
class StreetTask:
    """Cells of the ground by what stands on them, told by PillarBEV.

    Args:
        spec: of the network.
        classes: names, by target.
        train: sweeps to learn from.
        test: sweeps of other towns, which are numbered from 0.
        batch_size: sweeps.
    """

    spec: PillarBEVSpec
    classes: tuple[str, ...]
    train: list[Ground]
    test: list[Ground]
    batch_size: int = 2
    name: str = field(default="streets", init=False)
    lr: float = field(default=3e-3, init=False)
    head: str = field(default="head", init=False)

    def __post_init__(self) -> None:
        self.n_groups = 1 + max(ground.town for ground in self.test)
        self.n_batches = len(self.train) // self.batch_size

    def network(self) -> nn.Module:
        """A PillarBEV."""
        return PillarBEV(self.spec)

    def train_batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Each sweep mirrored from left to right and from front to back by chance."""
        order = torch.randperm(len(self.train), generator=generator)
        for rows in order[: self.n_batches * self.batch_size].view(-1, self.batch_size):
            flips = torch.randint(2, (len(rows), 2), generator=generator).bool().tolist()
            chosen = [self.train[i] for i in rows.tolist()]
            yield self._batch([_mirrored(g, *flip) for g, flip in zip(chosen, flips, strict=True)])

    def test_batches(self, size: int | None = None) -> Iterator[Batch]:
        """As they are."""
        step = size or self.batch_size
        for start in range(0, len(self.test), step):
            yield self._batch(self.test[start : start + step])

    def _batch(self, grounds: list[Ground]) -> Batch:
        sizes = torch.tensor([len(ground.points) for ground in grounds])
        inputs = (
            torch.cat([ground.points for ground in grounds]),
            torch.cat([ground.intensity for ground in grounds]),
            torch.arange(len(grounds)).repeat_interleave(sizes),
            len(grounds),
        )
        targets = torch.stack([ground.targets for ground in grounds])
        return Batch(inputs, targets, torch.tensor([ground.town for ground in grounds]))


def _mirrored(ground: Ground, front: bool, left: bool) -> Ground:
    """The mirrored sweep; the grid must reach as far ahead as back, and as far left as right."""
    if not (front or left):
        return ground
    signs = torch.tensor([-1.0 if front else 1.0, -1.0 if left else 1.0, 1.0])
    dims = [dim for dim, flipped in enumerate((front, left)) if flipped]
    return Ground(ground.points * signs, ground.intensity, ground.targets.flip(dims), ground.town)


@dataclass(frozen=True)
class StreetSizes:
    """How much of it.

    Args:
        towns: to learn from.
        held_out: other towns, to test on.
        sweeps: of each town.
        stride_metres: between two sweeps.
        sensor: what looks.
        reach: metres from the sensor to each side of the grid.
        channels: of PillarBEV's first block.
        head: channels of the convolutions of its head.
    """

    towns: int = 16
    held_out: int = 8
    sweeps: int = 6
    stride_metres: float = 15.0
    sensor: str = "hdl32e"
    reach: float = 19.2
    channels: int = 32
    head: tuple[int, ...] = (64, 64)


def street_task(folder: Path, sizes: StreetSizes, report: Report) -> StreetTask:
    """Read the sweeps that `folder` holds, or make them there; an interrupted folder is gone on with.

    Raises:
        FormatError: the folder holds others.
    """
    n_towns = sizes.towns + sizes.held_out
    names = [f"{town:02d}" for town in range(n_towns)]
    seeds = {name: _FIRST_SEED + town for town, name in enumerate(names)}
    # one caster, so that the data do not depend on what is installed
    root = write_towns(
        folder / "streets", seeds, sizes.sweeps, sensor_named(sizes.sensor), "bvh", sizes.stride_metres,
        "resume", report,
    )  # fmt: skip
    grid = PillarGrid((-sizes.reach, sizes.reach), (-sizes.reach, sizes.reach), (-3.2, 3.2), 0.4)
    sweeps = SemanticKitti(root, "train", names)
    spec = PillarBEVSpec.of(grid, len(GROUPS), channels=sizes.channels, convs=(2, 2, 2), head=sizes.head)
    table = _group_table(sweeps.label_map.names)
    grounds, n_points, n_inside = [], 0, 0
    for index in range(len(sweeps)):
        sweep = sweeps[index]
        assert sweep.targets is not None  # every simulated sweep has labels
        points = torch.from_numpy(sweep.points)
        # mirrored, too: a lower end belongs to the grid, an upper one does not
        inside = grid.inside(points) & grid.inside(points * torch.tensor([-1.0, -1.0, 1.0]))
        n_points, n_inside = n_points + len(points), n_inside + int(inside.sum())
        targets = bev_targets(points[inside], table[sweep.targets][inside], spec.cells)
        town = index // sizes.sweeps - sizes.towns
        grounds.append(Ground(points[inside], torch.from_numpy(sweep.intensity)[inside], targets, town))
    report(
        f"{root}: {len(grounds)} sweeps; {n_inside / n_points:.1%} of {n_points:,} points lie within "
        f"{sizes.reach} m to each side, the others are cropped"
    )
    n_train = sizes.towns * sizes.sweeps
    return StreetTask(spec, tuple(GROUPS), grounds[:n_train], grounds[n_train:])


def _group_table(names: tuple[str, ...]) -> Tensor:
    """(n_classes + 1,) int64, the group of each target; the last entry is that of `IGNORE`, which is -1."""
    groups = {name: i for i, members in enumerate(GROUPS.values()) for name in members}
    return torch.tensor([*(groups[name] for name in names), IGNORE])
