"""Cross-sections of a street and the ground they make: road, parking, kerbs, pavements, land, junctions."""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import LANE_MARK, PARKING, ROAD, SIDEWALK, TERRAIN, Material, Surface
from pcsparse.data.synthetic.mesh import Mesh, join, quads
from pcsparse.data.synthetic.street import REACH, Street

_KERB_RUN = 0.03


@dataclass(frozen=True)
class Strip:
    """A band of ground: from the previous strip's edge to `outer` metres beyond the road's edge."""

    outer: float
    lift: float
    surface: Surface


@dataclass(frozen=True)
class Side:
    """One side of a block, from the road's edge outwards.

    Args:
        strips: bands, in order; the last reaches to the end of the land.
        front: metres beyond the road's edge where private ground begins.
        rough: metres beyond the road's edge where levelled ground ends.
        rise, run: height that the land gains (or loses) beyond `rough`, over how many metres.
    """

    strips: tuple[Strip, ...]
    front: float
    rough: float
    rise: float
    run: float

    def lift(self, u: Floats | float) -> Floats:
        """Metres that kerbs lift the ground at `u` metres beyond the road's edge."""
        knots, lifts, edge, last = [-1e3, 0.0], [0.0, 0.0], 0.0, 0.0
        for strip in self.strips:
            if strip.lift != last:
                knots += [edge + 1e-6, edge + _KERB_RUN]
                lifts += [last, strip.lift]
            edge, last = strip.outer, strip.lift
        knots.append(1e4)
        lifts.append(last)
        u = np.asarray(u, np.float64)
        return np.interp(u, knots, lifts)

    def ramp(self, u: Floats | float) -> Floats:
        """Metres that the land has gained at `u` metres beyond the road's edge."""
        share = np.clip((np.asarray(u, np.float64) - self.rough) / self.run, 0.0, 1.0)
        return self.rise * share * share * (3 - 2 * share)

    def lines(self) -> tuple[Floats, list[Surface]]:
        """Edges of the cells across, metres beyond the road's edge, and the surface of each cell."""
        edges, surfaces = [0.0], []
        for strip in self.strips:
            start = edges[-1]
            if strip.outer - start > 0.2:
                edges.append(start + _KERB_RUN)
                surfaces.append(strip.surface)
                start = edges[-1]
            while start < strip.outer - 1e-9:
                # cells grow with the distance: far bumps are not seen in detail
                start = min(strip.outer, start + max(1.0, 0.08 * start))
                edges.append(start)
                surfaces.append(strip.surface)
        return np.array(edges), surfaces


@dataclass(frozen=True)
class Block:
    """A stretch of street between `start` and `end` (metres along) with one cross-section.

    Args:
        start, end: metres along the street.
        half: half the road's width, metres.
        left, right: the two sides.
        marked: whether lanes are painted.
        shades: how bright road, paved and unpaved ground are, relative to their surfaces.
        arm: half the width of a crossing street, metres; 0 if none.
        arms: whether that street leaves to the left and to the right.
    """

    start: float
    end: float
    half: float
    left: Side
    right: Side
    marked: bool
    shades: tuple[float, float, float]
    arm: float = 0.0
    arms: tuple[bool, bool] = (False, False)

    def side(self, sign: int) -> Side:
        """The side to the left (+1) or right (-1)."""
        return self.left if sign > 0 else self.right

    def shaded(self, surface: Surface) -> Surface:
        """A ground surface as bright as this block has it."""
        road, paved, soil = self.shades
        shade = {Material.ASPHALT: road, Material.PAVING: paved}.get(surface.material, soil)
        return surface.tinted(shade)

    def has_arm(self, sign: int) -> bool:
        """Whether a crossing street leaves on that side."""
        return self.arm > 0 and self.arms[0 if sign > 0 else 1]

    def _off_arm(self, s: Floats | float) -> Floats:
        """Metres outside the crossing street's carriageway."""
        return np.abs(np.asarray(s) - 0.5 * (self.start + self.end)) - self.arm

    def lift(self, s: Floats | float, t: Floats | float, sign: int) -> Floats:
        """Metres above the lie of the land."""
        u = np.abs(np.asarray(t, np.float64)) - self.half
        lift = self.side(sign).lift(u)
        if self.has_arm(sign):
            kerb = np.clip(self._off_arm(s) / _KERB_RUN, 0.0, 1.0)
            return np.minimum(lift, 0.12) * kerb
        return lift + self._within(s, 9.0) * self.side(sign).ramp(u)

    def _within(self, s: Floats | float, margin: float) -> Floats:
        """0 at the ends of the block, 1 from `margin` metres on: neighbours meet on level ground."""
        gap = np.minimum(np.asarray(s) - self.start, self.end - np.asarray(s))
        share = np.clip(gap / margin, 0.0, 1.0)
        return share * share * (3 - 2 * share)

    def height(self, street: Street, s: Floats | float, t: Floats | float) -> Floats:
        """World z of the ground at (s, t), metres."""
        sign = 1 if np.mean(t) > 0 else -1
        x, y = street.world(s, t)
        wild = np.clip((np.abs(np.asarray(t)) - self.half - self.side(sign).rough) / 3.0, 0.0, 1.0)
        if self.has_arm(sign):
            wild = 0.0 * wild
        wild = wild * self._within(s, 5.0)
        return street.relief.height(x, y) + wild * street.bumps.height(x, y) + self.lift(s, t, sign)


