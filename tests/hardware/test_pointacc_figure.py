"""The picture of a run: six panels with what they should show."""

from dataclasses import replace

import pytest
import torch

from pcsparse.hardware.pointacc import simulate
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_figure import pointacc_figure
from pcsparse.hardware.pointacc_pointnet import trace_pointnet
from pcsparse.hardware.pointacc_study import CACHE_BYTES, WIDTHS, CacheCurve, WidthCurve, compare_maps
from pcsparse.hardware.trace import NetworkTrace
from pcsparse.hardware.trace_sparse import trace_sparse
from pcsparse.nn import SubmanifoldConv3d
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like

figures = pytest.importorskip("matplotlib.figure", reason="matplotlib (extra `view`) is not installed")
PNG = b"\x89PNG\r\n\x1a\n"


def test_six_panels(tmp_path, monkeypatch):
    kept = []
    save = figures.Figure.savefig
    monkeypatch.setattr(
        figures.Figure, "savefig", lambda self, *a, **k: kept.append(self) or save(self, *a, **k)
    )
    coords = lidar_like(200)
    x = SparseTensor(torch.zeros(len(coords), 4), coords)
    trace = trace_sparse(SubmanifoldConv3d(4, 8, 3), x, "conv")
    trace = NetworkTrace("conv", (trace.steps[0], replace(trace.steps[1], name="layer")))
    chip = PointAccChip.full()
    run, maps = simulate(trace, chip), compare_maps(trace, simulate(trace, chip))
    widths = WidthCurve("map", tuple(range(60, 0, -10)), tuple(range(61, 1, -10)), tuple(range(62, 2, -10)))
    cache = CacheCurve("layer", 10, tuple(tuple(range(80, 0, -10)) for _ in range(3)), 90)
    points = [simulate(trace_pointnet(64), chip)]
    path = tmp_path / "new" / "pointacc.png"
    pointacc_figure(run, maps, widths, cache, points, path)

    stages, moved, fused, mapping, width, size = kept[0].axes
    matrix, memory, following = stages.lines
    assert list(matrix.get_ydata()) == [run.layers[0].matrix.cycles / 1e3]
    assert len(memory.get_ydata()) == 2
    assert list(following.get_ydata()) == [run.mapping[0].cost.cycles / 1e3]
    layer = run.layers[0]
    assert [bar.get_height() for bar in moved.patches] == pytest.approx(
        [layer.gathered.total / 1e6, layer.uncached.total / 1e6, layer.cached.traffic.total / 1e6]
    )
    assert [bar.get_width() for bar in fused.patches] == pytest.approx(
        [kb / 1e3 for plan in points[0].plans for kb in (plan.alone_bytes, plan.fused_bytes)]
    )
    assert [bar.get_height() for bar in mapping.patches] == pytest.approx(
        [maps[0].merged.steps / 1e3, maps[0].merged.cycles / 1e3, maps[0].hashed.cycles / 1e3]
    )
    assert [list(line.get_xdata()) for line in width.lines] == [list(WIDTHS)] * 3
    assert [list(line.get_xdata()) for line in size.lines[:3]] == [list(CACHE_BYTES)] * 3
    assert [file.name for file in path.parent.iterdir()] == ["pointacc.png"]
    assert path.read_bytes().startswith(PNG)
