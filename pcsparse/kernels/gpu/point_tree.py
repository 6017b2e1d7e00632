"""Points sorted along a space-filling curve, and boxes around runs of them: a tree without pointers.

Keys are a cloud and the interleaved bits of a cell, so the points of a cloud stay side by side, where they
were, and those that follow each other are near. The boxes are exact whatever the cells are, which only decide
how tight they turn out; so there is no limit to where points lie, and a few stray ones cost nothing.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pcsparse.kernels.gpu import cuda_text

_FILE = "point_tree.cu"
_THREADS = 128
# a box is six doubles and a row
_NODE_WORDS = 8
# nodes that a search may begin with
_FEW = 8


def _blocks(n: int) -> int:
    return -(-n // _THREADS)


@dataclass(frozen=True, eq=False)
class Curve:
    """Points in the order of their keys.

    Attributes:
        frame: (4,) float64, the corner of the cells in metres, and cells a metre.
        keys: (n,) int64, ascending.
        order: (n,) int64, the row of each point.
        points: (n, 4) float64, metres; the last column is the row, as bits of an int64.
        unsorted: (n,) int64, the keys in the order of rows.
    """

    frame: Tensor
    keys: Tensor
    order: Tensor
    points: Tensor
    unsorted: Tensor

    @staticmethod
    def along(points: Tensor, starts: Tensor) -> "Curve":
        """Points (n, 3) float32, contiguous, n at least 1; starts (clouds + 1,) int64."""
        n = len(points)
        frame = torch.empty(4, dtype=torch.float64, device=points.device)
        cuda_text.launch(_FILE, "find_frame", 1, 32, points, frame, n)
        unsorted = _placed(points, starts, frame)
        keys, order = unsorted.sort(stable=True)
        taken = torch.empty(n, 4, dtype=torch.float64, device=points.device)
        cuda_text.launch(_FILE, "take_points", _blocks(n), _THREADS, points, order, taken, n)
        return Curve(frame, keys, order, taken, unsorted)

    def place(self, points: Tensor, starts: Tensor) -> Tensor:
        """Keys (m,) int64 of other points (m, 3) float32, contiguous."""
        return _placed(points, starts, self.frame)

    def boxes(self, leaf_bits: int, fan_bits: int | None = None) -> tuple[Tensor, int]:
        """Boxes around runs of 2^leaf_bits points, and around runs of 2^fan_bits boxes until few are left.

        Args:
            leaf_bits: of a run of points.
            fan_bits: of a run of boxes; None for no boxes around boxes.

        Returns:
            nodes (m, 8) float64, level after level; the number of the last level.
        """
        n = len(self.points)
        counts = [-(-n >> leaf_bits)]
        while fan_bits is not None and counts[-1] > _FEW:
            counts.append(-(-counts[-1] >> fan_bits))
        nodes = torch.empty(sum(counts), _NODE_WORDS, dtype=torch.float64, device=self.points.device)
        cuda_text.launch(
            _FILE, "box_points", _blocks(counts[0]), _THREADS, self.points, nodes, n, leaf_bits, counts[0]
        )
        begin = 0
        for children, count in pairwise(counts):
            cuda_text.launch(
                _FILE, "box_nodes", _blocks(count), _THREADS, nodes, begin, children, fan_bits or 0,
                begin + children, count,
            )  # fmt: skip
            begin += children
        return nodes, len(counts) - 1


def _placed(points: Tensor, starts: Tensor, frame: Tensor) -> Tensor:
    keys = torch.empty(len(points), dtype=torch.int64, device=points.device)
    cuda_text.launch(
        _FILE, "place_points", _blocks(len(points)), _THREADS, points, starts, frame, keys, len(points),
        len(starts) - 1,
    )  # fmt: skip
    return keys
