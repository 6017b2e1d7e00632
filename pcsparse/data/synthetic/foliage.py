"""What plants are made of: loose leaves, and lumps of leaves so dense that no pulse crosses them.

A sweep sees hedges and crowns as rough skins, one or two decimetres deep, with holes between the boughs: the
lumps carry the skin, the leaves around them make it rough.
"""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.materials import Surface
from pcsparse.data.synthetic.mesh import Mesh, triangles

_PHI = (1 + 5**0.5) / 2
_BALL = np.array([[0, s, t * _PHI] for s in (-1, 1) for t in (-1, 1)], np.float64)
_BALL = np.concatenate([_BALL, _BALL[:, [2, 0, 1]], _BALL[:, [1, 2, 0]]]) / np.sqrt(1 + _PHI**2)


def _ball_faces() -> Ints:
    """(20, 3) faces of the icosahedron over `_BALL`: the triples at the shortest distance."""
    gap = np.linalg.norm(_BALL[:, None] - _BALL[None], axis=2)
    near = gap < 1.2
    rows = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    return np.array(rows)


_FACES = _ball_faces()


def leaves(rng: Generator, centres: Floats, size: float, surface: Surface) -> Mesh:
    """One randomly turned triangle of about `size` metres around each of `centres` (n, 3)."""
    offsets = rng.normal(size=(len(centres), 3, 3))
    offsets *= (size * rng.uniform(0.4, 0.9, (len(centres), 1, 1))) / np.linalg.norm(
        offsets, axis=2, keepdims=True
    )
    return _tinted(rng, triangles(centres[:, None, :] + offsets, surface), 1)


def _tinted(rng: Generator, mesh: Mesh, group: int) -> Mesh:
    """Every `group` triangles a shade of their own, up to a fifth brighter or darker."""
    tint = np.repeat(rng.uniform(0.8, 1.2, len(mesh) // group), group).astype(np.float32)
    return Mesh(mesh.corners, mesh.semantic, mesh.instance, mesh.material, mesh.reflectivity * tint)


def in_ball(rng: Generator, count: int, hollow: float) -> Floats:
    """Points (count, 3) in the unit ball; `hollow` > 0 draws them towards the skin."""
    points = rng.normal(size=(count, 3))
    radius = rng.random(count) ** (1.0 / (3.0 + 6.0 * hollow))
    return points / np.linalg.norm(points, axis=1, keepdims=True) * radius[:, None]


def cores(rng: Generator, hearts: Floats, radii: Floats, surface: Surface) -> Mesh:
    """Closed crumpled balls of 20 triangles that no ray passes.

    Args:
        rng: random numbers.
        hearts: (n, 3) metres.
        radii: (n, 3) metres.
        surface: what they are.
    """
    count = len(hearts)
    turn = rng.uniform(0, 2 * np.pi, count)
    c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, y, z = _BALL.T
    ball = np.stack([c * x - s * y, s * x + c * y, np.broadcast_to(z, (count, 12))], 2)
    ball = ball * rng.uniform(0.75, 1.2, (count, 12, 1))
    corners = hearts[:, None] + radii[:, None] * ball
    return _tinted(rng, triangles(corners[:, _FACES].reshape(-1, 3, 3), surface), 20)


def skin(rng: Generator, hearts: Floats, radii: Floats, count: int, depth: float) -> Floats:
    """Places (count, 3) of leaves around the skins of lumps: `depth` is how far they stray, of the radius."""
    # the larger the lump, the more leaves it gets
    weight = np.prod(radii, axis=1) ** (2 / 3)
    owner = rng.choice(len(hearts), count, p=weight / weight.sum())
    way = rng.normal(size=(count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    reach = 0.85 + depth * rng.exponential(1.0, count).clip(max=2.5)
    return hearts[owner] + radii[owner] * way * reach[:, None]
