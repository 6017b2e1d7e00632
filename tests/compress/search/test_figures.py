"""The picture of searches, drawn without a display."""

from dataclasses import replace

import pytest

from pcsparse.compress.search.bisect import Bisection
from pcsparse.compress.search.figures import search_figure
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.random_search import RandomSearch
from pcsparse.errors import RangeError, UnsupportedError
from tests.compress.search.spaces import additive, chain

SPACE = chain(4)
SCORE = additive(SPACE, [0.05, 0.3, 0.02, 0.4])
HALF = SPACE.cost(SPACE.largest) / 2
RESULTS = [search(SPACE, SCORE, HALF, 12, method=method) for method in (RandomSearch(), Bisection())]


def test_a_line_a_search_and_the_front(tmp_path, monkeypatch):
    figures = pytest.importorskip("matplotlib.figure", reason="matplotlib (extra `view`) is not installed")
    kept = []
    save = figures.Figure.savefig
    monkeypatch.setattr(
        figures.Figure, "savefig", lambda self, *a, **k: kept.append(self) or save(self, *a, **k)
    )
    path = tmp_path / "new" / "search.png"
    search_figure(RESULTS, path, title="half of the multiply-adds")

    rewards, front = kept[0].axes
    drawn, bisected = rewards.lines
    scores = [trial.reward for trial in RESULTS[0].trials]
    assert list(drawn.get_ydata()) == [max(scores[: i + 1]) for i in range(12)]
    # its probes are no rewards, but came first
    assert list(bisected.get_xdata()) == [len(RESULTS[1].trials)]
    assert {line.get_label() for line in front.lines} >= {"random, seed 0", "bisection, seed 0"}
    pareto = RESULTS[0].pareto()
    assert list(front.lines[0].get_xdata()) == [trial.cost for trial in pareto]
    assert list(front.lines[0].get_ydata()) == [trial.score for trial in pareto]
    assert list(front.lines[-1].get_xdata()) == [HALF, HALF]
    assert front.get_xlabel() == "cost (MACs)"
    assert [file.name for file in path.parent.iterdir()] == ["search.png"]
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RangeError, match=r"one unit, got \['MACs', 'ms'\]"):
        search_figure([RESULTS[0], replace(RESULTS[1], unit="ms")], tmp_path / "x.png")
    with pytest.raises(RangeError, match="one unit"):
        search_figure([], tmp_path / "x.png")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"pcsparse\[view\]"):
        search_figure(RESULTS, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
