"""Small clouds with names, so that a failing test says what broke."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Cloud:
    """Coordinates (n, 4) int32, unique, and the number of clouds they belong to."""

    coords: Tensor
    batch_size: int


def _cells(axes: list[range], batch: int = 0) -> Tensor:
    cells = torch.cartesian_prod(*(torch.tensor(list(axis)) for axis in axes)).view(-1, 3)
    return torch.cat([torch.full((len(cells), 1), batch), cells], dim=1).int()


def _random(n: int, low: int, high: int, seed: int, batch: int = 0) -> Tensor:
    """About n distinct cells, in random order."""
    rng = torch.Generator().manual_seed(seed)
    cells = torch.randint(low, high, (n, 3), generator=rng)
    cells = torch.unique(cells, dim=0)
    cells = cells[torch.randperm(len(cells), generator=rng)]
    return torch.cat([torch.full((len(cells), 1), batch), cells], dim=1).int()


def _sorted(coords: Tensor) -> Tensor:
    return torch.unique(coords, dim=0)


def _shuffled(coords: Tensor) -> Tensor:
    return coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(10))]


def _shell() -> Tensor:
    cells = _cells([range(-4, 5)] * 3)
    radius = cells[:, 1:].float().norm(dim=1)
    return cells[(radius > 3) & (radius < 4.2)]


def _clumped() -> Tensor:
    return torch.unique(
        torch.cat([_random(60, -2, 2, 1), _random(60, 6, 10, 2), _random(8, -9, 12, 3)]), dim=0
    )


EMPTY = Cloud(torch.zeros(0, 4, dtype=torch.int32), 1)
ONE = Cloud(torch.tensor([[0, 3, -2, 5]], dtype=torch.int32), 1)
LINE = Cloud(_cells([range(1), range(1), range(-5, 12)]), 1)
PLANE = Cloud(_cells([range(-3, 5), range(-4, 3), range(2, 3)]), 1)
SHELL = Cloud(_shell(), 1)
CLUMPED = Cloud(_clumped(), 1)
NEGATIVE = Cloud(_sorted(_random(90, -11, -4, 4)), 1)
UNSORTED = Cloud(_random(120, -4, 4, 5), 1)
TWO_BATCHES = Cloud(_sorted(torch.cat([_random(70, -3, 4, 6, 0), _random(50, -3, 4, 7, 1)])), 2)
# the middle cloud is empty, rows of the other two are mixed
EMPTY_BETWEEN = Cloud(_shuffled(torch.cat([_random(40, -3, 3, 8, 2), _random(40, -3, 3, 9, 0)])), 3)

CLOUDS: dict[str, Cloud] = {
    "empty": EMPTY,
    "one": ONE,
    "line": LINE,
    "plane": PLANE,
    "shell": SHELL,
    "clumped": CLUMPED,
    "negative": NEGATIVE,
    "unsorted": UNSORTED,
    "two-batches": TWO_BATCHES,
    "empty-between": EMPTY_BETWEEN,
}

DUPLICATES = torch.tensor(
    [[0, 1, 1, 1], [0, 2, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 2, 0, 0]], dtype=torch.int32
)
"""Rows 2 and 4 repeat rows 0 and 1; row 3 is another cloud."""


def lidar_like(n: int, seed: int = 0, batch_size: int = 1) -> Tensor:
    """About n distinct cells on a bumpy ground with walls, sorted: as sparse as a sweep. (m, 4) int32."""
    rng = torch.Generator().manual_seed(seed)
    half = max(4, int(n**0.5))
    xy = torch.randint(-half, half, (n, 2), generator=rng)
    ground = (torch.sin(xy[:, :1] / 9.0) * 2).round().long()
    wall = (xy[:, :1] % 37 == 0).long() * torch.randint(0, 20, (n, 1), generator=rng)
    batch = torch.randint(batch_size, (n, 1), generator=rng)
    return _sorted(torch.cat([batch, xy, ground + wall], dim=1).int())
