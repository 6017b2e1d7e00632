"""The line a street follows, the land it lies on, and the way from (along, across) to world metres."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.mesh import Mesh, rotate, yaw_rotation

# metres: how far the land reaches to either side; beyond the sensor's 80 m nothing is seen
REACH = 86.0


@dataclass(frozen=True)
class Relief:
    """Heights as a sum of sine waves.

    Args:
        waves: (w, 4) float64: amplitude (m), wave numbers along x and y (rad/m), phase.
    """

    waves: Floats

    def height(self, x: Floats, y: Floats) -> Floats:
        """Metres, in the shape of `x`."""
        out = np.zeros(np.shape(x))
        for amplitude, kx, ky, phase in self.waves:
            out += amplitude * np.sin(kx * x + ky * y + phase)
        return out


def make_relief(rng: Generator, slope: float, shortest: float, longest: float, count: int = 6) -> Relief:
    """Waves from `shortest` to `longest` metres whose slopes add up to about `slope` (rise over run, rms)."""
    length = np.exp(rng.uniform(np.log(shortest), np.log(longest), count))
    k = 2 * np.pi / length
    angle = rng.uniform(0, 2 * np.pi, count)
    amplitude = slope * np.sqrt(2.0 / count) / k
    return Relief(
        np.stack([amplitude, k * np.cos(angle), k * np.sin(angle), rng.uniform(0, 2 * np.pi, count)], 1)
    )


@dataclass(frozen=True)
class Street:
    """A centre line with land around it.

    `s` is metres along the line, `t` metres across it, positive to the left.

    Args:
        line: (n, 2) float64 world positions at s = first + 0, 1, 2 … metres.
        heading: (n,) float64 radians at the same places, unwrapped.
        limits: (2, n) float64: how far the land to the left (row 0) and right reaches before it meets itself.
        first: s of the first row.
        relief: the lie of the land, road included.
        bumps: what is added where nobody has levelled the ground.
    """

    line: Floats
    heading: Floats
    limits: Floats
    first: float
    relief: Relief
    bumps: Relief

    @property
    def last(self) -> float:
        """Metres along the street of the last row."""
        return self.first + len(self.line) - 1

    def heading_at(self, s: Floats | float) -> Floats:
        """Radians."""
        return np.interp(np.asarray(s) - self.first, np.arange(len(self.line)), self.heading)

    def limit(self, s: Floats | float, side: int) -> Floats:
        """Metres that the land reaches on `side` (+1 left, -1 right)."""
        row = self.limits[0 if side > 0 else 1]
        return np.interp(np.asarray(s) - self.first, np.arange(len(self.line)), row)

    def world(self, s: Floats | float, t: Floats | float) -> tuple[Floats, Floats]:
        """World x and y, metres, of points at `s` along and `t` across."""
        rows = np.arange(len(self.line))
        u = np.asarray(s, np.float64) - self.first
        x, y, h = (np.interp(u, rows, column) for column in (self.line[:, 0], self.line[:, 1], self.heading))
        return x - np.asarray(t) * np.sin(h), y + np.asarray(t) * np.cos(h)

    def rigid(
        self, mesh: Mesh, s: float, t: float, z: float, yaw: float = 0.0, *, tilted: bool = False
    ) -> Mesh:
        """`mesh` at (s, t) and height z, turned by `yaw` from the street; `tilted`: sheared to the slope."""
        x, y = self.world(s, t)
        turn = float(self.heading_at(s)) + yaw
        corners = rotate(mesh.corners, yaw_rotation(turn))
        if tilted:
            gx = (self.relief.height(x + 1.0, y) - self.relief.height(x - 1.0, y)) / 2
            gy = (self.relief.height(x, y + 1.0) - self.relief.height(x, y - 1.0)) / 2
            corners[..., 2] += gx * corners[..., 0] + gy * corners[..., 1]
        return mesh.with_corners(corners + np.array([float(x), float(y), z]))


def _limits(line: Floats, heading: Floats) -> Floats:
    """How far one can walk away from each point of the line, left and right, and still be nearest to it."""
    reach = np.arange(2.0, REACH + 2.0, 2.0)
    n = len(line)
    out = np.empty((2, n))
    # a point 86 m away can only be nearer to something within 172 m
    window = np.arange(-180, 181, 3)
    for row, side in enumerate((1.0, -1.0)):
        normal = side * np.stack([-np.sin(heading), np.cos(heading)], 1)
        for start in range(0, n, 256):
            here = np.arange(start, min(start + 256, n))
            spots = line[here, None] + reach[None, :, None] * normal[here, None]
            others = line[np.clip(here[:, None] + window[None], 0, n - 1)]
            gap = ((spots[:, :, None] - others[:, None]) ** 2).sum(-1).min(-1)
            bad = np.sqrt(gap) < reach[None] - 0.7
            first = np.where(bad.any(1), bad.argmax(1), len(reach) - 1)
            out[row, here] = np.minimum(reach[first], REACH)
    return out


def make_street(rng: Generator, length: float, hilliness: float) -> Street:
    """A street of `length` metres (and 100 more at either end) that bends, but never back onto itself.

    Args:
        rng: the town's random numbers.
        length: metres.
        hilliness: rms slope of the land, rise over run (0.03 is a rolling town).
    """
    margin = 100
    n = int(length) + 2 * margin + 1
    curvature = np.zeros(n)
    at, heading = 0, 0.0
    while at < n:
        at += int(rng.uniform(30, 160))
        # bend back towards the main direction, by 10 to 70 degrees, on a radius of 18 to 150 m
        turn = float(rng.uniform(0.15, 1.2)) * (
            -np.sign(heading) if rng.random() < 0.75 and heading else rng.choice([-1, 1])
        )
        turn = float(np.clip(heading + turn, -1.2, 1.2) - heading)
        radius = float(np.exp(rng.uniform(np.log(18), np.log(150))))
        span = max(3, int(abs(turn) * radius))
        curvature[at : at + span] = turn / span
        heading += turn
        at += span
    # clothoids instead of sudden bends
    kernel = np.hanning(15)[1:-1]
    curvature = np.convolve(curvature, kernel / kernel.sum(), mode="same")
    angle = np.cumsum(curvature)
    line = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), 0)
    relief = make_relief(rng, hilliness, 90.0, 600.0)
    bumps = make_relief(rng, float(rng.uniform(0.02, 0.09)), 4.0, 40.0, 8)
    return Street(line, angle, _limits(line, angle), -float(margin), relief, bumps)
