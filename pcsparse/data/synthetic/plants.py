"""Trees, bushes and hedges: clouds of leaf-sized triangles that let rays through, on bark that does not."""

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.materials import LEAVES, TRUNK, Surface
from pcsparse.data.synthetic.mesh import Mesh, join, triangles, tube


def _leaves(rng: Generator, centres: Floats, size: float, surface: Surface) -> Mesh:
    """One randomly turned triangle of about `size` metres around each of `centres` (n, 3)."""
    offsets = rng.normal(size=(len(centres), 3, 3))
    offsets *= (size * rng.uniform(0.4, 0.9, (len(centres), 1, 1))) / np.linalg.norm(
        offsets, axis=2, keepdims=True
    )
    mesh = triangles(centres[:, None, :] + offsets, surface)
    tint = rng.uniform(0.6, 1.4, len(centres)).astype(np.float32)
    return Mesh(mesh.corners, mesh.semantic, mesh.instance, mesh.material, mesh.reflectivity * tint)


def _in_ball(rng: Generator, count: int, hollow: float) -> Floats:
    """Points (count, 3) in the unit ball; `hollow` > 0 draws them towards the skin."""
    points = rng.normal(size=(count, 3))
    radius = rng.random(count) ** (1.0 / (3.0 + 6.0 * hollow))
    return points / np.linalg.norm(points, axis=1, keepdims=True) * radius[:, None]


def _clumps(rng: Generator, centre: Floats, radii: Floats, count: int, size: float, surface: Surface) -> Mesh:
    """A crown: leaves gathered in clumps inside an ellipsoid, with gaps between the clumps."""
    clumps = max(4, int(count / 70))
    hearts = _in_ball(rng, clumps, 0.4) * (0.85 * radii)
    spread = 0.42 * float(np.cbrt(np.prod(radii))) * rng.uniform(0.6, 1.3, clumps)
    owner = rng.integers(0, clumps, count)
    inside = _in_ball(rng, count, 0.3) * spread[owner, None]
    return _leaves(rng, centre + hearts[owner] + inside, size, surface)


def tree(rng: Generator, detail: float = 1.0) -> Mesh:
    """A broad-leaved tree or a conifer of 4 to 14 m: trunk raw 71, crown raw 70.

    Args:
        rng: random numbers.
        detail: 1 for leaves of 0.2 m; less for fewer and larger ones with the same shade.
    """
    surface = LEAVES.tinted(float(rng.uniform(0.6, 1.3)))
    if rng.random() < 0.15:
        return _conifer(rng, surface, detail)
    height = float(rng.uniform(4.0, 14.0))
    # one in three has boughs down to the grass
    clear = float(
        rng.uniform(0.2, 1.0) if rng.random() < 0.35 else np.clip(rng.normal(1.9, 0.7), 0.8, 0.5 * height)
    )
    trunk = float(rng.uniform(0.007, 0.017)) * height + 0.03
    lean = rng.normal(0, 0.03, 2) * clear
    fork = np.array([lean[0], lean[1], clear + 0.4])
    crown = np.array([1.0, 1.0, 0.0]) * float(rng.uniform(0.20, 0.34)) * height
    crown[2] = 0.5 * (height - clear)
    middle = np.array([lean[0], lean[1], clear + crown[2]])
    parts = [tube(np.array([0, 0, -0.4]), fork, (trunk * 1.15, trunk * 0.8), TRUNK, sides=8)]
    for _ in range(int(rng.integers(3, 7))):
        tip = middle + _in_ball(rng, 1, 1.0)[0] * crown * 0.8
        parts.append(tube(fork, tip, (trunk * 0.45, 0.02), TRUNK, sides=5))
    size = float(rng.uniform(0.16, 0.26))
    count = np.clip(float(rng.uniform(10, 24)) * 4.2 * np.prod(crown), 300, 2800)
    count, size = int(count * detail), size / np.sqrt(detail)
    return join([*parts, _clumps(rng, middle, crown, count, size, surface)])


