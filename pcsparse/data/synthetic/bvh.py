"""Ray casting by a bounding-volume hierarchy in Numba. Contract: `caster.Caster`.

Nodes split at the cheapest of 16 bins by the surface-area rule (Wald, "On fast construction of SAH-based
bounding volume hierarchies", 2007); triangles are met by the test of Möller and Trumbore (1997). One thread
owns one ray, so the answer does not depend on the number of threads.
"""

import numpy as np
from numba import prange

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.caster import Hits
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.kernels.cpu.launch import jit_parallel, jit_serial

_BINS = 16
_LEAF = 4
# the traversal keeps at most one node a level; below depth 36 the builder cuts in halves, so 64 levels hold
# 2^28 leaves
_STACK = 64
_DEEP = 36


@jit_serial
def _half_area(low, high):
    x, y, z = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    return x * y + y * z + z * x


@jit_serial
def _split(order, bounds, spread, first, count, bin_low, bin_high, bin_count, suffix):
    """Partition rows [first, first + count) of `order` in place; returns how many went left."""
    axis, widest, c_min = 0, np.float32(-1.0), np.float32(0.0)
    for a in range(3):
        if spread[a + 3] - spread[a] > widest:
            axis, widest, c_min = a, spread[a + 3] - spread[a], spread[a]
    if widest <= np.float32(1e-9):
        return count // 2
    scale = np.float32(_BINS * 0.999999) / widest
    bin_count[:] = 0
    bin_low[:] = np.inf
    bin_high[:] = -np.inf
    for i in range(first, first + count):
        t = order[i]
        b = min(int((bounds[t, axis] + bounds[t, axis + 3] - c_min) * scale), _BINS - 1)
        bin_count[b] += 1
        for a in range(3):
            bin_low[b, a] = min(bin_low[b, a], bounds[t, a])
            bin_high[b, a] = max(bin_high[b, a], bounds[t, a + 3])
    box_low = np.full(3, np.inf, np.float32)
    box_high = np.full(3, -np.inf, np.float32)
    right = 0
    for b in range(_BINS - 1, 0, -1):
        right += bin_count[b]
        for a in range(3):
            box_low[a] = min(box_low[a], bin_low[b, a])
            box_high[a] = max(box_high[a], bin_high[b, a])
        suffix[b] = right * _half_area(box_low, box_high) if right > 0 else np.inf
    box_low[:] = np.inf
    box_high[:] = -np.inf
    left, best, cheapest = 0, 1, np.inf
    for b in range(1, _BINS):
        left += bin_count[b - 1]
        for a in range(3):
            box_low[a] = min(box_low[a], bin_low[b - 1, a])
            box_high[a] = max(box_high[a], bin_high[b - 1, a])
        if left > 0 and left < count:
            cost = left * _half_area(box_low, box_high) + suffix[b]
            if cost < cheapest:
                cheapest, best = cost, b
    i, j = first, first + count - 1
    while i <= j:
        t = order[i]
        if min(int((bounds[t, axis] + bounds[t, axis + 3] - c_min) * scale), _BINS - 1) < best:
            i += 1
        else:
            order[i], order[j] = order[j], order[i]
            j -= 1
    return i - first


@jit_serial
def _build(bounds):
    """Boxes (n, 6), links (n, 2) = (first child, 0) or a leaf's (first row, count), and the order of rows.

    bounds (t, 6) float32: the lowest and the highest corner of each triangle.
    """
    n = bounds.shape[0]
    order = np.arange(n)
    boxes = np.empty((2 * n, 6), np.float32)
    links = np.empty((2 * n, 2), np.int32)
    bin_low = np.empty((_BINS, 3), np.float32)
    bin_high = np.empty((_BINS, 3), np.float32)
    bin_count = np.empty(_BINS, np.int64)
    suffix = np.empty(_BINS)
    whole, spread = np.empty(6, np.float32), np.empty(6, np.float32)
    todo = np.empty((n + 64, 4), np.int64)
    todo[0] = 0, 0, n, 0
    height, used = 1, 1
    while height > 0:
        height -= 1
        node, first, count, depth = todo[height]
        # of the triangles, and of twice their middles
        whole[:3], whole[3:] = np.inf, -np.inf
        spread[:3], spread[3:] = np.inf, -np.inf
        for i in range(first, first + count):
            t = order[i]
            for a in range(3):
                low, high = bounds[t, a], bounds[t, a + 3]
                whole[a], whole[a + 3] = min(whole[a], low), max(whole[a + 3], high)
                spread[a], spread[a + 3] = min(spread[a], low + high), max(spread[a + 3], low + high)
        for a in range(3):
            # a flat box has no inside for the slab test, and float32 rounds: widen it a little
            boxes[node, a], boxes[node, a + 3] = whole[a] - 1e-4, whole[a + 3] + 1e-4
        if count <= _LEAF:
            links[node] = first, count
            continue
        left = count // 2
        if depth < _DEEP:
            left = _split(order, bounds, spread, first, count, bin_low, bin_high, bin_count, suffix)
        links[node] = used, 0
        todo[height] = used, first, left, depth + 1
        todo[height + 1] = used + 1, first + left, count - left, depth + 1
        height += 2
        used += 2
    return boxes[:used].copy(), links[:used].copy(), order


