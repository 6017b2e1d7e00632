"""The jitted pass over all centre lines behind `survey.survey`."""

import numpy as np

from pcsparse.kernels.cpu.launch import jit_serial

CHUNK = 16
"""Rows of a centre line under one bounding circle."""

_FAR = 1e3
# metres: streets farther away than this do not count
_LIMIT = 140.0
# metres of distance over which the cross-sections of two streets melt into each other, and their banks
_NARROW, _WIDE = 0.7, 5.0
# columns of the answer, see `survey`
_EDGE, _KERB, _VERGE, _FRONT, _ISLE, _STREET, _ALONG, _ACROSS, _OTHER, _LIFT, _SECTION = range(11)


@jit_serial
def _nearest(px, py, line, low, high, circles, chunk_low, chunk_high, limit):
    """Row of the line nearest to the point, or -1 if all of it is beyond `limit`."""
    best, found = limit * limit, -1
    for chunk in range(chunk_low, chunk_high):
        gap = np.hypot(circles[chunk, 0] - px, circles[chunk, 1] - py) - circles[chunk, 2]
        if gap > 0.0 and gap * gap > best:
            continue
        start = low + (chunk - chunk_low) * CHUNK
        for row in range(start, min(start + CHUNK, high)):
            dx, dy = line[row, 0] - px, line[row, 1] - py
            d = dx * dx + dy * dy
            if d < best:
                best, found = d, row
    return found


@jit_serial
def _project(px, py, line, low, high, row):
    """Metres along (from `low`, beyond the ends too) and across, positive to the left, on the polyline."""
    best, along, across = np.inf, 0.0, 0.0
    for a in range(max(row - 1, low), min(row, high - 2) + 1):
        ex, ey = line[a + 1, 0] - line[a, 0], line[a + 1, 1] - line[a, 1]
        length = np.hypot(ex, ey)
        ex, ey = ex / length, ey / length
        wx, wy = px - line[a, 0], py - line[a, 1]
        u = (wx * ex + wy * ey) / length
        left = ex * wy - ey * wx
        inner = min(max(u, 0.0), 1.0)
        if a == low:
            inner = min(u, 1.0)
        if a == high - 2:
            inner = max(u, 0.0) if a != low else u
        over = (u - inner) * length
        d = np.hypot(over, left)
        if d < best:
            best, along = d, a - low + inner
            across = d if left >= 0.0 else -d
    return along, across


@jit_serial
def measure(x, y, line, half, median, table, rows, caps, corner, lift, circles, chunks, out):
    """Fill `out` (n, 19); arguments and columns as in `survey.survey`."""
    streets = len(rows) - 1
    gap, along, across = np.empty(streets), np.empty(streets), np.empty(streets)
    mixed = np.empty(9)
    for p in range(len(x)):
        least, near = np.inf, -1
        for i in range(streets):
            gap[i] = _FAR
            row = _nearest(x[p], y[p], line, rows[i], rows[i + 1], circles, chunks[i], chunks[i + 1], _LIMIT)
            if row < 0:
                continue
            along[i], across[i] = _project(x[p], y[p], line, rows[i], rows[i + 1], row)
            at = min(max(along[i], 0.0), rows[i + 1] - rows[i] - 1.0)
            a = min(int(at), rows[i + 1] - rows[i] - 2)
            part = at - a
            a += rows[i]
            side = abs(across[i]) - (half[a] * (1 - part) + half[a + 1] * part)
            beyond = max(caps[i, 0] - along[i], along[i] - caps[i, 1])
            gap[i] = np.hypot(side, beyond) if side > 0.0 and beyond > 0.0 else max(side, beyond)
            if gap[i] < least:
                least, near = gap[i], i
        edge, other = _FAR, _FAR
        isle = -_FAR
        total_narrow, total_wide = 0.0, 0.0
        mixed[:] = 0.0
        for i in range(streets):
            if gap[i] >= _FAR:
                continue
            r = corner[i]
            a, b = max(r - edge, 0.0), max(r - gap[i], 0.0)
            edge = max(r, min(edge, gap[i])) - np.hypot(a, b)
            if i != near:
                other = min(other, gap[i])
            at = min(max(along[i], 0.0), rows[i + 1] - rows[i] - 1.0)
            a0 = min(int(at), rows[i + 1] - rows[i] - 2)
            part = at - a0
            a0 += rows[i]
            if gap[i] < 1.0:
                isle = max(isle, median[a0] * (1 - part) + median[a0 + 1] * part - abs(across[i]))
            side_row = 0 if across[i] > 0.0 else 1
            narrow = np.exp(-(gap[i] - least) / _NARROW)
            wide = np.exp(-(gap[i] - least) / _WIDE)
            total_narrow += narrow
            total_wide += wide
            for c in range(9):
                value = table[a0, side_row, c] * (1 - part) + table[a0 + 1, side_row, c] * part
                mixed[c] += (narrow if c < 4 else wide) * value
        if near < 0:
            out[p, :] = _FAR
            out[p, _ISLE] = -_FAR
            out[p, _STREET] = -1
            out[p, _SECTION:] = 0.0
            continue
        for c in range(9):
            out[p, _SECTION + c] = mixed[c] / (total_narrow if c < 4 else total_wide)
        out[p, _EDGE] = edge
        out[p, _KERB] = edge - out[p, _SECTION]
        out[p, _VERGE] = out[p, _KERB] - out[p, _SECTION + 1]
        out[p, _FRONT] = out[p, _VERGE] - out[p, _SECTION + 2]
        out[p, _ISLE] = isle
        out[p, _STREET] = near
        out[p, _ALONG] = along[near]
        out[p, _ACROSS] = across[near]
        out[p, _OTHER] = other
        out[p, _LIFT] = lift[near]
