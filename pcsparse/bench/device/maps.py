"""Kernel maps: checked against plain torch, then timed beside spconv's."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcsparse.bench.device.cases import DeviceMap
from pcsparse.bench.device.outcome import OURS, Candidate, DeviceResult, attempt, verified_then_timed
from pcsparse.bench.device.peer import DevicePeer
from pcsparse.bench.device.scene import DeviceScene
from pcsparse.bench.scene import build_map
from pcsparse.bench.verify import check_equal
from pcsparse.coords.build import makes_tables
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.kernels.map_ways import WAYS, Way
from pcsparse.kernels.reference.keys import pack_rows

WARM = " ready in the cache"


def run_map(
    case: DeviceMap, scene: DeviceScene, peers: Sequence[DevicePeer], *, runs: int, seconds: float
) -> tuple[DeviceResult, DeviceResult]:
    """A map from coordinates alone, the coarse level included; then the look-up of one that is there.

    The package must give the twin's table, by the search and by every other way to a table that is possible;
    without a tuned rule nobody takes those. A peer's maps are checked by its convolutions.
    """
    coords = scene.coords
    candidates = [attempt(OURS, lambda: _ours(case.relation, coords, "search"))]
    candidates += [
        attempt(f"{OURS} by {how}", lambda how=how: _ours(case.relation, coords, how))  # type: ignore[misc]
        for how in (WAYS if makes_tables(coords) else ())
        if how != "search"
    ]
    candidates += [attempt(library.name, _maker(library, case.relation, coords)) for library in peers]
    device = coords.device
    cold = verified_then_timed(
        case.name, "", candidates, device, runs=runs, seconds=seconds, events=True,
        note="pcsparse, TorchSparse++: tables; spconv: tables with their rows sorted by mask",
    )  # fmt: skip
    warm = [attempt(OURS, lambda: _look_up(case.relation, coords))]
    return cold, verified_then_timed(
        case.name + WARM, "", warm, device, runs=runs, seconds=seconds, events=False
    )


def _ours(relation: Relation, coords: Tensor, how: Way) -> Candidate:
    def run() -> tuple[Tensor, KernelMap]:
        return build_map(coords, relation, how=how)

    coarse, kmap = run()
    checks = [check_equal("coordinates", coarse, _coarse(coords, relation))]
    checks.append(check_equal("table", kmap.table, twin_table(coords, coarse, relation)))
    other = how != "search"
    return Candidate(f"{OURS} by {how}" if other else OURS, run, tuple(checks), reference=other)


def _look_up(relation: Relation, coords: Tensor) -> Candidate:
    cache = CoordCache()

    def run() -> KernelMap:
        coarse = coords if relation.is_submanifold else cache.coarser(coords, relation)
        return cache.kernel_map(coords, coarse, relation)

    return Candidate(OURS, run, (check_equal("the same map", *_twice(run)),))


def _twice(run: Callable[[], KernelMap]) -> tuple[Tensor, Tensor]:
    first, second = run(), run()
    return torch.tensor(first is second), torch.tensor(True)


def _maker(library: DevicePeer, relation: Relation, coords: Tensor) -> Callable[[], Candidate]:
    def make() -> Candidate:
        geometry = library.geometry(coords)

        def run() -> object:
            return library.make_map(geometry, relation)

        run()
        return Candidate(library.name, run)

    return make


def _coarse(coords: Tensor, relation: Relation) -> Tensor:
    """Every coarse cell that meets a voxel, ascending by key, by plain torch."""
    if relation.is_submanifold:
        return coords
    stride = coords.new_tensor([1, *relation.stride])
    cells = []
    for step in relation.steps():
        scaled = coords - coords.new_tensor([0, *step])
        met = (torch.remainder(scaled, stride) == 0).all(dim=1)
        cells.append(torch.div(scaled, stride, rounding_mode="floor")[met])
    return torch.unique(torch.cat(cells), dim=0)


def twin_table(coords: Tensor, coarse: Tensor, relation: Relation) -> Tensor:
    """(k, n_out) int32 rows of `coords`, -1 where none is; every offset searched, no symmetry."""
    keys, rows = pack_rows(coords)[0], []
    scaled = coarse * coarse.new_tensor([1, *relation.stride])
    for step in relation.steps():
        wanted = pack_rows(scaled + scaled.new_tensor([0, *step]))[0]
        place = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
        rows.append(torch.where(keys[place] == wanted, place, -1).int())
    return torch.stack(rows)
