"""The line a street follows, how wide it is along it, and the way from (along, across) to world metres."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.mesh import Mesh, rotate, yaw_rotation
from pcsparse.data.synthetic.section import Block

# clothoids instead of sudden bends: metres over which curvature comes and goes
_EASE = np.hanning(15)[1:-1] / np.hanning(15).sum()


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
class Node:
    """Where another street meets this one.

    Args:
        s: metres along this street.
        half: half the other street's width, metres.
        zebra: whether pedestrians' crossings are painted around it.
    """

    s: float
    half: float
    zebra: bool


@dataclass(frozen=True)
class Street:
    """A centre line with a cross-section along it.

    `s` is metres along the line from its first row, `t` metres across it, positive to the left.

    Args:
        line: (n, 2) float64 world positions at s = 0, 1, 2 … metres.
        heading: (n,) float64 radians at the same places, unwrapped.
        half: (n,) float64 metres from the middle to the edge of the carriageway.
        median: (n,) float64 half the width of a traffic island or a central strip; negative where none is.
        island: what such an island is made of: row of `section.SURFACES`.
        island_lift: its height above the road, metres.
        table: (n, 2, 9) float64, columns of `section.COLUMNS`; row 0 is the left side, 1 the right.
        codes: (n, 2, 4) uint8 rows of `section.SURFACES`: bay, verge, walk, front.
        shades: (n, 3) float64 brightness of road, paved and unpaved ground relative to their surfaces.
        caps: (first, last) s of the carriageway.
        corner: metres: radius of the kerbs where it meets another street.
        blocks: stretches with one cross-section each.
        nodes: where other streets meet it.
        ring: whether it closes: a roundabout, driven anticlockwise.
        dash: whether a line is painted along the middle.
    """

    line: Floats
    heading: Floats
    half: Floats
    median: Floats
    island: int
    island_lift: float
    table: Floats
    codes: Ints
    shades: Floats
    caps: tuple[float, float]
    corner: float
    blocks: tuple[Block, ...]
    nodes: tuple[Node, ...]
    ring: bool
    dash: bool

    @property
    def last(self) -> float:
        """Metres along the street of the last row."""
        return float(len(self.line) - 1)

    def _along(self, column: Floats, s: Floats | float) -> Floats:
        return np.interp(np.asarray(s, np.float64), np.arange(len(column)), column)

    def heading_at(self, s: Floats | float) -> Floats:
        """Radians."""
        return self._along(self.heading, s)

    def half_at(self, s: Floats | float) -> Floats:
        """Metres from the middle to the edge of the carriageway."""
        return self._along(self.half, s)

    def lane_at(self, s: Floats | float) -> Floats:
        """Metres from the middle at which one drives, on the right in one's own direction."""
        if self.ring:
            return np.zeros(np.shape(s))
        inner = np.maximum(self._along(self.median, s), 0.0)
        half = self.half_at(s)
        # on wide roads one keeps to a lane, not to the middle of all lanes; on narrow ones off the kerb
        return inner + np.minimum(np.minimum(0.5 * (half - inner), 2.6), half - inner - 1.6)

    def world(self, s: Floats | float, t: Floats | float) -> tuple[Floats, Floats]:
        """World x and y, metres, of points at `s` along and `t` across; straight on beyond the ends."""
        u = np.asarray(s, np.float64)
        x, y, h = (
            self._along(self.line[:, 0], u),
            self._along(self.line[:, 1], u),
            self.heading_at(u),
        )
        over = u - np.clip(u, 0.0, self.last)
        t = np.asarray(t)
        return x + over * np.cos(h) - t * np.sin(h), y + over * np.sin(h) + t * np.cos(h)

    def node_gap(self, s: Floats | float) -> Floats:
        """Metres from `s` to the nearest carriageway of another street at a node; 1e3 without nodes."""
        s = np.asarray(s, np.float64)
        gap = np.full(s.shape, 1e3)
        for node in self.nodes:
            gap = np.minimum(gap, np.abs(s - node.s) - node.half)
        return gap


def stand(mesh: Mesh, x: float, y: float, z: float, yaw: float, slope: tuple[float, float] = (0, 0)) -> Mesh:
    """`mesh` at (x, y, z), turned by `yaw` radians and sheared to a `slope` of dz/dx and dz/dy."""
    corners = rotate(mesh.corners, yaw_rotation(yaw))
    corners[..., 2] += slope[0] * corners[..., 0] + slope[1] * corners[..., 1]
    return mesh.with_corners(corners + np.array([x, y, z]))


def trace(start: Floats, heading: float, curvature: Floats) -> tuple[Floats, Floats]:
    """Positions (n, 2) and headings (n,) a metre apart, from `start` on, under a curvature (n,) in 1 / m."""
    angle = heading + np.cumsum(curvature) - curvature[0]
    middle = angle[:-1] + 0.5 * np.diff(angle)
    steps = np.stack([np.cos(middle), np.sin(middle)], 1)
    line = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)]) + start
    return line, angle


def wander(rng: Generator, n: int, heading: float, lean: float, bends: tuple[float, float, float]) -> Floats:
    """Curvature (n,), 1 / m, of a line that bends now and then and turns back towards the heading `lean`.

    Args:
        rng: random numbers.
        n: metres.
        heading: radians at the start.
        lean: radians: the heading it tends to.
        bends: metres between bends at most, least and largest radius in metres.
    """
    spacing, tight, wide = bends
    curvature = np.zeros(n + 1)
    at = 0
    while at < n:
        at += int(rng.uniform(0.2, 1.0) * spacing)
        off = heading - lean
        back = -np.sign(off) if abs(off) > 0.15 and rng.random() < 0.75 else rng.choice([-1, 1])
        turn = float(rng.uniform(0.1, 1.0)) * float(back)
        turn = float(np.clip(off + turn, -0.9, 0.9)) - off
        radius = float(np.exp(rng.uniform(np.log(tight), np.log(wide))))
        span = max(3, int(abs(turn) * radius))
        curvature[at : at + span] += turn / span
        heading += turn
        at += span
    return np.convolve(curvature, _EASE, mode="same")
