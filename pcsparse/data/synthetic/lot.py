"""One side of one block while it is being built: how things get their place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Bools, Floats
from pcsparse.data.synthetic.land import Land, Spots
from pcsparse.data.synthetic.materials import LEAVES
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.data.synthetic.route import Route
from pcsparse.data.synthetic.section import Block
from pcsparse.data.synthetic.street import Street, stand
from pcsparse.data.synthetic.tiles import Pad

# metres: what stands on private ground keeps off the pavement by this much, and all things off the ego's way
_OFF, _WAY = 0.05, 1.25
# metres: one drives past what is parked with nearly a metre to spare
_PASSING = 1.75
# metres above a road that are kept free of leaves
_CLEARANCE = 3.4


@dataclass
class Lot:
    """One side of one block while it is being built.

    `s` is metres along the street, `t` metres from the middle of the road on this side; where the road is
    wider than its block says (an island, a turning place), what stands beside it moves out. What would stand
    nearer to another street than to this one, or on somebody's road, is left out.

    Args:
        land: streets and heights.
        number: of the street in the land.
        block: which stretch.
        sign: +1 left, -1 right.
        rng: the block's random numbers.
        instance: the next free instance id.
        route: the ego's way, which nothing may block.
        meshes: what has been placed, in world metres.
        pads: pieces of ground with a surface of their own.
        headings: world radians of each thing, by its instance id.
    """

    land: Land
    number: int
    block: Block
    sign: int
    rng: Generator
    instance: int
    route: Route
    meshes: list[Mesh] = field(default_factory=list)
    pads: list[Pad] = field(default_factory=list)
    headings: dict[int, float] = field(default_factory=dict)

    @property
    def street(self) -> Street:
        """The street it belongs to."""
        return self.land.streets[self.number]

    @property
    def front(self) -> float:
        """Metres from the middle of the road to private ground."""
        return self.block.half + self.block.side(self.sign).front

    @cached_property
    def remote(self) -> bool:
        """Whether the ego never comes near: small things are not worth their triangles then."""
        x, y = self.street.world(np.linspace(self.block.start, self.block.end, 5), 0.0)
        gaps = [self.route.gap(float(u), float(v)) for u, v in zip(x, y, strict=True)]
        return min(gaps) > 40.0

    @property
    def span(self) -> float:
        """Metres along the street."""
        return self.block.end - self.block.start

    def uniform(self, low: float, high: float) -> float:
        """A random number."""
        return float(self.rng.uniform(low, high))

    def along(self, margin: float) -> float:
        """A random place, metres along the street: so far from both ends; the middle of a short block."""
        middle = (self.block.start + self.block.end) / 2
        return self.uniform(min(self.block.start + margin, middle), max(self.block.end - margin, middle))

    def chance(self, share: float) -> bool:
        """True in that share of cases."""
        return bool(self.rng.random() < share)

    def pick(self, codes: list[int]) -> int:
        """One of `codes`."""
        return codes[int(self.rng.integers(len(codes)))]

    def place(self, s: Floats | float, t: Floats | float) -> tuple[Floats, Floats]:
        """World x and y, metres."""
        wider = self.street.half_at(s) - self.block.half
        return self.street.world(s, self.sign * (np.asarray(t) + wider))

    def look(self, s: Floats | float, t: Floats | float) -> tuple[Floats, Floats, Spots, Bools]:
        """World x and y (n,) of places, what is there, and whether it is this side's to build on."""
        s, t = np.broadcast_arrays(np.atleast_1d(np.asarray(s, np.float64)), np.asarray(t, np.float64))
        x, y = self.place(s, t)
        spots = self.land.at(x, y)
        wider = self.street.half_at(s) - self.block.half
        # on the inner side of a bend another stretch of the same street may be nearer
        mine = (spots.street == self.number) & (np.abs(self.sign * spots.across - t - wider) < 0.7)
        private = t >= self.front - 0.3
        clear = np.where(private, spots.front > _OFF - 0.3, spots.kerb > 0.15)
        return x, y, spots, mine & clear & (spots.isle < -0.5)

    def gap(self, s: float, t: float) -> float:
        """Metres from the ego's way."""
        x, y = self.place(s, t)
        return self.route.gap(float(x), float(y))

    def put(self, mesh: Mesh, s: float, t: float, yaw: float = 0.0, *, tilted: bool = False) -> bool:
        """Stand `mesh` at (s, t) off the carriageway; yaw 0 faces along the street. False: no room."""
        x, y, spots, free = self.look(s, t)
        if not free[0]:
            return False
        self._stand(mesh, float(x[0]), float(y[0]), float(spots.z[0]), s, yaw, tilted)
        self._prune(float(spots.kerb[0]), float(spots.z[0]))
        return True

    def _prune(self, kerb: float, z: float) -> None:
        """Cut what the last mesh, rooted `kerb` metres behind the kerb, lets hang over a road below 3.4 m."""
        mesh = self.meshes[-1]
        # boughs are long: any corner of theirs may hang low, and over the road
        leaf = (mesh.semantic == LEAVES.semantic) & (mesh.corners[..., 2].min(1) < z + _CLEARANCE)
        if kerb > 6.5 or not leaf.any():
            return
        rows = np.flatnonzero(leaf)
        corners = mesh.corners[rows].reshape(-1, 3)
        spots = self.land.at(corners[:, 0], corners[:, 1])
        over = (spots.kerb < -0.2) & (spots.isle < -0.2)
        keep = np.ones(len(mesh), bool)
        keep[rows[over.reshape(-1, 3).any(1)]] = False
        self.meshes[-1] = mesh.select(keep)

    def _stand(self, mesh: Mesh, x: float, y: float, z: float, s: float, yaw: float, tilted: bool) -> None:
        slope = self.land.slope(x, y) if tilted else (0.0, 0.0)
        turn = float(self.street.heading_at(s)) + yaw
        self.meshes.append(stand(mesh, x, y, z, turn, slope))

    def thing(self, mesh: Mesh, s: float, t: float, yaw: float = 0.0, *, road: bool = False) -> bool:
        """Stand `mesh` as one instance; `road`: it may stand on the carriageway, away from junctions."""
        x, y, spots, free = self.look(s, t)
        if road:
            free = (spots.street == self.number) & (spots.other > 5.0) & (spots.isle < -0.5)
        room = _PASSING if road else _WAY
        if not free[0] or self._blocks_way(mesh, float(x[0]), float(y[0]), s, yaw, room):
            return False
        named = mesh.with_instance(self.instance)
        self._stand(named, float(x[0]), float(y[0]), float(spots.z[0]), s, yaw, True)
        self.headings[self.instance] = float(self.street.heading_at(s)) + yaw
        self.instance += 1
        return True

    def stand_on_island(self, mesh: Mesh, s: float) -> None:
        """Stand `mesh` on a traffic island or a central strip in the middle of the road."""
        x, y = self.street.world(s, 0.0)
        spots = self.land.at(x, y)
        if spots.isle[0] > 0.4 and self.route.gap(float(x), float(y)) > _WAY + 0.5:
            self._stand(mesh, float(x), float(y), float(spots.z[0]), s, 0.0, False)
            self._prune(0.0, float(spots.z[0]))

    def scatter(self, make: Callable[[Generator, float], Mesh], s: Floats, t: Floats) -> None:
        """Stand one `make(rng, detail)` at each of the places (n,) that is free, turned at random."""
        if not len(s):
            return
        x, y, spots, free = self.look(s, t)
        for i in np.flatnonzero(free):
            fine = detail(self.route.gap(float(x[i]), float(y[i])))
            mesh = make(self.rng, fine)
            self._stand(mesh, float(x[i]), float(y[i]), float(spots.z[i]), 0.0, self.uniform(0, 6.3), False)
            self._prune(float(spots.kerb[i]), float(spots.z[i]))

    def _blocks_way(self, mesh: Mesh, x: float, y: float, s: float, yaw: float, room: float) -> bool:
        """Whether `mesh`, stood at (x, y), would come within `room` metres of the ego's way."""
        near = self.route.gap(x, y)
        flat = mesh.corners[..., :2].reshape(-1, 2)
        low, high = flat.min(0), flat.max(0)
        if near > room + float(np.hypot(*np.maximum(-low, high))):
            return False
        turn = float(self.street.heading_at(s)) + yaw
        c, i = np.cos(turn), np.sin(turn)
        rim = [(u, v) for u in np.linspace(low[0], high[0], 5) for v in (low[1], 0.0, high[1])]
        return min(self.route.gap(x + c * u - i * v, y + i * u + c * v) for u, v in rim) < room

    def drape(self, mesh: Mesh, s: float, t: float) -> bool:
        """Lay `mesh` along the street (its x along, its y away from the road), following bend and ground."""
        if not len(mesh):
            return False
        flat = mesh.corners.reshape(-1, 3)
        low, high = flat.min(0), flat.max(0)
        ends = np.linspace(low[0], high[0], max(3, int((high[0] - low[0]) / 1.5)))
        _, _, _, free = self.look(s + np.tile(ends, 2), t + np.repeat([low[1], high[1]], len(ends)))
        if not free.all():
            return False
        # the ground under it on a grid: every corner would cost more than it is worth
        across = np.linspace(low[1], high[1], max(2, int(high[1] - low[1]) + 1))
        x, y = self.place(s + flat[:, 0], t + flat[:, 1])
        grid_s, grid_t = np.meshgrid(ends, across, indexing="ij")
        grid = self.land.at(*self.place(s + grid_s.ravel(), t + grid_t.ravel())).z.reshape(grid_s.shape)
        z = _bilinear(grid, ends, across, flat[:, 0], flat[:, 1]) + flat[:, 2]
        self.meshes.append(mesh.with_corners(np.stack([x, y, z], -1).reshape(-1, 3, 3)))
        return True

    def build(self, mesh: Mesh, s: float, t: float, width: float, depth: float) -> bool:
        """Put a building with its facade at `t` from s to s + width; False where it does not fit.

        At a corner it may reach before the other street's front, as corner houses do.
        """
        along = s + width * np.array([0.0, 0.5, 1.0, 0.0, 1.0, 0.0, 0.5, 1.0, 0.5])
        across = t + depth * np.array([0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 0.5])
        # a straight house on a bend: its corners lie off the bent lines
        middle = s + width / 2
        turn = float(self.street.heading_at(middle))
        x, y = self.place(middle, t)
        u, v = along - middle, self.sign * (across - t)
        world = (
            float(x) + u * np.cos(turn) - v * np.sin(turn),
            float(y) + u * np.sin(turn) + v * np.cos(turn),
        )
        spots = self.land.at(*world)
        facing = abs(float(spots.across[1]) - self.sign * t) < 8.0 and spots.street[1] == self.number
        if not facing or not (spots.front > _OFF).all():
            return False
        z = float(spots.z[[0, 1, 2]].min())
        corners = (mesh.corners - np.array([width / 2, 0, 0])) * np.array([1.0, float(self.sign), 1.0])
        self.meshes.append(stand(mesh.with_corners(corners), float(x), float(y), z, turn))
        return True

    def pave(self, s: tuple[float, float], t: tuple[float, float], code: int) -> None:
        """Give the private ground between `s` and `t` another surface, a row of `section.SURFACES`."""
        middle = 0.5 * (s[0] + s[1])
        x, y = self.place(middle, 0.5 * (t[0] + t[1]))
        turn = float(self.street.heading_at(middle))
        self.pads.append(Pad(float(x), float(y), turn, (s[1] - s[0], t[1] - t[0]), code))


def _bilinear(grid: Floats, u: Floats, v: Floats, at_u: Floats, at_v: Floats) -> Floats:
    """`grid` (len(u), len(v)) over evenly spaced u and v, at places (n,)."""

    def split(knots: Floats, at: Floats) -> tuple[Floats, Floats]:
        span = max(float(knots[-1] - knots[0]), 1e-9)
        place = np.clip((at - knots[0]) / span, 0.0, 1.0) * (len(knots) - 1)
        low = np.minimum(place.astype(np.int64), len(knots) - 2)
        return low, place - low

    i, a = split(u, at_u)
    j, b = split(v, at_v)
    low = grid[i, j] * (1 - b) + grid[i, j + 1] * b
    high = grid[i + 1, j] * (1 - b) + grid[i + 1, j + 1] * b
    return low * (1 - a) + high * a


def detail(gap: float) -> float:
    """How finely a plant `gap` metres from the ego's way is drawn: 1 up to 12 m, less beyond."""
    return float(np.clip(12.0 / max(gap, 1.0), 0.22, 1.0))