def _conifer(rng: Generator, surface: Surface, detail: float) -> Mesh:
    height, base = float(rng.uniform(4.0, 12.0)), float(rng.uniform(0.2, 1.5))
    radius = float(rng.uniform(0.14, 0.24)) * height
    count = int(detail * np.clip(220 * radius * height / 3, 400, 2400))
    level = 1.0 - np.sqrt(rng.random(count))
    around = rng.uniform(0, 2 * np.pi, count)
    out = radius * (1.0 - level) * rng.random(count) ** 0.35
    centres = np.stack([out * np.cos(around), out * np.sin(around), base + level * (height - base)], 1)
    trunk = tube(np.array([0, 0, -0.4]), np.array([0, 0, 0.9 * height]), (0.02 * height + 0.05, 0.03), TRUNK)
    return join([trunk, _leaves(rng, centres, 0.20 / float(np.sqrt(detail)), surface)])


def bush(rng: Generator, size: float, detail: float = 1.0) -> Mesh:
    """A bush about `size` metres high that stands on the ground; `detail` as for `tree`."""
    radii = np.array([rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9), 0.55]) * size
    count = int(detail * np.clip(380 * size**1.7, 140, 2200))
    mesh = _clumps(
        rng, np.array([0, 0, 0.5 * size]), radii, count, (0.10 + 0.04 * size) / float(np.sqrt(detail)), LEAVES
    )
    corners = mesh.corners.copy()
    corners[..., 2] = np.abs(corners[..., 2])
    return mesh.with_corners(corners)


def hedge(rng: Generator, length: float, height: float, depth: float) -> Mesh:
    """A clipped hedge along x, centred, with leaves on its skin and some within."""
    area = 2 * height * length + length * depth
    count = int(min(120 * area, 5000))
    size = float(np.clip(np.sqrt(2.4 * area / count), 0.10, 0.30))
    x = rng.uniform(-length / 2, length / 2, count)
    around = rng.uniform(0, 2 * height + depth, count)
    left, right = around < height, around > height + depth
    y = np.where(left, -depth / 2, np.where(right, depth / 2, around - height - depth / 2))
    z = np.where(left, around, np.where(right, 2 * height + depth - around, height))
    inward = rng.exponential(0.06, (count, 2)) * np.sign(rng.random((count, 2)) - 0.25)
    y = y - np.where(left, -1.0, np.where(right, 1.0, 0.0)) * inward[:, 0]
    z = z - np.where(left | right, 0.0, 1.0) * inward[:, 1]
    # long waves keep hedges from being boxes
    wave = 0.08 * np.sin(x * rng.uniform(0.8, 2.0) + rng.uniform(0, 6)) * np.array([[1.0], [1.0]])
    centres = np.stack([x, y + wave[0] * np.sign(y), np.maximum(z + wave[1], 0.02)], 1)
    return _leaves(rng, centres, size, LEAVES.tinted(float(rng.uniform(0.7, 1.2))))


def thicket(rng: Generator, length: float, depth: float, height: float) -> Mesh:
    """Undergrowth: ragged shrubs along x and `depth` metres away from y = 0, rising towards the back."""
    area = length * depth
    count = int(min(60 * area * np.sqrt(height), 9000))
    x = rng.uniform(-length / 2, length / 2, count)
    back = rng.random(count)
    hills = np.clip(rng.normal(1.0, 0.35, max(4, int(area / 2))), 0.2, 1.8)
    cell = ((x / length + 0.5) * 0.999 * len(hills)).astype(int)
    top = height * hills[cell] * (0.25 + 0.75 * np.sqrt(back))
    z = top * rng.random(count) ** 0.7
    centres = np.stack([x, back * depth, z], 1)
    return _leaves(rng, centres, float(rng.uniform(0.14, 0.22)), LEAVES.tinted(float(rng.uniform(0.7, 1.2))))
