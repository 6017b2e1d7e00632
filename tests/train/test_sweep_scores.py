"""Scores by sweep: their sum, their intervals against a slow bootstrap, and files."""

import numpy as np
import pytest

from pcsparse.errors import FormatError, RangeError
from pcsparse.train.metrics import ConfusionMatrix, SemanticKittiMetrics
from pcsparse.train.sweep_scores import SweepScores


def scores(n=12, sequence=lambda i: "08", seed=0, right=0.7):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        # the rare class 2 is in every fourth sweep only
        target = rng.integers(-1, 3 if i % 4 == 0 else 2, 60)
        guess = np.where(rng.random(60) < right, target, rng.integers(-1, 3, 60))
        one = ConfusionMatrix(3)
        one.update(guess, target)
        found.append((f"{sequence(i)}/{i:06d}", one))
    return SweepScores.of(found, 3), [one for _, one in found]


def mean_iou(matrices):
    return SemanticKittiMetrics.of(sum(matrices[1:], matrices[0])).mean_iou_present


def test_together_they_are_the_matrix_of_all_sweeps():
    found, matrices = scores()
    assert (found.confusion().counts == sum(one.counts for one in matrices)).all()
    assert found.miou_present().value == pytest.approx(mean_iou(matrices), abs=1e-12)
    assert found.metrics().mean_iou_present == pytest.approx(mean_iou(matrices), abs=1e-12)


@pytest.mark.parametrize("sequences", [1, 9])
def test_intervals_are_those_of_a_plain_bootstrap(sequences):
    found, matrices = scores(18, sequence=lambda i: f"{i % sequences:02d}")
    # few sequences say nothing: then sweeps are drawn
    assert found.drawn() == ("sweeps" if sequences == 1 else "sequences")
    groups = [[m] for m in matrices] if sequences == 1 else [matrices[i::9] for i in range(9)]
    rng = np.random.default_rng(5)
    draws = [
        mean_iou([m for g in rng.integers(len(groups), size=len(groups)) for m in groups[g]])
        for _ in range(400)
    ]
    low, high = np.percentile(draws, (2.5, 97.5))
    interval = found.miou_present()
    # 400 draws find an end to a tenth of the width
    assert interval.low == pytest.approx(low, abs=0.15 * (high - low))
    assert interval.high == pytest.approx(high, abs=0.15 * (high - low))
    assert interval.low < interval.value < interval.high


def test_a_gain_is_drawn_in_pairs():
    worse, _ = scores(seed=1, right=0.6)
    better, _ = scores(seed=1, right=0.9)
    gain = better.gain_over(worse)
    assert gain.value == pytest.approx(better.miou_present().value - worse.miou_present().value)
    assert 0 < gain.low < gain.value < gain.high
    nothing = worse.gain_over(worse)
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
    other, _ = scores(11)
    with pytest.raises(RangeError, match="the same sweeps"):
        better.gain_over(other)


def test_files_come_back_and_broken_ones_are_named(tmp_path):
    found, _ = scores()
    found.save(tmp_path / "a.npz")
    again = SweepScores.load(tmp_path / "a.npz")
    assert again.names == found.names
    assert (again.counts == found.counts).all()
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:90])
    for name in ("b.npz", "none.npz"):
        with pytest.raises(FormatError, match=f"{name} holds no scores"):
            SweepScores.load(tmp_path / name)
    with pytest.raises(RangeError, match="no labelled sweep"):
        SweepScores.of([], 3).miou_present()