@jit_serial
def _enter(box, ox, oy, oz, ix, iy, iz, limit):
    """Distance at which the ray enters the box, or inf."""
    a, b = (box[0] - ox) * ix, (box[3] - ox) * ix
    near, far = min(a, b), max(a, b)
    a, b = (box[1] - oy) * iy, (box[4] - oy) * iy
    near, far = max(near, min(a, b)), min(far, max(a, b))
    a, b = (box[2] - oz) * iz, (box[5] - oz) * iz
    near, far = max(near, min(a, b)), min(far, max(a, b))
    return near if near <= far and far >= 0.0 and near <= limit else np.inf


@jit_serial
def _meet(tri, ox, oy, oz, dx, dy, dz):
    """Distance at which the ray meets a triangle (three corners), or inf."""
    # float64 edges of float32 corners: neighbours that share corners share them exactly, so no crack opens
    ax, ay, az = np.float64(tri[0]), np.float64(tri[1]), np.float64(tri[2])
    e1x, e1y, e1z = tri[3] - ax, tri[4] - ay, tri[5] - az
    e2x, e2y, e2z = tri[6] - ax, tri[7] - ay, tri[8] - az
    px, py, pz = dy * e2z - dz * e2y, dz * e2x - dx * e2z, dx * e2y - dy * e2x
    det = e1x * px + e1y * py + e1z * pz
    if abs(det) < 1e-14:
        return np.inf
    inv = 1.0 / det
    tx, ty, tz = ox - ax, oy - ay, oz - az
    u = (tx * px + ty * py + tz * pz) * inv
    # a hair beyond the edges, so that no ray slips between two neighbours
    if u < -1e-7 or u > 1.0 + 1e-7:
        return np.inf
    qx, qy, qz = ty * e1z - tz * e1y, tz * e1x - tx * e1z, tx * e1y - ty * e1x
    v = (dx * qx + dy * qy + dz * qz) * inv
    if v < -1e-7 or u + v > 1.0 + 1e-7:
        return np.inf
    t = (e2x * qx + e2y * qy + e2z * qz) * inv
    return t if t > 0.0 else np.inf


@jit_serial
def _inverse(d):
    return 1.0 / d if abs(d) > 1e-12 else (1e12 if d >= 0.0 else -1e12)


@jit_parallel()
def _cast(boxes, links, rows, tris, origins, directions, distance, triangle):
    for ray in prange(origins.shape[0]):
        ox, oy, oz = np.float64(origins[ray, 0]), np.float64(origins[ray, 1]), np.float64(origins[ray, 2])
        dx, dy, dz = (
            np.float64(directions[ray, 0]),
            np.float64(directions[ray, 1]),
            np.float64(directions[ray, 2]),
        )
        ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
        stack = np.empty(_STACK, np.int32)
        entry = np.empty(_STACK, np.float64)
        best, found = np.inf, -1
        stack[0] = 0
        entry[0] = _enter(boxes[0], ox, oy, oz, ix, iy, iz, best)
        height = 1 if entry[0] < np.inf else 0
        while height > 0:
            height -= 1
            if entry[height] > best:
                continue
            node = stack[height]
            first, count = links[node, 0], links[node, 1]
            if count > 0:
                for i in range(first, first + count):
                    t = _meet(tris[i], ox, oy, oz, dx, dy, dz)
                    # among equals the smallest row wins, whatever the order of the leaves
                    if t < best or (t == best and t < np.inf and rows[i] < found):
                        best, found = t, rows[i]
                continue
            a = _enter(boxes[first], ox, oy, oz, ix, iy, iz, best)
            b = _enter(boxes[first + 1], ox, oy, oz, ix, iy, iz, best)
            near, far, t_near, t_far = first, first + 1, a, b
            if b < a:
                near, far, t_near, t_far = first + 1, first, b, a
            if t_far < np.inf:
                stack[height], entry[height] = far, t_far
                height += 1
            if t_near < np.inf:
                stack[height], entry[height] = near, t_near
                height += 1
        distance[ray] = best
        triangle[ray] = found


class BvhCaster:
    """Casts rays with a hierarchy of boxes; needs nothing beyond Numba."""

    def __init__(self, mesh: Mesh) -> None:
        self._empty = len(mesh) == 0
        if not self._empty:
            corners = mesh.corners.astype(np.float32)
            a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
            low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
            self._boxes, self._links, self._rows = _build(np.concatenate([low, high], axis=1))
            self._tris = corners[self._rows].reshape(-1, 9)

    def cast(self, origins: Floats, directions: Floats) -> Hits:
        """See `caster.Caster`."""
        distance = np.full(len(origins), np.inf, np.float32)
        triangle = np.full(len(origins), -1, np.int32)
        if not self._empty and len(origins):
            origins, directions = np.ascontiguousarray(origins), np.ascontiguousarray(directions)
            _cast(self._boxes, self._links, self._rows, self._tris, origins, directions, distance, triangle)
        return Hits(distance, triangle)
