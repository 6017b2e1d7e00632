"""Farthest-point sampling, exact, over runs of points that lie side by side on a curve.

Source: QuickFPS (Han et al., IEEE TCAD 2023): farthest-point sampling over buckets; there of a k-d tree.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcsparse.kernels.gpu import cuda_text
from pcsparse.kernels.gpu.point_tree import Curve

# as in farthest.cu
_MOST_RUNS = 2048
_LEAST_BITS = 6
_MOST_THREADS = 1024
# threads that share a run; blocks are of whole warps
_TEAM = 8
_WARP = 32


def farthest_points(points: Tensor, starts: Tensor, first: Tensor, counts: Tensor) -> Tensor:
    ends = pad(counts.cumsum(0), (1, 0))
    # the one wait for the device: how much there is to write
    chosen = torch.empty(int(ends[-1]), dtype=torch.int32, device=points.device)
    if len(chosen) == 0:
        return chosen
    n, bits = len(points), _LEAST_BITS
    while -(-n >> bits) > _MOST_RUNS:
        bits += 1
    curve = Curve.along(points.detach().contiguous(), starts)
    boxes, _ = curve.boxes(bits)
    # a team for each run of a cloud of average size: more would only wait for each other
    wanted = _TEAM * -(-len(boxes) // (len(starts) - 1))
    threads = min(_MOST_THREADS, -(-wanted // _WARP) * _WARP)
    nearest = torch.empty(n, dtype=torch.float64, device=points.device)
    cuda_text.launch(
        "farthest.cu", "sample_clouds", len(starts) - 1, threads, curve.points, boxes, starts, first, ends,
        nearest, chosen, bits,
    )  # fmt: skip
    return chosen
