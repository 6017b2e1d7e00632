"""Figures: drawn without a display, one mark a timed case."""

from dataclasses import replace

import numpy as np
import pytest

from pcsparse.bench import figures
from pcsparse.bench.figures import roofline, scaling_figure
from pcsparse.bench.limits import Limits, Work
from pcsparse.bench.scaling import MAP
from tests.bench.test_report import REPORT
from tests.bench.test_scaling import point
from tests.bench.test_tables import RIGHT, WRONG

pytest.importorskip("matplotlib", reason="matplotlib (extra `view`) is not installed")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch):
    kept = []
    save = figures.save_figure
    monkeypatch.setattr(
        figures, "save_figure", lambda figure, path: kept.append(figure) or save(figure, path)
    )
    return kept


def test_the_roofline_has_a_mark_for_every_timed_case_and_none_for_a_wrong_one(tmp_path, drawn):
    work = Work(4e8, 1e7)
    right = replace(RIGHT, works=(work,))
    narrow = replace(right, case="narrow bf16", works=(replace(work, narrow=True),))
    report = replace(
        REPORT, limits=Limits(1e10, 1e11, 2e11), layers=(right, narrow, replace(WRONG, works=(work,)))
    )
    roofline(report, tmp_path / "new" / "roofline.png")

    (axes,) = drawn[0].axes
    marks = {c.get_label(): c.get_offsets().tolist() for c in axes.collections}
    # 40 operations a byte; 4e8 operations in 10 and in 30 ms
    assert marks["pcsparse float32"] == [[40.0, pytest.approx(40.0)]]
    assert marks["pcsparse bfloat16"] == [[40.0, pytest.approx(40.0)]]
    assert marks["torch"] == [[40.0, pytest.approx(40 / 3)]] * 2
    assert marks.keys() == {"pcsparse float32", "pcsparse bfloat16", "torch"}
    roofs = [line.get_ydata()[-1] for line in axes.lines]
    assert roofs == [100.0, 200.0]
    files = list((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["roofline.png"]
    assert files[0].read_bytes().startswith(PNG)


def test_the_scaling_figure_has_a_line_a_width_and_the_map(tmp_path, drawn):
    points = [point(n, 1e-9 * n, c) for c in (MAP, 16, 32) for n in (1_000, 10_000)]
    scaling_figure(points, "title", tmp_path / "scaling.png")
    layers, maps = drawn[0].axes
    assert [line.get_label() for line in layers.lines] == ["C = 16", "C = 32"]
    # 1 ns a voxel, three pairs a voxel
    assert layers.lines[0].get_ydata() == pytest.approx([1e3 / 3 / 16**2] * 2)
    assert maps.lines[0].get_ydata() == pytest.approx([1 / 3] * 2)
    assert (tmp_path / "scaling.png").read_bytes().startswith(PNG)


def test_the_picture_is_not_blank(tmp_path):
    from PIL import Image

    scaling_figure([point(n, 1e-9 * n) for n in (1_000, 10_000)], "title", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("L").resize((90, 55)))
    assert len(np.unique(pixels)) > 10
