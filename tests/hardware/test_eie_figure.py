"""The picture of the sweeps: a line a layer, drawn without a display."""

import pytest

from pcsparse.hardware.eie_figure import eie_figure
from tests.hardware.study_results import CURVES, IRREGULAR, RESULT

figures = pytest.importorskip("matplotlib.figure", reason="matplotlib (extra `view`) is not installed")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch):
    kept = []
    save = figures.Figure.savefig
    monkeypatch.setattr(
        figures.Figure,
        "savefig",
        lambda self, *a, **k: kept.append(self) or save(self, *a, **k),
    )
    return kept


def test_six_panels_with_a_line_a_layer(tmp_path, drawn):
    path = tmp_path / "new" / "eie.png"
    eie_figure([RESULT], [CURVES, IRREGULAR], path)

    depth, width, speed, work, balance, layers = drawn[0].axes
    for axes, values in (
        (depth, CURVES.efficiency), (speed, CURVES.speedup), (work, CURVES.real_work),
        (balance, CURVES.balance),
    ):  # fmt: skip
        by_name = {line.get_label(): line.get_ydata() for line in axes.lines}
        assert {"Alex-7", "NT-We"} <= by_name.keys()
        assert list(by_name["Alex-7"]) == list(values)
    # of both layers, 16.324 pJ a read of 64 bits
    assert [bar.get_height() for bar in width.patches][1] == pytest.approx(2 * 1.73 * 16.324)
    assert [bar.get_height() for bar in layers.patches] == pytest.approx([12.9 / 12.41, 12.2 / 11.7])
    assert [file.name for file in path.parent.iterdir()] == ["eie.png"]
    assert path.read_bytes().startswith(PNG)
