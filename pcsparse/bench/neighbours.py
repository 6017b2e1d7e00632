"""Nearest neighbours, balls and farthest points of one cloud, beside scipy's k-d tree and a plain loop."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pcsparse.bench.scene import Scene
from pcsparse.bench.tables import table
from pcsparse.bench.verify import Check
from pcsparse.coords.neighbors import ball_query, farthest_points, nearest_neighbours
from pcsparse.timing import Timing, time_in_turns

OURS, TREE, LOOP = "pcsparse", "scipy cKDTree", "plain loop"
# queries that are compared with a search through all points
_CHECKED = 64
# a share of the squared distance: of float64 additions in another order
_LIMIT = 1e-12


@dataclass(frozen=True)
class NeighbourCase:
    """One search among the first points of the voxels.

    Attributes:
        name: in tables.
        kind: "nearest", "ball" or "farthest".
        k: neighbours at most; samples of "farthest".
        radius: of a ball, metres.
        every: only every so many points are searched; all of them ask.
    """

    name: str
    kind: Literal["nearest", "ball", "farthest"]
    k: int
    radius: float = float("inf")
    every: int = 1


CASES = (
    NeighbourCase("16 nearest", "nearest", 16),
    NeighbourCase("3 nearest of a 24th", "nearest", 3, every=24),
    NeighbourCase("32 in 0.5 m", "ball", 32, radius=0.5),
    NeighbourCase("1024 farthest", "farthest", 1024),
)


@dataclass(frozen=True)
class NeighbourResult:
    """A case that was checked and timed.

    Attributes:
        case: its name.
        n_points: searched.
        n_queries: that asked, or samples.
        check: agreement with a search through all points, or a plain loop.
        times: by what ran; none where the check failed or scipy is not installed.
    """

    case: str
    n_points: int
    n_queries: int
    check: Check
    times: Mapping[str, Timing]


def run_neighbours(case: NeighbourCase, scene: Scene, runs: int, *, settle: int = 0) -> NeighbourResult:
    """Check and time one case; a tree is made anew in each run, as our cells are."""
    asking = scene.tensor.feats[:, :3].float().contiguous()
    points = asking[:: case.every].contiguous()
    if case.kind == "farthest":
        k = min(case.k, len(points))
        found = farthest_points(points, k)
        wanted = _plain_farthest(points.double().numpy(), k)
        check = Check(case.name, float((found != torch.from_numpy(wanted)).sum()), 0.0)
        made: dict[str, Callable[[], object]] = {OURS: lambda: farthest_points(points, k)}
        made[LOOP] = lambda: _plain_farthest(points.double().numpy(), k)
        n_queries = k
    else:
        check = _check(case, points, asking)
        made = {OURS: lambda: _search(case, points, asking)}
        tree = _tree(case, points, asking)
        if tree is not None:
            made[TREE] = tree
        n_queries = len(asking)
    times = time_in_turns(made, runs=runs, settle=settle) if check.passed else {}
    return NeighbourResult(case.name, len(points), n_queries, check, times)


def neighbour_table(results: tuple[NeighbourResult, ...]) -> str:
    """Milliseconds, and how often ours fits into the other."""
    rows = []
    for result in results:
        other = next((name for name in result.times if name != OURS), None)
        ours = result.times.get(OURS)
        rows.append(
            (
                result.case,
                f"{result.n_points:,}",
                f"{result.n_queries:,}",
                "WRONG" if ours is None else f"{1e3 * ours.median:.1f}",
                "" if ours is None else f"{1e3 * ours.q1:.1f}-{1e3 * ours.q3:.1f}",
                other or "-",
                f"{1e3 * result.times[other].median:.1f}" if other else "-",
                f"{result.times[other].median / ours.median:.2f}" if other and ours else "-",
            )
        )
    return table(("case", "points", "queries", "ms", "quartiles", "beside", "ms", "ratio"), rows)


def _search(case: NeighbourCase, points: Tensor, asking: Tensor) -> Tensor:
    if case.kind == "nearest":
        return nearest_neighbours(points, case.k, queries=asking).squared
    return ball_query(points, case.radius, case.k, queries=asking).squared


def _check(case: NeighbourCase, points: Tensor, asking: Tensor) -> Check:
    """The largest difference of squared distances as a share of what is right, over some queries."""
    some = torch.linspace(0, len(asking) - 1, min(_CHECKED, len(asking))).long()
    found = _search(case, points, asking)[some]
    squared = (asking[some].double()[:, None] - points.double()[None]).square().sum(dim=2)
    squared = squared.masked_fill(squared >= case.radius**2, float("inf"))
    wanted = squared.topk(min(case.k, len(points)), largest=False).values
    wanted = torch.nn.functional.pad(wanted, (0, case.k - wanted.shape[1]), value=float("inf"))
    same = torch.where(found == wanted, 0.0, (found - wanted).abs() / wanted)
    return Check(case.name, float(same.max()) if same.numel() else 0.0, _LIMIT)


def _tree(case: NeighbourCase, points: Tensor, asking: Tensor) -> Callable[[], object] | None:
    try:
        spatial: Any = importlib.import_module("scipy.spatial")
    except ImportError:
        return None
    given, queries, workers = points.numpy(), asking.numpy(), torch.get_num_threads()
    bound = case.radius
    return lambda: spatial.cKDTree(given).query(queries, case.k, distance_upper_bound=bound, workers=workers)


def _plain_farthest(points: np.ndarray[Any, np.dtype[np.float64]], k: int) -> np.ndarray[Any, Any]:
    chosen = np.zeros(k, np.int64)
    nearest = np.full(len(points), np.inf)
    for i in range(1, k):
        moved = points - points[chosen[i - 1]]
        np.minimum(nearest, (moved * moved).sum(axis=1), out=nearest)
        nearest[chosen[:i]] = -1.0
        chosen[i] = nearest.argmax()
    return chosen