def _grid(street: Street, block: Block, s: Floats, t: Floats) -> Floats:
    """Vertices (len(s), len(t), 3) of the ground, cut off where the land ends."""
    sign = 1 if t.mean() > 0 else -1
    limit = street.limit(s, sign)[:, None]
    across = sign * np.minimum(np.abs(t)[None, :], limit)
    along = np.broadcast_to(s[:, None], across.shape)
    x, y = street.world(along, across)
    return np.stack([x, y, block.height(street, along, across)], -1)


def _cells(grid: Floats) -> Floats:
    """Quadrilaterals (rows, columns, 4, 3) between the vertices."""
    return np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], axis=2)


def _carriageway(street: Street, block: Block, s: Floats) -> Mesh:
    marks = [-0.06, 0.06] if block.marked else [0.0]
    t = np.array([-block.half, -block.half + 0.35, -block.half + 0.47, -block.half / 2, *marks])
    t = np.concatenate([t, [block.half / 2, block.half - 0.47, block.half - 0.35, block.half]])
    x, y = street.world(s[:, None], t[None, :])
    # a crown of two centimetres lets the water off
    crown = 0.02 * (1 - (t / block.half) ** 2)
    cells = _cells(np.stack([x, y, street.relief.height(x, y) + crown], -1))
    painted = np.zeros(cells.shape[:2], bool)
    if block.marked and block.arm == 0:
        painted[:, 4] = np.arange(len(painted)) % 4 < 2
        painted[:, [1, len(t) - 3]] = block.half > 4.5
    return join([quads(cells[~painted], block.shaded(ROAD)), quads(cells[painted], LANE_MARK)])


def ground(street: Street, block: Block) -> Mesh:
    """All ground of a block, with skirts at its ends so that no ray slips under a step to the next block."""
    cuts = np.linspace(block.start, block.end, max(2, int((block.end - block.start) / 1.5)))
    if block.arm:
        middle = 0.5 * (block.start + block.end)
        edges = [middle + side * (block.arm + run) for side in (-1, 1) for run in (0.0, _KERB_RUN)]
        cuts = np.unique(np.concatenate([cuts, edges]))
    parts = [_carriageway(street, block, cuts)]
    for sign in (1, -1):
        edges_u, surfaces = block.side(sign).lines()
        t = sign * (block.half + np.append(edges_u[edges_u < REACH], REACH))
        grid = _grid(street, block, cuts, t)
        cells = _cells(grid)
        rows = np.array([surfaces[min(i, len(surfaces) - 1)].semantic for i in range(cells.shape[1])])
        owner = np.broadcast_to(rows[None], cells.shape[:2]).copy()
        if block.has_arm(sign):
            crossing = block._off_arm(0.5 * (cuts[1:] + cuts[:-1])) <= 0
            owner[:] = SIDEWALK.semantic
            owner[crossing] = ROAD.semantic
        known = {surface.semantic: surface for surface in (*surfaces, ROAD, SIDEWALK, PARKING, TERRAIN)}
        # cells beyond the end of the land have collapsed
        solid = np.linalg.norm(cells[:, :, 2] - cells[:, :, 0], axis=-1) > 0.01
        flat = np.linalg.norm(cells[:, :, 3, :2] - cells[:, :, 0, :2], axis=-1) > 1e-4
        for semantic, surface in known.items():
            parts.append(quads(cells[(owner == semantic) & solid & flat], block.shaded(surface)))
        for end in (grid[0], grid[-1]):
            low = end - np.array([0, 0, 4.0])
            parts.append(quads(np.stack([end[:-1], end[1:], low[1:], low[:-1]], 1), TERRAIN))
    return join(parts)
