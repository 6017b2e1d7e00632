"""Triangles that know what they are, and the few solids everything is made of."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pcsparse.data.synthetic.arrays import Bools, Floats, Ints
from pcsparse.data.synthetic.materials import Surface


@dataclass(frozen=True)
class Mesh:
    """A soup of labelled triangles.

    Args:
        corners: (t, 3, 3) float64, metres: triangle, corner, (x, y, z).
        semantic: (t,) uint16 raw SemanticKITTI ids.
        instance: (t,) uint16, 0 where the class has no instances.
        material: (t,) uint8 rows of `materials.Material`.
        reflectivity: (t,) float32, intensity at normal incidence.
    """

    corners: Floats
    semantic: Ints
    instance: Ints
    material: Ints
    reflectivity: Floats

    def __len__(self) -> int:
        return int(self.corners.shape[0])

    def select(self, keep: Bools | Ints) -> "Mesh":
        """The triangles for which `keep` (t,) is true, or those at the rows `keep`."""
        return Mesh(
            self.corners[keep],
            self.semantic[keep],
            self.instance[keep],
            self.material[keep],
            self.reflectivity[keep],
        )

    def moved(self, rotation: Floats, shift: Floats) -> "Mesh":
        """The mesh under x -> rotation @ x + shift; rotation (3, 3), shift (3,) in metres."""
        return self.with_corners(rotate(self.corners, rotation) + shift)

    def with_corners(self, corners: Floats) -> "Mesh":
        """The same triangles elsewhere: corners (t, 3, 3), metres."""
        return Mesh(corners, self.semantic, self.instance, self.material, self.reflectivity)

    def with_instance(self, instance: int) -> "Mesh":
        """The same mesh under one instance id."""
        ids = np.full(len(self), instance, np.uint16)
        return Mesh(self.corners, self.semantic, ids, self.material, self.reflectivity)

    def with_semantic(self, semantic: int) -> "Mesh":
        """The same mesh under one raw class id."""
        ids = np.full(len(self), semantic, np.uint16)
        return Mesh(self.corners, ids, self.instance, self.material, self.reflectivity)

    def middles(self) -> Floats:
        """(t, 3) centres of the triangles, metres."""
        # three slices: numpy reduces over a short axis ten times as slowly
        return (self.corners[:, 0] + self.corners[:, 1] + self.corners[:, 2]) / 3.0

    def normals(self) -> Floats:
        """(t, 3) float64 unit normals; zero for a triangle without area."""
        edges = self.corners[:, 1:] - self.corners[:, :1]
        normals = np.cross(edges[:, 0], edges[:, 1])
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)


EMPTY = Mesh(
    np.zeros((0, 3, 3)),
    np.zeros(0, np.uint16),
    np.zeros(0, np.uint16),
    np.zeros(0, np.uint8),
    np.zeros(0, np.float32),
)


def join(meshes: list[Mesh]) -> Mesh:
    """All triangles of `meshes`, in order."""
    if not meshes:
        return EMPTY
    return Mesh(
        np.concatenate([mesh.corners for mesh in meshes]),
        np.concatenate([mesh.semantic for mesh in meshes]),
        np.concatenate([mesh.instance for mesh in meshes]),
        np.concatenate([mesh.material for mesh in meshes]),
        np.concatenate([mesh.reflectivity for mesh in meshes]),
    )


def triangles(corners: Floats, surface: Surface) -> Mesh:
    """Triangles (t, 3, 3), metres, of one surface."""
    count = corners.shape[0]
    return Mesh(
        np.asarray(corners, np.float64).reshape(count, 3, 3),
        np.full(count, surface.semantic, np.uint16),
        np.zeros(count, np.uint16),
        np.full(count, int(surface.material), np.uint8),
        np.full(count, surface.reflectivity, np.float32),
    )


def quads(corners: Floats, surface: Surface) -> Mesh:
    """Quadrilaterals (q, 4, 3), metres, corners in order around the rim, two triangles each."""
    corners = np.asarray(corners, np.float64).reshape(-1, 4, 3)
    halves = np.stack([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]], axis=1)
    return triangles(halves.reshape(-1, 3, 3), surface)


_BOX_FACES = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
_BOX_SIGNS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


def box(centre: tuple[float, float, float], size: tuple[float, float, float], surface: Surface) -> Mesh:
    """An axis-aligned box, metres."""
    return boxes(np.array([centre]), np.array([size]), surface)


def boxes(centres: Floats, sizes: Floats, surface: Surface) -> Mesh:
    """Axis-aligned boxes: centres (b, 3) and sizes (b, 3), metres."""
    corners = np.asarray(centres)[:, None, :] + _BOX_SIGNS[None] * np.asarray(sizes)[:, None, :]
    return quads(corners[:, _BOX_FACES].reshape(-1, 4, 3), surface)


def tube(start: Floats, end: Floats, radii: tuple[float, float], surface: Surface, sides: int = 8) -> Mesh:
    """A capped prism around the line from `start` (3,) to `end` (3,), with a radius at either end; metres."""
    return tubes(np.asarray([start]), np.asarray([end]), np.asarray([radii]), surface, sides)


def tubes(starts: Floats, ends: Floats, radii: Floats, surface: Surface, sides: int = 8) -> Mesh:
    """Capped prisms around lines, metres.

    Args:
        starts: (n, 3).
        ends: (n, 3).
        radii: (n, 2), at the start and at the end.
        surface: of all of them.
        sides: of each.
    """
    starts, ends = np.asarray(starts, np.float64), np.asarray(ends, np.float64)
    radii = np.asarray(radii, np.float64)
    axis = ends - starts
    axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-9)
    helper = np.where(np.abs(axis[:, :1]) < 0.9, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    side = np.cross(axis, helper)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(axis, side)
    angle = np.arange(sides) * (2 * np.pi / sides)
    circle = np.cos(angle)[:, None] * side[:, None] + np.sin(angle)[:, None] * up[:, None]
    low, high = starts[:, None] + radii[:, :1, None] * circle, ends[:, None] + radii[:, 1:, None] * circle
    next_low, next_high = np.roll(low, -1, 1), np.roll(high, -1, 1)
    wall = np.stack([low, next_low, next_high, high], axis=2)
    lid = np.stack([np.broadcast_to(ends[:, None], high.shape), high, next_high], axis=2)
    bottom = np.stack([np.broadcast_to(starts[:, None], low.shape), next_low, low], axis=2)
    caps = np.concatenate([lid, bottom], axis=1)
    return join([quads(wall.reshape(-1, 4, 3), surface), triangles(caps.reshape(-1, 3, 3), surface)])


def blob(centre: Floats, radii: Floats, surface: Surface, sides: int = 8) -> Mesh:
    """A closed ellipsoid of about 4 * sides triangles: centre (3,) and radii (3,), metres."""
    around = np.arange(sides) * (2 * np.pi / sides)
    rings = [
        np.stack(
            [np.cos(around) * np.cos(lat), np.sin(around) * np.cos(lat), np.full(sides, np.sin(lat))], axis=1
        )
        for lat in np.linspace(-np.pi / 2, np.pi / 2, 5)
    ]
    faces = [np.stack([a, np.roll(a, -1, 0), np.roll(b, -1, 0), b], 1) for a, b in pairwise(rings)]
    return quads(np.concatenate(faces) * np.asarray(radii) + np.asarray(centre), surface)


def rotate(points: Floats, rotation: Floats) -> Floats:
    """`rotation` (3, 3) applied to `points` (..., 3).

    Three products and two sums in a fixed order: a BLAS may add in another order at another number of
    threads.
    """
    out = points[..., 0, None] * rotation[:, 0]
    out += points[..., 1, None] * rotation[:, 1]
    out += points[..., 2, None] * rotation[:, 2]
    return out


def unit(vector: Floats) -> Floats:
    """The (3,) vector at length 1; without BLAS, for the reason given at `rotate`."""
    return vector / np.sqrt((vector * vector).sum())


def yaw_rotation(yaw: float) -> Floats:
    """(3, 3) rotation about z by `yaw` radians, x towards y."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
