"""Kernel maps: checked against plain torch, then timed beside spconv's.

spconv's maps come with their rows sorted by mask, as its convolutions need them. The package sorts at the
first convolution instead, so its map alone is less work; what is held against spconv is its map with what
that convolution adds.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcsparse.bench.device.cases import DeviceMap
from pcsparse.bench.device.outcome import OURS, Candidate, DeviceResult, attempt, verified_then_timed
from pcsparse.bench.device.peer import DevicePeer
from pcsparse.bench.device.precision import FP16
from pcsparse.bench.device.scene import DeviceScene
from pcsparse.bench.scene import build_map
from pcsparse.bench.verify import Check, check_equal, check_norm
from pcsparse.coords.build import makes_tables
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.gemm_sizes import SortedImplicitGemmConfig, sizes_for
from pcsparse.engine.sorted_implicit_gemm import SortedImplicitGemm
from pcsparse.kernels import reference
from pcsparse.kernels.map_ways import WAYS, Way
from pcsparse.kernels.reference.keys import pack_rows

WARM = " ready in the cache"
ORDERED = f"{OURS} with its row order"
_WITH_ORDER = "row order"
# of the convolution whose layout that is: channels in and out, as those of the layers that make their map
_CHANNELS = 64
_SEED = 20231
_ROUNDINGS = 4.0


def run_map(
    case: DeviceMap, scene: DeviceScene, peers: Sequence[DevicePeer], *, runs: int, seconds: float
) -> tuple[DeviceResult, DeviceResult]:
    """A map from coordinates alone, the coarse level included; then the look-up of one that is there.

    The package must give the twin's table, by the search and by every other way to a table that is possible;
    without a tuned rule nobody takes those. A peer's maps are checked by its convolutions. The ratio is of
    the package with its row order and the peers that make theirs.
    """
    coords = scene.coords
    candidates = [attempt(OURS, lambda: _ours(case.relation, coords, "search"))]
    candidates.append(attempt(ORDERED, lambda: _ordered(case.relation, coords)))
    candidates += [
        attempt(f"{OURS} by {how}", lambda how=how: _ours(case.relation, coords, how))  # type: ignore[misc]
        for how in (WAYS if makes_tables(coords) else ())
        if how != "search"
    ]
    candidates += [attempt(library.name, _maker(library, case.relation, coords)) for library in peers]
    device = coords.device
    cold = verified_then_timed(
        case.name, "", candidates, device, runs=runs, seconds=seconds, events=True,
        note="pcsparse, TorchSparse++: tables; spconv: tables with their rows sorted by mask, of strided "
        f"ones both ways; {ORDERED}: with what its first convolution adds, {_CHANNELS} channels in fp16",
        form="from coordinates", judged=ORDERED,
    )  # fmt: skip
    warm = [attempt(OURS, lambda: _look_up(case.relation, coords))]
    return cold, verified_then_timed(
        case.name + WARM, "", warm, device, runs=runs, seconds=seconds, events=False, form="ready"
    )


def _ours(relation: Relation, coords: Tensor, how: Way) -> Candidate:
    def run() -> tuple[Tensor, KernelMap]:
        return build_map(coords, relation, how=how)

    coarse, kmap = run()
    checks = [check_equal("coordinates", coarse, _coarse(coords, relation))]
    checks.append(check_equal("table", kmap.table, twin_table(coords, coarse, relation)))
    other = how != "search"
    return Candidate(f"{OURS} by {how}" if other else OURS, run, tuple(checks), reference=other)


def _ordered(relation: Relation, coords: Tensor) -> Candidate:
    """With the order of rows and the lists of tiles that the first convolution over the map makes."""

    def run() -> tuple[Tensor, KernelMap, list[Tensor]]:
        coarse, kmap = build_map(coords, relation)
        return coarse, kmap, kmap.layout(*_sizes(kmap).layout)

    coarse, kmap, _ = run()
    checks = [check_equal("coordinates", coarse, _coarse(coords, relation))]
    checks.append(check_equal("table", kmap.table, twin_table(coords, coarse, relation)))
    checks.append(_check_order(kmap))
    return Candidate(ORDERED, run, tuple(checks), work=_WITH_ORDER)


def _sizes(kmap: KernelMap) -> SortedImplicitGemmConfig:
    size = FP16.dtype.itemsize
    return sizes_for(kmap.volume, _CHANNELS, _CHANNELS, kmap.n_out, size, kmap.symmetric, "ieee")


def _check_order(kmap: KernelMap) -> Check:
    """A layout is read by the kernels of its device alone: a convolution over it must be the twin's."""
    generator = torch.Generator().manual_seed(_SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device=kmap.device, dtype=FP16.dtype)

    feats, weight = draw(kmap.n_in, _CHANNELS), draw(kmap.volume, _CHANNELS, _CHANNELS)
    # so that no sum leaves the range of float16
    weight *= (kmap.volume * _CHANNELS) ** -0.5
    chosen = _sizes(kmap)
    out = SortedImplicitGemm().forward(feats, weight, kmap, chosen)
    # sizes of tiles are nothing to the twin
    sizes = (kmap.n_out, 0, 0, 0, 0, 1, "ieee")
    expected = reference.implicit_gemm(feats.double(), weight.double(), [kmap.table], *sizes)
    return check_norm("convolution over its order", out, expected, _ROUNDINGS * FP16.rounding)


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
        return Candidate(library.name, run, work=_WITH_ORDER if library.orders_rows else "")

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
