"""Geometry at the hits of many rays, in Numba: normals, and where a beam meets more than one surface."""

import numpy as np

from pcsparse.data.synthetic.arrays import Bools, Floats, Ints
from pcsparse.kernels.cpu.launch import jit_serial


@jit_serial
def _normals(first, second, triangle, out):
    for i in range(triangle.shape[0]):
        row = triangle[i]
        if row < 0:
            out[i, 0], out[i, 1], out[i, 2] = 0.0, 0.0, 0.0
            continue
        tri = first[row] if row < first.shape[0] else second[row - first.shape[0]]
        ax, ay, az = tri[1, 0] - tri[0, 0], tri[1, 1] - tri[0, 1], tri[1, 2] - tri[0, 2]
        bx, by, bz = tri[2, 0] - tri[0, 0], tri[2, 1] - tri[0, 1], tri[2, 2] - tri[0, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        scale = 1.0 / length if length > 0.0 else 0.0
        out[i, 0], out[i, 1], out[i, 2] = nx * scale, ny * scale, nz * scale


def normals_at(first: Floats, second: Floats, triangle: Ints) -> Floats:
    """(n, 3) float64 unit normals of triangles (n,) of two corner arrays (t, 3, 3), numbered in sequence.

    Zero for a triangle without area, and for -1.
    """
    out = np.empty((len(triangle), 3))
    _normals(first, second, triangle, out)
    return out


@jit_serial
def _apart(i, j, distance, points, normals, tolerance):
    """Whether two neighbouring rays met surfaces that do not continue each other."""
    here, there = distance[i] < np.inf, distance[j] < np.inf
    if here != there:
        return True
    if not here:
        return False
    gx, gy, gz = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
    off = abs(gx * normals[i, 0] + gy * normals[i, 1] + gz * normals[i, 2])
    back = abs(gx * normals[j, 0] + gy * normals[j, 1] + gz * normals[j, 2])
    # on the plane of either: a surface seen at a grazing angle, or two that meet at a corner
    return min(off, back) > tolerance


@jit_serial
def _edges(distance, points, normals, known, columns, tolerance, out):
    rings = distance.shape[0] // columns
    for ring in range(rings):
        for column in range(columns):
            i = ring * columns + column
            if not known[i]:
                continue
            j = ring * columns + (column + 1) % columns
            if known[j] and _apart(i, j, distance, points, normals, tolerance):
                out[i] = True
                out[j] = True
            j = i + columns
            if ring + 1 < rings and known[j] and _apart(i, j, distance, points, normals, tolerance):
                out[i] = True
                out[j] = True


def edges(
    distance: Floats, points: Floats, normals: Floats, known: Bools, columns: int, tolerance: float
) -> Bools:
    """Which pulses have a neighbour that met something else.

    Neighbours are those of the same ring before and after, and of the same column above and below. Two hits
    belong together if either lies within `tolerance` metres of the plane that the other met.

    Args:
        distance: (n,) metres, inf where nothing is met; ring by ring.
        points: (n, 3) metres, of the hits.
        normals: (n, 3) unit, of what was met.
        known: (n,) pulses that were cast at all.
        columns: pulses a ring.
        tolerance: metres.
    """
    out = np.zeros(len(distance), np.bool_)
    _edges(distance, points, normals, known, columns, tolerance, out)
    return out


@jit_serial
def _strongest(distance, power, light, separation, least, out, chosen):
    """One return a row of sub-rays: out (n, 3) = distance, power and light; chosen (n,) the sub-ray."""
    count = distance.shape[1]
    order = np.empty(count, np.int64)
    for i in range(distance.shape[0]):
        n = 0
        for k in range(count):
            if distance[i, k] < np.inf:
                j = n
                while j > 0 and distance[i, order[j - 1]] > distance[i, k]:
                    order[j] = order[j - 1]
                    j -= 1
                order[j] = k
                n += 1
        out[i, 0], out[i, 1], out[i, 2] = np.inf, 0.0, 0.0
        chosen[i] = -1
        start = 0
        while start < n:
            stop, near = start, distance[i, order[start]]
            total, bright, mean, best = 0.0, 0.0, 0.0, order[start]
            while stop < n and distance[i, order[stop]] - near <= separation:
                k = order[stop]
                total += power[i, k]
                bright += light[i, k]
                mean += power[i, k] * (distance[i, k] - near)
                if power[i, k] > power[i, best]:
                    best = k
                stop += 1
            start = stop
            if total > out[i, 1]:
                out[i, 0], out[i, 1], out[i, 2] = near + mean / total, total, bright
                chosen[i] = best
                if total >= least:
                    break


def merge(
    distance: Floats, power: Floats, light: Floats, separation: float, least: float
) -> tuple[Floats, Floats, Floats, Ints]:
    """What a pulse reports whose sub-rays met several surfaces.

    Sub-hits within `separation` of the nearest of them are one return: its power and its light are their
    sums, its distance their mean by power (a mixed pixel), its surface that of the strongest. The strongest
    return is reported, or the first whose power reaches `least`.

    Args:
        distance: (n, k) metres, inf where a sub-ray meets nothing.
        power: (n, k) received from each, above 0 where it meets something.
        light: (n, k) what each adds to the intensity.
        separation: metres.
        least: power at which the first return is taken; inf: the strongest is.

    Returns:
        distance (n,), inf where none answers; power (n,); light (n,); and the sub-ray (n,) whose surface it
        is, -1 where there is none.
    """
    out = np.empty((len(distance), 3))
    chosen = np.empty(len(distance), np.int64)
    _strongest(distance, power, light, separation, least, out, chosen)
    return out[:, 0], out[:, 1], out[:, 2], chosen
