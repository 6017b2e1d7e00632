"""A town: streets, what stands along them, and what moves on them. Everything follows from one seed.

`Town.route` is the ego's way: `route.world(s, t)` gives world x and y at s metres along it and t to its left;
`Town.height(x, y)` the ground there. The streets are `Town.network.streets`, the ground is `Town.land`.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.districts import DISTRICTS, SHARES, pick
from pcsparse.data.synthetic.frontage import KINDS
from pcsparse.data.synthetic.kerbside import kerbside
from pcsparse.data.synthetic.land import Land
from pcsparse.data.synthetic.lot import Lot
from pcsparse.data.synthetic.mesh import EMPTY, Mesh, join
from pcsparse.data.synthetic.network import LEAD, Network, make_network
from pcsparse.data.synthetic.paint import painted
from pcsparse.data.synthetic.repairs import mended
from pcsparse.data.synthetic.route import Route, make_route
from pcsparse.data.synthetic.shutter import Shutter
from pcsparse.data.synthetic.street import Relief, make_relief, stand
from pcsparse.data.synthetic.survey import Lines
from pcsparse.data.synthetic.tiles import TILE, Pad, tile_mesh
from pcsparse.data.synthetic.traffic import MOVING as MOVING
from pcsparse.data.synthetic.traffic import Mover, make_movers

# instance ids: each block owns a range, which far blocks share; movers come above them all
_PER_BLOCK, _RANGES = 220, 270
# metres: a margin beyond what a sensor measures, and where towns end for those that see further
_BEYOND, _FARTHEST = 4.0, 130.0
# metres: how far from its stretch of street a block may matter, and a piece of ground of its own reach
_DEEP, _PAD = 24.0, 46.0
# seconds over which a mover's speed is taken: a turn of the sensor
_MOMENT = 0.1
_HALF_TILE = TILE * 0.7072
# least and largest rms slope of the folds of the land that roads follow: real roads (four sweeps) fall across
# by 0.01 to 0.05
_FOLDS = 0.012, 0.035


@dataclass
class Town:
    """The world of one sequence.

    Args:
        network: its streets.
        land: the ground they lie on.
        route: the ego's way, s = 0 where a drive begins.
        movers: what moves.
        speed: of the ego vehicle, metres a second.
        seed: from which all of it follows.
    """

    network: Network
    land: Land
    route: Route
    movers: list[Mover]
    speed: float
    seed: int
    _blocks: OrderedDict[int, tuple[Mesh, list[Pad], dict[int, float]]] = field(default_factory=OrderedDict)
    _tiles: OrderedDict[tuple[int, int], Mesh] = field(default_factory=OrderedDict)
    _spots: Floats = field(default_factory=lambda: np.zeros((0, 3)))

    def __post_init__(self) -> None:
        """Note where the blocks lie: (n, 3) rows of block number, x, y, a few metres apart."""
        rows = []
        for i, (number, j) in enumerate(self._numbers()):
            block = self.network.streets[number].blocks[j]
            s = np.linspace(block.start, block.end, 2 + int((block.end - block.start) / 6.0))
            x, y = self.network.streets[number].world(s, 0.0)
            rows.append(np.stack([np.full(len(s), float(i)), x, y], 1))
        self._spots = np.concatenate(rows)

    def _numbers(self) -> list[tuple[int, int]]:
        """(street, block of the street) of every block of the town."""
        return [(i, j) for i, street in enumerate(self.network.streets) for j in range(len(street.blocks))]

    def height(self, x: Floats | float, y: Floats | float) -> Floats:
        """World z (n,) of the ground at world x and y, metres."""
        return self.land.height(x, y)

    def road_height(self, s: float, t: float) -> float:
        """World z of the ground at `s` metres along the ego's way and `t` to its left."""
        return float(self.land.height(*self.route.world(s, t))[0])

    def _near(self, x: float, y: float, reach: float) -> list[int]:
        """Numbers of the blocks within `reach` metres, ascending."""
        close = np.hypot(self._spots[:, 1] - x, self._spots[:, 2] - y) < reach
        return np.unique(self._spots[close, 0]).astype(int).tolist()

    def _block(self, index: int) -> tuple[Mesh, list[Pad], dict[int, float]]:
        if index not in self._blocks:
            self._blocks[index] = self._build_block(index)
        self._blocks.move_to_end(index)
        # a window of sight spans some forty blocks, of the farthest sight some ninety
        while len(self._blocks) > 240:
            self._blocks.popitem(last=False)
        return self._blocks[index]

    def _build_block(self, index: int) -> tuple[Mesh, list[Pad], dict[int, float]]:
        number, row = self._numbers()[index]
        block = self.network.streets[number].blocks[row]
        rng = np.random.default_rng([self.seed, 1, index])
        parts, pads = [painted(self.land, number, block), mended(rng, self.land, number, block)], []
        headings: dict[int, float] = {}
        instance = 1 + (index % _RANGES) * _PER_BLOCK
        for sign, kind in zip((1, -1), block.kinds, strict=True):
            if not block.built:
                continue
            lot = Lot(self.land, number, block, sign, rng, instance, self.route)
            KINDS[kind](lot)
            if not self.network.streets[number].ring:
                kerbside(lot)
            parts += lot.meshes
            pads += lot.pads
            headings |= lot.headings
            instance = lot.instance
        return join(parts), pads, headings

    def _tile(self, column: int, row: int) -> Mesh:
        key = column, row
        if key not in self._tiles:
            x, y = (column + 0.5) * TILE, (row + 0.5) * TILE
            near = self._near(x, y, _HALF_TILE + _PAD)
            pads = [pad for index in near for pad in self._block(index)[1]]
            reach = [_HALF_TILE + 0.5 * float(np.hypot(*pad.size)) for pad in pads]
            pads = [pad for pad, far in zip(pads, reach, strict=True) if np.hypot(pad.x - x, pad.y - y) < far]
            self._tiles[key] = tile_mesh(self.land, column, row, pads)
        self._tiles.move_to_end(key)
        while len(self._tiles) > 240:
            self._tiles.popitem(last=False)
        return self._tiles[key]

    def static_mesh(self, s: float, slack: float, sight: float) -> Mesh:
        """Everything that stands still and may be seen from `s` to `s + slack` metres along the ego's way.

        Args:
            s: metres along the ego's way.
            slack: metres.
            sight: metres, see `sight_of`.

        Returns:
            the mesh in world metres.
        """
        stops = np.stack(self.route.world(np.array([s, s + slack / 2, s + slack])), 1)
        reach = sight + slack / 4
        low, high = ((edge / TILE).astype(int) for edge in (stops.min(0) - reach, stops.max(0) + reach))
        tiles = [
            (column, row)
            for column in range(low[0] - 1, high[0] + 1)
            for row in range(low[1] - 1, high[1] + 1)
            if np.hypot(*((np.array([column, row]) + 0.5) * TILE - stops).T).min() < reach + _HALF_TILE
        ]
        blocks = sorted({index for x, y in stops.tolist() for index in self._near(x, y, reach + _DEEP)})
        whole = join([self._tile(*tile) for tile in tiles] + [self._block(index)[0] for index in blocks])
        middle = whole.middles()
        gaps = [(middle[:, 0] - x) ** 2 + (middle[:, 1] - y) ** 2 for x, y in stops]
        return whole.select(np.minimum.reduce(gaps) < reach**2)

    def countable(self, s: float, when: float, sight: float) -> dict[int, tuple[float, int]]:
        """What can be counted and may be seen from `s` at `when`, by its instance id in labels.

        Args:
            s: metres along the ego's way.
            when: seconds.
            sight: metres, see `sight_of`.

        Returns:
            world radians of its heading; and a number that nothing else in the town has, where things that
            stand kilometres apart may share an instance id.
        """
        x, y = (float(v) for v in self.route.world(s))
        found: dict[int, tuple[float, int]] = {}
        for index in self._near(x, y, sight + _DEEP):
            lap = index // _RANGES * _RANGES * _PER_BLOCK
            found |= {name: (yaw, name + lap) for name, yaw in self._block(index)[2].items()}
        for number, mover in enumerate(self.movers, 1):
            if abs(when - mover.time) <= 25 and mover.underway(when):
                found[int(mover.mesh.instance[0])] = mover.pose(when)[2], -number
        return found

    def moving_mesh(self, s: float, when: float, shutter: Shutter | None, sight: float) -> Mesh:
        """What moves within sight, each part where it is when the turning sensor looks at it.

        Args:
            s: metres along the ego's way, of the ego vehicle.
            when: seconds, in the middle of the sweep.
            shutter: the sensor's turn; None: all where it is at `when`.
            sight: metres, see `sight_of`.
        """
        x_ego, y_ego = (float(v) for v in self.route.world(s))
        # the ego keeps more room than others do: what passes closer hides the world
        taken = [(x_ego, y_ego, float(self.route.heading_at(s)), 8.0, 3.9)]
        parts = []
        for mover in self.movers:
            if abs(when - mover.time) > 25 or not mover.underway(when):
                continue
            x, y, yaw = mover.pose(when)
            mine = (x, y, yaw, *mover.size)
            if np.hypot(x - x_ego, y - y_ego) > sight or any(_clash(mine, other) for other in taken):
                continue
            taken.append(mine)
            body, z = mover.body(when), float(self.land.height(x, y)[0])
            standing = stand(body, x, y, z, yaw, self.land.slope(x, y))
            parts.append(shutter.seen(standing, self._velocity(mover, when)) if shutter else standing)
        return join(parts) if parts else EMPTY

    def _velocity(self, mover: Mover, when: float) -> Floats:
        """(3,) metres a second at `when`, on the ground as it rises and falls."""
        early, late = (mover.pose(when + side * _MOMENT)[:2] for side in (-0.5, 0.5))
        rise = float(self.land.height(*late)[0]) - float(self.land.height(*early)[0])
        return np.append(np.subtract(late, early), rise) / _MOMENT


