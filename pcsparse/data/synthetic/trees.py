"""Trees: bark up to the fork (raw 71); crown, boughs and twigs above it (raw 70), as SemanticKITTI labels.

Local frame: z = 0 ground, the trunk at the origin.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.foliage import cores, in_ball, leaves, skin
from pcsparse.data.synthetic.materials import LEAVES, TRUNK, Surface
from pcsparse.data.synthetic.mesh import Mesh, join, tube, tubes

TWIG = TRUNK.of(LEAVES.semantic)
_FOOT = -0.4


def tree(rng: Generator, detail: float = 1.0) -> Mesh:
    """A tree of 3 to 18 m: broad-leaved, conifer, poplar, young, many-stemmed or bare.

    Args:
        rng: random numbers.
        detail: 1 for leaves of 0.2 m; less for fewer and larger ones with the same shade.
    """
    makers, shares = list(_SHARES), list(_SHARES.values())
    return makers[int(rng.choice(len(makers), p=shares))](rng, detail)


def _trunk(rng: Generator, height: float, radius: float) -> tuple[Mesh, Floats]:
    """A trunk with a flared foot, a slight lean and a bend, and where it ends (3,)."""
    lean, bend = rng.normal(0, 0.035, 2) * height, rng.normal(0, 0.02, 2) * height
    knee, top = np.array([*(0.5 * lean + bend), 0.5 * height]), np.array([*lean, height])
    flare = np.array([0.3 * bend[0], 0.3 * bend[1], min(0.35, 0.2 * height)])
    starts = np.array([[0, 0, _FOOT], flare, knee])
    ends = np.array([flare, knee, top])
    # each piece ends a little inside the next one
    radii = radius * np.array([[1.45, 1.05], [1.05, 0.92], [0.92, 0.8]])
    tint = TRUNK.tinted(float(rng.uniform(0.55, 1.5)))
    return tubes(starts, ends, radii, tint, sides=8), top


def _boughs(rng: Generator, fork: Floats, tips: Floats, radius: float) -> Mesh:
    """Boughs from the fork to (n, 3) tips, each with a knee."""
    knees = fork + (tips - fork) * rng.uniform(0.35, 0.6, (len(tips), 1)) + rng.normal(0, 0.1, tips.shape)
    thick, thin = np.full(len(tips), 0.55 * radius), np.full(len(tips), 0.3 * radius)
    lower = tubes(np.tile(fork, (len(tips), 1)), knees, np.stack([thick, thin], 1), TWIG, sides=5)
    upper = tubes(knees, tips, np.stack([thin, 0 * thin + 0.015], 1), TWIG, sides=4)
    return join([lower, upper])


def _crown(
    rng: Generator, middle: Floats, radii: Floats, detail: float, surface: Surface, density: float
) -> Mesh:
    """Lumps of leaves in the skin of an ellipsoid; `density` 0 (gaps everywhere) to 1 (closed)."""
    volume = float(np.prod(radii))
    count = int(np.clip((10 + 22 * density) * volume ** (1 / 3), 8, 54) * (0.5 + 0.5 * detail))
    hearts = middle + in_ball(rng, count, 0.6) * radii * 0.85
    size = (
        float(np.cbrt(volume / (0.5 + 0.5 * detail)))
        * rng.uniform(0.16, 0.34, (count, 1))
        * rng.uniform(0.8, 1.2, (count, 3))
    )
    # a crown without any opaque lump is as wrong as one of nothing else
    dense = rng.random(count) < 0.35 + 0.6 * density
    n_leaves = int(np.clip(130 * volume ** (2 / 3), 100, 800) * detail)
    span = float(np.clip(np.sqrt(32 * volume ** (2 / 3) / n_leaves), 0.13, 0.6)) * 0.45
    places = skin(rng, hearts, size, n_leaves, 0.22)
    return join([cores(rng, hearts[dense], 0.86 * size[dense], surface), leaves(rng, places, span, surface)])


def broadleaf(rng: Generator, detail: float = 1.0) -> Mesh:
    """A broad-leaved tree of 5 to 16 m; half of them have boughs down to the grass."""
    height = float(rng.uniform(5.0, 16.0))
    low = rng.random() < 0.5
    clear = float(rng.uniform(0.3, 1.0) if low else np.clip(rng.normal(1.7, 0.6), 0.9, 0.5 * height))
    radius = float(np.clip(rng.lognormal(-4.4, 0.35) * height, 0.05, 0.45))
    trunk, fork = _trunk(rng, clear + 0.3, radius)
    radii = np.array([1.0, 1.0, 0.0]) * float(rng.uniform(0.22, 0.38)) * height
    radii[2] = 0.5 * (height - clear)
    middle = np.array([*fork[:2], clear + radii[2]])
    tips = middle + in_ball(rng, int(rng.integers(4, 9)), 1.0) * radii * 0.8
    surface = LEAVES.tinted(float(rng.uniform(0.7, 1.25)))
    crown = _crown(rng, middle, radii, detail, surface, float(rng.uniform(0.2, 1.0)))
    return join([trunk, _boughs(rng, fork, tips, radius), crown])


def young(rng: Generator, detail: float = 1.0) -> Mesh:
    """A young street tree of 3 to 6 m with a small round crown, often tied to stakes (raw 71 as well)."""
    height = float(rng.uniform(3.0, 6.0))
    clear = float(rng.uniform(1.5, 2.3))
    trunk, fork = _trunk(rng, clear + 0.2, float(rng.uniform(0.03, 0.07)))
    radii = np.array([0.22, 0.22, 0.5]) * np.array([height, height, height - clear])
    middle = np.array([*fork[:2], clear + radii[2]])
    surface = LEAVES.tinted(float(rng.uniform(0.7, 1.25)))
    parts = [trunk, _crown(rng, middle, radii, detail, surface, float(rng.uniform(0.1, 0.9)))]
    parts.append(_boughs(rng, fork, middle + in_ball(rng, 3, 1.0) * radii * 0.7, 0.05))
    if rng.random() < 0.4:
        at = np.array([[0.35, 0.0, 0.0], [-0.18, 0.3, 0.0], [-0.18, -0.3, 0.0]])[: int(rng.integers(2, 4))]
        top = at + np.array([0, 0, 1.7])
        parts.append(tubes(at - [0, 0, 0.3], top, np.full((len(at), 2), 0.04), TRUNK, sides=6))
    return join(parts)


def many_stemmed(rng: Generator, detail: float = 1.0) -> Mesh:
    """A birch, hazel or willow with two to five stems from one foot."""
    height, stems = float(rng.uniform(4.0, 9.0)), int(rng.integers(2, 6))
    way = rng.uniform(0, 2 * np.pi, stems)
    out = np.stack([np.cos(way), np.sin(way), 0 * way], 1) * rng.uniform(0.1, 0.3, (stems, 1))
    top = out * rng.uniform(1.3, 2.8, (stems, 1)) + [0, 0, 0.5 * height]
    thick = rng.uniform(0.04, 0.1, stems)
    parts = [
        tubes(out + np.array([0, 0, _FOOT]), top, np.stack([thick * 1.2, thick * 0.6], 1), TRUNK, sides=6)
    ]
    radii = np.array([0.25 * height, 0.25 * height, 0.36 * height])
    middle = np.array([0, 0, 0.62 * height])
    surface = LEAVES.tinted(float(rng.uniform(0.7, 1.25)))
    parts.append(_crown(rng, middle, radii, detail, surface, float(rng.uniform(0.0, 0.7))))
    return join(parts)


def conifer(rng: Generator, detail: float = 1.0) -> Mesh:
    """A spruce or a fir of 3 to 14 m: whorls of boughs in a cone, mostly down to the ground."""
    height, base = float(rng.uniform(3.0, 14.0)), float(rng.choice([0.1, 0.6, 1.8], p=[0.5, 0.3, 0.2]))
    radius = float(rng.uniform(0.14, 0.26)) * height
    whorls = int(np.clip((height - base) / 0.55, 4, 16))
    level = np.repeat((np.arange(whorls) + 0.5) / whorls, 7)
    level = level + rng.normal(0, 0.25 / whorls, len(level))
    way = rng.uniform(0, 2 * np.pi, len(level))
    reach = radius * (1.02 - level).clip(0.04) * rng.uniform(0.45, 0.75, len(level))
    # tips of boughs hang
    drop = base + level * (height - base) - 0.25 * reach
    hearts = np.stack([reach * np.cos(way), reach * np.sin(way), np.maximum(drop, 0.1)], 1)
    size = np.stack([0.5 * reach + 0.12, 0.5 * reach + 0.12, 0.2 + 0.06 * reach], 1)
    surface = LEAVES.tinted(float(rng.uniform(0.55, 1.0)))
    count = int(np.clip(40 * radius * height, 150, 900) * detail)
    places = skin(rng, hearts, size, count, 0.25)
    places[:, 2] = np.abs(places[:, 2])
    thick = 0.011 * height + 0.05
    trunk = tube(np.array([0, 0, _FOOT]), np.array([0, 0, 0.9 * height]), (thick, 0.03), TRUNK)
    span = 0.17 / float(np.sqrt(detail))
    return join([trunk, cores(rng, hearts, 0.8 * size, surface), leaves(rng, places, span, surface)])


def poplar(rng: Generator, detail: float = 1.0) -> Mesh:
    """A poplar, a cypress or a clipped column of 3 to 15 m: slender, leaves from near the ground up."""
    height, base = float(rng.uniform(3.0, 15.0)), float(rng.uniform(0.1, 1.0))
    radii = np.array([1.0, 1.0, 0.0]) * float(np.clip(rng.uniform(0.08, 0.14) * height, 0.35, 1.6))
    radii[2] = 0.5 * (height - base)
    count = int(np.clip(2.2 * height / radii[0], 10, 50))
    hearts = np.array([0, 0, base + radii[2]]) + in_ball(rng, count, 0.5) * radii * 0.75
    size = radii[0] * rng.uniform(0.4, 0.65, (count, 1)) * np.array([1.0, 1.0, 1.7])
    surface = LEAVES.tinted(float(rng.uniform(0.6, 1.2)))
    places = skin(rng, hearts, size, int(np.clip(120 * radii[0] * height, 150, 700) * detail), 0.2)
    thick = 0.012 * height + 0.03
    trunk = tube(np.array([0, 0, _FOOT]), np.array([0, 0, 0.8 * height]), (thick, 0.03), TRUNK)
    span = 0.15 / float(np.sqrt(detail))
    return join([trunk, cores(rng, hearts, 0.85 * size, surface), leaves(rng, places, span, surface)])


def bare(rng: Generator, detail: float = 1.0) -> Mesh:
    """A tree in winter of 4 to 12 m: boughs that part three times, and no leaves."""
    height = float(rng.uniform(4.0, 12.0))
    radius = float(np.clip(rng.lognormal(-4.4, 0.35) * height, 0.05, 0.4))
    trunk, fork = _trunk(rng, float(rng.uniform(1.4, 2.8)), radius)
    parts, starts, thick = [trunk], fork[None], np.array([0.7 * radius])
    ways = np.array([[0.0, 0.0, 1.0]])
    length = 0.42 * (height - fork[2])
    for fan in (5, 4, 5 if detail > 0.5 else 2):
        ways = np.repeat(ways, fan, 0) + rng.normal(0, 0.55, (len(ways) * fan, 3))
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        starts, thick = np.repeat(starts, fan, 0), np.repeat(thick, fan) * 0.55
        ends = starts + ways * length * rng.uniform(0.7, 1.2, (len(ways), 1))
        thick = np.maximum(thick, 0.012)
        parts.append(tubes(starts, ends, np.stack([thick, 0.6 * thick], 1), TWIG, sides=4))
        starts, length = ends, length * 0.62
    return join(parts)


_SHARES: dict[Callable[[Generator, float], Mesh], float] = {
    broadleaf: 0.56,
    young: 0.12,
    conifer: 0.13,
    many_stemmed: 0.07,
    poplar: 0.06,
    bare: 0.06,
}
