"""PointAcc on a sweep: tables of its units, two curves, and our figures beside the published ones."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from pcsparse.bench.clouds import Cloud, file_cloud, simulated_cloud, small_cloud
from pcsparse.bench.report import write_json
from pcsparse.checks import require_extra
from pcsparse.coords.voxelize import voxelize
from pcsparse.errors import RangeError
from pcsparse.hardware.eie_report import Verdict
from pcsparse.hardware.pointacc import PointAccRun, simulate
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_pointnet import (
    Ball,
    Level,
    trace_pointnet,
    trace_pointnet2,
    trace_pointnet2_segmentation,
)
from pcsparse.hardware.pointacc_report import Finding, findings, verdicts
from pcsparse.hardware.pointacc_study import (
    CACHE_BYTES,
    CACHE_POINTS,
    WIDTHS,
    CacheCurve,
    MapComparison,
    WidthCurve,
    cache_curve,
    compare_maps,
    hungriest_layer,
    largest_map,
    width_curve,
)
from pcsparse.hardware.pointacc_tables import (
    fusion_lines,
    layer_head,
    layer_lines,
    map_head,
    map_line,
    other_mapping_lines,
    totals,
)
from pcsparse.hardware.trace import NetworkTrace
from pcsparse.hardware.trace_sparse import trace_sparse
from pcsparse.models.minkunet import MinkUNet, MinkUNetSpec
from pcsparse.models.pointnet2 import Layers, PointNet2Spec
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import environment

FORMAT = 1
# points of a cloud that a point network classifies, and of one whose points it classifies; and where in the
# sweep they are taken: metres
_N_POINTS, _N_SEGMENTED = 1024, 8192
_MIDDLE = (8.0, 0.0, -1.0)


@dataclass(frozen=True)
class PointAccSettings:
    """What to simulate.

    Attributes:
        out: the JSON file; the picture lies beside it.
        points: a point file; a simulated sweep if None.
        voxel_size: metres.
        quick: a street in miniature and a network of an eighth of the widths.
        figure: whether to draw.
    """

    out: Path = Path("bench-out/pointacc.json")
    points: Path | None = None
    voxel_size: float = 0.05
    quick: bool = False
    figure: bool = True


@dataclass(frozen=True)
class _Results:
    """Of one chip."""

    unet: PointAccRun
    points: tuple[PointAccRun, ...]
    maps: list[MapComparison]
    widths: WidthCurve
    cache: CacheCurve
    findings: list[Finding]


def run(settings: PointAccSettings) -> int:
    """Simulate, print tables and verdicts, write JSON and PNG; 1 if what must hold does not, else 0.

    Raises:
        RangeError: the voxel size is not positive, or the cloud has too few points.
        FormatError: the point file cannot be read.
        UnsupportedError: the picture is wanted and matplotlib is not installed.
    """
    if settings.figure:
        # before minutes of work, not after
        require_extra("matplotlib", "view")
    where = environment()
    print(where.header())
    cloud = _cloud(settings)
    unet = _trace_unet(cloud, settings)
    # a miniature is segmented as far as it goes
    n_segmented = min(_N_SEGMENTED, len(cloud.points))
    others = (
        trace_pointnet(_N_POINTS),
        _trace_pointnet2(_part(cloud.points, _N_POINTS)),
        _trace_segmentation(_part(cloud.points, n_segmented)),
    )
    print(
        f"PointAcc on {cloud.name}: {len(cloud.points)} points, {unet.layers[0].n_rows} voxels of "
        f"{settings.voxel_size:g} m; features and weights of {unet.layers[0].itemsize} bytes"
    )
    results = [_on_chip(unet, others, chip) for chip in (PointAccChip.full(), PointAccChip.edge())]
    bounds = _bounds(results)
    write_json(
        settings.out,
        {
            "format": FORMAT,
            "environment": asdict(where),
            "cloud": cloud.name,
            "n_points": len(cloud.points),
            "voxel_size": settings.voxel_size,
            "quick": settings.quick,
            "axes": {"widths": WIDTHS, "cache_bytes": CACHE_BYTES, "cache_points": CACHE_POINTS},
            "chips": [asdict(result) for result in results],
            "verdicts": [asdict(verdict) for verdict in bounds],
        },
    )
    print(f"\nwritten: {settings.out}")
    if settings.figure:
        from pcsparse.hardware.pointacc_figure import pointacc_figure

        full, path = results[0], settings.out.with_suffix(".png")
        pointacc_figure(full.unet, full.maps, full.widths, full.cache, full.points, path)
        print(f"written: {path}")
    return 0 if all(verdict.passed for verdict in bounds) else 1


def _cloud(settings: PointAccSettings) -> Cloud:
    if settings.points is not None:
        return file_cloud(settings.points)
    return small_cloud() if settings.quick else simulated_cloud()


def _trace_unet(cloud: Cloud, settings: PointAccSettings) -> NetworkTrace:
    voxels = voxelize(cloud.points, settings.voxel_size)
    x = SparseTensor(cloud.feats[voxels.first], voxels.coords)
    # no cycle depends on a weight, so none is loaded
    spec = MinkUNetSpec.minkunet14(width=0.125) if settings.quick else MinkUNetSpec.minkunet18()
    return trace_sparse(MinkUNet(spec).eval(), x, "MinkUNet")


def _part(points: Tensor, n: int) -> Tensor:
    """A part of the sweep as a classifier gets it: the n points nearest to one place, in a ball of radius 1.

    Blocks of rooms that are segmented are about as large, in metres.
    """
    if len(points) < _N_POINTS:
        raise RangeError(
            f"PointNet++ needs {_N_POINTS} points, the cloud has {len(points)}; take a larger one"
        )
    order = torch.argsort((points - points.new_tensor(_MIDDLE)).norm(dim=1), stable=True)
    part = points[order[:n].sort().values]
    part = part - part.mean(dim=0)
    return part / part.norm(dim=1).max()


def _trace_pointnet2(points: Tensor) -> NetworkTrace:
    spec = PointNet2Spec.classification()
    return trace_pointnet2(points, _levels(spec), _widths(spec.pooled), _widths(spec.head))


def _trace_segmentation(points: Tensor) -> NetworkTrace:
    spec = PointNet2Spec.segmentation()
    up = tuple(map(_widths, spec.propagations))
    return trace_pointnet2_segmentation(points, _levels(spec), up, _widths(spec.head))


def _levels(spec: PointNet2Spec) -> tuple[Level, ...]:
    return tuple(
        Level(
            level.n_samples,
            tuple(Ball(scale.radius, scale.limit, _widths(scale.layers)) for scale in level.scales),
        )
        for level in spec.abstractions
    )


def _widths(layers: Layers) -> tuple[int, ...]:
    return tuple(layer.c_out for layer in layers)


def _on_chip(unet: NetworkTrace, others: tuple[NetworkTrace, ...], chip: PointAccChip) -> _Results:
    ran = simulate(unet, chip)
    points = tuple(simulate(trace, chip) for trace in others)
    maps = compare_maps(unet, ran)
    largest, hungry = largest_map(unet), hungriest_layer(unet, ran)
    assert largest is not None
    assert hungry is not None
    layer, layer_run = hungry
    assert layer_run.cached is not None
    result = _Results(
        ran, points, maps, width_curve(largest, chip), cache_curve(layer, chip, layer_run.cached.config),
        findings(ran, maps, points),
    )  # fmt: skip
    _tell(result, chip)
    return result


def _tell(result: _Results, chip: PointAccChip) -> None:
    print(
        f"\n{chip.name} chip: {chip.array_rows}x{chip.array_cols}, {chip.sram_bytes // 1024} KB, "
        f"{chip.memory_rate / 1e9:g} GB/s, {chip.clock / 1e9:g} GHz, merger of {chip.merger_width}"
    )
    print(f"\n{result.unet.network} by layer: thousands of cycles; MB of DRAM\n{layer_head()}")
    for line in layer_lines(result.unet):
        print(line)
    print(f"\nkernel maps by merger and hash: thousands of cycles; KB\n{map_head(chip.merger_width)}")
    for each in result.maps:
        print(map_line(each))
    print("\nother mapping")
    for ran in (result.unet, *result.points):
        for line in other_mapping_lines(ran):
            print(line)
    print("\nlinear layers: DRAM layer by layer, fused, saved; groups and rows of a tile")
    for ran in result.points:
        print(ran.network)
        for line in fusion_lines(ran):
            print(f"  {line}")
    print()
    for ran in (result.unet, *result.points):
        print(totals(ran))
    print()
    for finding in result.findings:
        print(finding, flush=True)


def _bounds(results: list[_Results]) -> list[Verdict]:
    bounds = verdicts(
        [ran for result in results for ran in (result.unet, *result.points)],
        [each for result in results for each in result.maps],
        [result.cache for result in results],
    )
    print()
    for verdict in bounds:
        print(verdict)
    failed = sum(not verdict.passed for verdict in bounds)
    print(f"{len(bounds) - failed} of {len(bounds)} bounds hold")
    return bounds