def _clash(
    mine: tuple[float, float, float, float, float], other: tuple[float, float, float, float, float]
) -> bool:
    """Whether two boxes (x, y, heading, length, width) come closer than traffic does."""
    turn = mine[2] - other[2]
    c, s = abs(np.cos(turn)), abs(np.sin(turn))
    dx, dy = mine[0] - other[0], mine[1] - other[1]
    along = abs(dx * np.cos(other[2]) + dy * np.sin(other[2]))
    across = abs(dy * np.cos(other[2]) - dx * np.sin(other[2]))
    return bool(
        along < 0.5 * (other[3] + mine[3] * c + mine[4] * s) + 1.2
        and across < 0.5 * (other[4] + mine[3] * s + mine[4] * c) + 0.25
    )


def sight_of(max_range: float) -> float:
    """Metres around the ego within which a town is built for a sensor that measures up to `max_range` metres.

    Beyond 130 m there is nothing, whatever the sensor: what it would see there is a few returns of a sweep.
    """
    return min(max_range + _BEYOND, _FARTHEST)


def make_town(seed: int, length: float) -> Town:
    """A town through which the ego vehicle drives `length` metres.

    Args:
        seed: at least 0; the same seed and length give the same town.
        length: metres that the ego vehicle drives.
    """
    rng = np.random.default_rng([seed, 0])
    name = pick(rng, SHARES)
    district = DISTRICTS[name]
    slope = float(rng.choice(district.slopes))
    network = make_network(rng, length, name)
    relief = make_relief(rng, slope, 90.0, 600.0)
    # roads are not planes: over tens of metres they sag, twist towards junctions, lean into bends
    folds = make_relief(rng, float(rng.uniform(*_FOLDS)), 24.0, 90.0)
    relief = Relief(np.concatenate([relief.waves, folds.waves]))
    bumps = make_relief(rng, float(rng.uniform(0.02, 0.09)), 4.0, 40.0, 8)
    land = Land(network.streets, Lines.of(network.streets), relief, bumps)
    route = make_route(network.streets, network.legs, -float(LEAD))
    speed = float(rng.uniform(*district.speed))
    busy = district.traffic * float(rng.uniform(0.4, 1.6))
    movers = make_movers(rng, network, land, route, (length, speed, busy))
    return Town(network, land, route, movers, speed, seed)
