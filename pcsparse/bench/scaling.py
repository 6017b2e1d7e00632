"""How the cost of a layer grows with voxels and channels: seconds over pairs x c_in x c_out must not."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pcsparse.bench.limits import conv_work, map_work
from pcsparse.bench.scene import build_map, draw
from pcsparse.bench.verify import Check, check_close
from pcsparse.coords.keys import pack
from pcsparse.coords.relation import Relation
from pcsparse.kernels import reference
from pcsparse.nn import SubmanifoldConv3d
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import Timing, time_one

MAP = 0
"""Stands in the place of the channels for the map alone."""
_CUBE = Relation.of(3)
_SAMPLE = 1024
_GAP = 8
# of what is free: input, output, the allocator's slack, and whoever else needs memory
_SHARE_OF_MEMORY = 0.4
_LARGE, _FEW_RUNS = 300_000, 5


@dataclass(frozen=True)
class ScalingPoint:
    """A submanifold 3^3 layer, map ready, or its map, at one size.

    Attributes:
        n_voxels: rows.
        n_pairs: of the map.
        channels: in and out; `MAP` for the map.
        check: sampled rows against the twin; None for the map and where it did not run.
        time: seconds; None where the check failed or it did not run.
        skipped: why it did not run.
    """

    n_voxels: int
    n_pairs: int
    channels: int
    check: Check | None
    time: Timing | None
    skipped: str | None = None

    @property
    def cost(self) -> float | None:
        """Seconds a pair, input channel and output channel; for the map, seconds a pair."""
        if self.time is None:
            return None
        return self.time.median / (self.n_pairs * max(self.channels, 1) ** 2)

    def memory_share(self, bandwidth: float) -> float | None:
        """Share of the time that reading or writing every byte once would take at `bandwidth`, bytes / s."""
        if self.time is None:
            return None
        n, c = self.n_voxels, self.channels
        if c == MAP:
            work = map_work(n, 0, self.n_pairs)
        else:
            work = conv_work(n, n, self.n_pairs, _CUBE.volume, c, c, backward=False)
        return work.bytes / bandwidth / self.time.median


def sized_coords(coords: Tensor, n: int) -> Tensor:
    """A cloud of `n` voxels with the density of a sweep.

    Fewer than the sweep has: a sector of it, seen from the sensor. More: copies side by side, the last one a
    sector. Both keep how many neighbours a voxel has at each distance.

    Args:
        coords: (m, 4) int32 of one cloud, the sensor at the origin.
        n: voxels.

    Returns:
        (n, 4) int32 ascending by key.
    """
    copies, rest = divmod(n, len(coords))
    angle = torch.atan2(coords[:, 2].double(), coords[:, 1].double())
    sector = coords[torch.argsort(angle, stable=True)[:rest]]
    columns = max(1, round((copies + 1) ** 0.5))
    low, high = coords[:, 1:3].amin(dim=0), coords[:, 1:3].amax(dim=0)
    pitch = high - low + _GAP
    parts = []
    for i, part in enumerate([*([coords] * copies), sector]):
        part = part.clone()
        # centred, so that the largest cloud stays inside the range of a key
        part[:, 1] += (i // columns - columns // 2) * pitch[0]
        part[:, 2] += (i % columns - columns // 2) * pitch[1]
        parts.append(part)
    tiled = torch.cat(parts)
    return tiled[torch.argsort(pack(tiled))]


def run_scaling(
    coords: Tensor,
    sizes: Iterable[int],
    channels: Iterable[int],
    runs: int,
    free: Callable[[], float | None] | None = None,
) -> Iterator[ScalingPoint]:
    """Measure every size and width, smallest cloud first.

    Args:
        coords: (m, 4) int32 of a sweep.
        sizes: voxels.
        channels: in and out.
        runs: of each; five at most from 300,000 voxels on.
        free: bytes of memory that may be had, asked before each point.
    """
    for n in sizes:
        cloud = sized_coords(coords, n)
        some = runs if n < _LARGE else min(runs, _FEW_RUNS)
        n_pairs = build_map(cloud, _CUBE)[1].n_pairs
        taken = time_one(partial(build_map, cloud, _CUBE), runs=some)
        yield ScalingPoint(n, n_pairs, MAP, None, taken)
        for c in channels:
            yield _layer(cloud, n_pairs, c, some, (free or free_bytes)())


def _layer(coords: Tensor, n_pairs: int, c: int, runs: int, free: float | None) -> ScalingPoint:
    needed = 2.0 * 4 * len(coords) * c
    if free is not None and needed > _SHARE_OF_MEMORY * free:
        why = f"needs {needed / 1e9:.1f} GB for input and output, {free / 1e9:.1f} GB are free"
        return ScalingPoint(len(coords), n_pairs, c, None, None, why)
    weight = draw(_CUBE.volume, c, c, scale=(_CUBE.volume * c) ** -0.5)
    conv = SubmanifoldConv3d(c, c, 3)
    with torch.no_grad():
        conv.weight.copy_(weight)
        x = SparseTensor(draw(len(coords), c), coords, batch_size=1)
        check = _sampled(x, weight, conv(x).feats)
        taken = time_one(lambda: conv(x), runs=runs) if check.passed else None
    return ScalingPoint(len(coords), n_pairs, c, check, taken)


def _sampled(x: SparseTensor, weight: Tensor, out: Tensor) -> Check:
    """Rows spread over the cloud, by the twins: all of the largest would take minutes in float64."""
    rows = torch.linspace(0, len(x) - 1, min(_SAMPLE, len(x))).long().unique()
    keys = pack(x.coords)
    rows_in, rows_out, starts = reference.match_keys(keys, keys[rows], _CUBE.key_deltas())
    needed, local = rows_in.long().unique(return_inverse=True)
    expected = reference.output_stationary(
        x.feats[needed].double(), weight.double(), local.int(), rows_out, starts, len(rows), 0
    )
    return check_close("sampled rows", out[rows], expected, float(weight.shape[0] * weight.shape[1]))


def free_bytes() -> float | None:
    """Memory that may be had without swapping; None where the system does not tell."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return None


@dataclass(frozen=True)
class Growth:
    """How the cost of one width grew.

    Attributes:
        channels: in and out; `MAP` for the map.
        factor: cost at the largest cloud over cost at the smallest steady one.
        smallest: voxels of that one.
        largest: voxels.
        memory_shares: of these two, see `ScalingPoint.memory_share`; near 1, memory is the limit.
    """

    channels: int
    factor: float
    smallest: int
    largest: int
    memory_shares: tuple[float, float]


def growth(points: Iterable[ScalingPoint], channels: int, *, above: int, bandwidth: float) -> Growth | None:
    """From the smallest cloud of at least `above` voxels to the largest; None where that is one cloud.

    Args:
        points: measured.
        channels: in and out; `MAP` for the map.
        above: voxels from which on the cost is steady.
        bandwidth: bytes / s.
    """
    timed = sorted(
        (point.n_voxels, cost, share)
        for point in points
        if point.channels == channels
        and point.n_voxels >= above
        and (cost := point.cost) is not None
        and (share := point.memory_share(bandwidth)) is not None
    )
    if len(timed) < 2:
        return None
    (smallest, before, first), (largest, after, last) = timed[0], timed[-1]
    return Growth(channels, after / before, smallest, largest, (first, last))
