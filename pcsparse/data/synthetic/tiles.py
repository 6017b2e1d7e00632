"""The ground as a mesh: square tiles, cut along kerbs and where its surface changes."""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.land import Land, column, lift
from pcsparse.data.synthetic.materials import Material
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.data.synthetic.section import ASPHALT, KERB_RUN, PAVED, SOIL, SURFACES
from pcsparse.data.synthetic.survey import (
    ACROSS,
    ALONG,
    EDGE,
    FRONT,
    ISLE,
    ISLE_LIFT,
    KERB,
    STREET,
    VERGE,
    survey,
)

TILE = 32
"""Metres: edge of a tile; its grid has a vertex every metre."""

# columns of a corner while it is cut
_X, _Y, _Z, _EDGE, _KERB, _VERGE, _FRONT, _ISLE, _RISE, _ISLE_RISE, _PADS = range(11)


@dataclass(frozen=True)
class Pad:
    """A rectangle of private ground with a surface of its own: a drive, a yard, a car park.

    Args:
        x, y: world metres of its middle.
        yaw: radians of its first axis.
        size: metres along its two axes.
        code: row of `section.SURFACES`.
    """

    x: float
    y: float
    yaw: float
    size: tuple[float, float]
    code: int

    def inside(self, x: Floats, y: Floats) -> Floats:
        """Metres inside the rim, negative outside."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        u, v = c * (x - self.x) + s * (y - self.y), c * (y - self.y) - s * (x - self.x)
        return np.minimum(0.5 * self.size[0] - np.abs(u), 0.5 * self.size[1] - np.abs(v))


def tile_mesh(land: Land, column_: int, row: int, pads: list[Pad]) -> Mesh:
    """The ground from (column, row) * `TILE` metres on.

    Args:
        land: the streets and the land.
        column_: of the tile, along x.
        row: of the tile, along y.
        pads: those that may reach into the tile; of two that overlap the later one is seen.
    """
    axis = np.arange(TILE + 1, dtype=np.float64)
    x, y = (grid.ravel() for grid in np.meshgrid(axis + column_ * TILE, axis + row * TILE, indexing="ij"))
    where = survey(land.lines, x, y)
    codes = sorted({pad.code for pad in pads})
    inside = [_union([pad for pad in pads if pad.code == code], x, y) for code in codes]
    values = np.stack(
        [x, y, land.smooth_height(where, x, y), *(where[:, c] for c in (EDGE, KERB, VERGE, FRONT, ISLE)),
         column(where, "kerb"), where[:, ISLE_LIFT], *inside], 1
    )  # fmt: skip
    cells = np.arange((TILE + 1) ** 2).reshape(TILE + 1, TILE + 1)
    a, b, c, d = (
        cells[:-1, :-1].ravel(),
        cells[1:, :-1].ravel(),
        cells[1:, 1:].ravel(),
        cells[:-1, 1:].ravel(),
    )
    rows = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    corners, origin = values[rows], rows[:, 0]
    cuts = [(_KERB, 0.0), (_KERB, KERB_RUN), (_EDGE, 0.0), (_VERGE, 0.0), (_FRONT, 0.0), (_ISLE, 0.0)]
    cuts += [(_ISLE, KERB_RUN), *((_PADS + i, 0.0) for i in range(len(codes)))]
    for at, level in cuts:
        corners, origin = _cut(corners, origin, at, level)
    return _labelled(land, corners, where[origin], codes)


def _union(pads: list[Pad], x: Floats, y: Floats) -> Floats:
    return np.max([pad.inside(x, y) for pad in pads], axis=0)


def _cut(corners: Floats, origin: Ints, at: int, level: float) -> tuple[Floats, Ints]:
    """Triangles (t, 3, c) cut where their column `at` passes `level`; `origin` (t,) goes with them."""
    value = corners[:, :, at] - level
    crossed = (value.min(1) < -1e-9) & (value.max(1) > 1e-9)
    if not crossed.any():
        return corners, origin
    part, value = corners[crossed], value[crossed]
    positive = value > 0
    # turn each triangle so that the corner alone on its side comes first
    lone = np.where(positive.sum(1) == 1, positive.argmax(1), (~positive).argmax(1))
    turn = (lone[:, None] + np.arange(3)) % 3
    rows = np.arange(len(part))[:, None]
    part, value = part[rows, turn], value[rows, turn]
    first = part[:, 0] + (part[:, 1] - part[:, 0]) * (value[:, 0] / (value[:, 0] - value[:, 1]))[:, None]
    second = part[:, 0] + (part[:, 2] - part[:, 0]) * (value[:, 0] / (value[:, 0] - value[:, 2]))[:, None]
    pieces = np.concatenate(
        [
            np.stack([part[:, 0], first, second], 1),
            np.stack([first, part[:, 1], part[:, 2]], 1),
            np.stack([first, part[:, 2], second], 1),
        ]
    )
    owner = np.tile(origin[crossed], 3)
    ab, ac = pieces[:, 1, :2] - pieces[:, 0, :2], pieces[:, 2, :2] - pieces[:, 0, :2]
    real = np.abs(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]) > 1e-10
    return (
        np.concatenate([corners[~crossed], pieces[real]]),
        np.concatenate([origin[~crossed], owner[real]]),
    )


def _labelled(land: Land, corners: Floats, where: Floats, pads: list[int]) -> Mesh:
    """Mesh of cut triangles; `where` (t, 19) is the survey of a vertex of the cell each comes from."""
    middle = (corners[:, 0] + corners[:, 1] + corners[:, 2]) / 3.0
    strips, shades, isle = _owned(land, where)
    code = np.full(len(middle), ASPHALT, np.uint8)
    beyond = middle[:, _KERB] > 0
    bay = (middle[:, _EDGE] > 0) & ~beyond
    face = beyond & (middle[:, _KERB] < KERB_RUN)
    verge = beyond & ~face & (middle[:, _VERGE] < 0)
    walk = beyond & ~face & ~verge & (middle[:, _FRONT] < 0)
    front = beyond & ~face & (middle[:, _FRONT] >= 0) & ~verge
    for mask, strip in ((bay, 0), (verge, 1), (walk, 2), (front, 3)):
        code[mask] = strips[mask, strip]
    # a kerbstone belongs to the pavement; where the land begins without one, there is none to see
    code[face] = np.where(middle[face, _RISE] > 0.02, PAVED, strips[face, 1])
    for i, surface in enumerate(pads):
        code[(front | verge) & (middle[:, _PADS + i] > 0)] = surface
    code = np.where((middle[:, _ISLE] > 0) & ~beyond, isle, code).astype(np.uint8)
    z = corners[..., _Z] + lift(
        corners[..., _KERB], corners[..., _ISLE], corners[..., _RISE], corners[..., _ISLE_RISE]
    )
    material = np.array([int(surface.material) for surface in SURFACES], np.uint8)[code]
    shade = np.where(material == int(Material.ASPHALT), 0, np.where(material == int(Material.PAVING), 1, 2))
    bright = np.array([surface.reflectivity for surface in SURFACES])[code]
    return Mesh(
        np.stack([corners[..., _X], corners[..., _Y], z], -1),
        np.array([surface.semantic for surface in SURFACES], np.uint16)[code],
        np.zeros(len(code), np.uint16),
        material,
        (bright * shades[np.arange(len(code)), shade]).astype(np.float32),
    )


def _owned(land: Land, where: Floats) -> tuple[Ints, Floats, Ints]:
    """Codes (t, 4) of the strips, shades (t, 3) and code (t,) of islands, of the nearest street."""
    strips = np.full((len(where), 4), SOIL, np.uint8)
    shades = np.ones((len(where), 3))
    isle = np.full(len(where), PAVED, np.uint8)
    owner = where[:, STREET].astype(np.int64)
    for number in np.unique(owner[owner >= 0]):
        mine = owner == number
        street = land.streets[number]
        row = np.clip(np.round(where[mine, ALONG]), 0, len(street.line) - 1).astype(np.int64)
        strips[mine] = street.codes[row, np.where(where[mine, ACROSS] > 0, 0, 1)]
        shades[mine] = street.shades[row]
        isle[mine] = street.island
    return strips, shades, isle
