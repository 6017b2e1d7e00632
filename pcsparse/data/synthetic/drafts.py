"""Streets while they grow: their lines, and how a new line keeps clear of those that are there."""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.districts import District, half_width
from pcsparse.data.synthetic.street import Node, trace, wander

# metres: how near two streets may come that do not meet, and how far from a junction that does not count
_APART, _MEETING = 15.0, 34.0
_TRIES = 5


class Draft:
    """A street while it grows forwards, and once backwards, from the place where it begins."""

    def __init__(self, rng: Generator, district: District, start: Floats, heading: float) -> None:
        self.half = half_width(rng, district)
        self.forward: Floats = np.asarray(start, np.float64)[None]
        self.back: Floats = np.zeros((0, 2))
        self.start_heading = self.lean = self.heading = heading
        self.nodes: list[Node] = []
        self.caps: list[float | None] = [None, None]

    @property
    def end(self) -> float:
        """Metres from where it began to where it ends now."""
        return float(len(self.forward) - 1)

    def points(self) -> Floats:
        """(n, 2) world metres."""
        return np.concatenate([self.back, self.forward])

    def shift(self) -> float:
        """Metres that the growth backwards has put before the beginning."""
        return float(len(self.back))


def free_length(path: Floats, meeting: Floats, others: Floats) -> int:
    """Metres of `path` (n, 2) before it comes near `others` (m, 2), those around `meeting` (2,) apart."""
    away = np.hypot(*(others - meeting).T)
    points = others[(away > _MEETING) & (away < len(path) + _APART + 1)][::2]
    far = np.hypot(*(path - meeting).T) > _MEETING
    gap = np.full(len(path), 1e6)
    gap[far] = np.hypot(path[far, None, 0] - points[None, :, 0], path[far, None, 1] - points[None, :, 1]).min(
        1, initial=1e6
    )
    near = gap < _APART
    return int(near.argmax()) if near.any() else len(path)


def best_path(
    rng: Generator, district: District, start: Floats, headings: tuple[float, float], n: int, others: Floats
) -> tuple[Floats, float, int]:
    """The path, of a few, that stays clear of others for longest.

    Args:
        rng: random numbers.
        district: whose bends it takes.
        start: (2,) world metres.
        headings: radians: at the start, and the one it tends to.
        n: metres.
        others: (m, 2) points of other streets.

    Returns:
        (n, 2) points a metre apart, without the start; the heading at the end; metres that stay clear.
    """
    best: tuple[Floats, float, int] = np.zeros((0, 2)), headings[0], -1
    for _ in range(_TRIES):
        line, angle = trace(start, headings[0], wander(rng, n, headings[0], headings[1], district.bends))
        free = free_length(line[1:], start, others)
        if free > best[2]:
            best = line[1:], float(angle[-1]), free
        if free == n:
            break
    return best


def lead_on(end: Floats, ahead: Floats, target: Floats, side: Floats) -> Floats:
    """A bend from a street's `end`, where it heads for `ahead`, to `target`, which it meets from `side`.

    Args:
        end: (2,) world metres.
        ahead: (2,) unit vector.
        target: (2,) world metres.
        side: (2,) unit vector from the target back along the way one arrives.

    Returns:
        (n, 2) points a metre apart, without the end, with the target.
    """
    pull = 0.4 * float(np.hypot(*(target - end)))
    u = np.linspace(0.0, 1.0, 80)[:, None]
    bend = (1 - u) ** 3 * end + 3 * u * (1 - u) ** 2 * (end + pull * ahead)
    bend = bend + 3 * u * u * (1 - u) * (target + pull * side) + u**3 * target
    length = np.append(0.0, np.cumsum(np.hypot(*np.diff(bend, axis=0).T)))
    even = np.append(np.arange(1.0, length[-1] - 0.5), length[-1])
    return np.stack([np.interp(even, length, bend[:, i]) for i in range(2)], 1)
