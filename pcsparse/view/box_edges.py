"""Boxes for a picture: rows of points along their edges, drawn like those of the cloud."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pcsparse.view.page_sweep import Box

# as many as a picture is wide: an edge that is longer than what the picture shows is drawn in part only
_MOST = 2000
_SIGNS = (-1.0, 1.0)
# twelve edges, and a line on the ground to where it heads, in half sizes: as on the page
_LINES = np.array(
    [
        [[0, 0, -1], [1.4, 0, -1]],
        *([[u, v, -1], [u, v, 1]] for u in _SIGNS for v in _SIGNS),
        *([[u, -1, v], [u, 1, v]] for u in _SIGNS for v in _SIGNS),
        *([[-1, u, v], [1, u, v]] for u in _SIGNS for v in _SIGNS),
    ]
)


def edge_points(boxes: Sequence[Box], step: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Points along the edges of boxes, and along a line on the ground to where each heads.

    Args:
        boxes: any number.
        step: metres between two points at most; an edge has at most 2,000 all the same.

    Returns:
        (m, 3), metres, in the frame of the boxes; (m,) the box of each.
    """
    points, owners = [np.empty((0, 3))], [np.empty(0, np.intp)]
    for number, box in enumerate(boxes):
        half = 0.5 * np.array(box.size)
        cos, sin = np.cos(box.yaw), np.sin(box.yaw)
        turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
        for begin, end in _LINES * half:
            n = min(int(np.ceil(np.linalg.norm(end - begin) / step)), _MOST - 1)
            share = np.linspace(0.0, 1.0, n + 1)[:, None]
            points.append((begin + share * (end - begin)) @ turn + np.array(box.center))
            owners.append(np.full(n + 1, number))
    return np.concatenate(points), np.concatenate(owners)
