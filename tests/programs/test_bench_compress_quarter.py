"""The study of a quarter: differences on the same sweeps, and a study on tiny streets."""

import numpy as np
import pytest
import torch

from pcsparse.errors import RangeError
from pcsparse.programs import bench_compress_quarter as quarter
from pcsparse.programs.bench_compress_quarter import QuarterStudy, run
from pcsparse.programs.bench_compress_quarter_table import Tried, differences, table_text
from pcsparse.programs.bench_compress_streets import Streets, Towns, Training
from pcsparse.train.model_file import load_model
from pcsparse.train.sweep_counts import SweepCounts
from tests.streets import write_root


def _tried(name, right, seed=0):
    """Every sweep has 100 points of one class; `right` of them are told."""
    right = np.array(right)[:, None]
    truth = np.full_like(right, 100)
    return Tried(name, seed, SweepCounts(right, truth, truth), 1_500_000)


def test_what_is_lost_is_counted_against_the_dense_start_on_the_same_sweeps():
    start = [40, 90, 10, 60]
    tried = [
        _tried("pruned, fine-tuned", [right - 1 for right in start], 1),
        _tried("pruned, fine-tuned", [right - 3 for right in start], 2),
        _tried("dense", start),
    ]
    found = differences(tried)
    assert found["pruned, fine-tuned"] == pytest.approx((-0.02, -0.02 - 0.01 * 2**0.5, -0.02 + 0.01 * 2**0.5))
    assert found["dense"] == (0.0, 0.0, 0.0)
    text = table_text(tried, {"pruned, fine-tuned": (10.0, 30.0), "dense": (40.0, 100.0)}, 0.25)
    row = next(line for line in text.splitlines() if line.startswith("| pruned"))
    assert (
        row
        == "| pruned, fine-tuned | 2 | 1.50 | 10.0 30.0 | 27.5% | 48.0 | 47.0, 49.0 | -2.0 (-3.4 to -0.6) |"
    )


@pytest.mark.slow
def test_a_study_trains_three_networks_a_seed_and_nothing_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Streets, "write", lambda self: None)
    sets = [Towns(name, 2, 1, 0, 1.0) for name in ("train", "search", "held")]
    for i, towns in enumerate(sets):
        write_root(tmp_path / towns.name, {"00": 1, "01": 1}, points=300 + i)
    training = Training(epochs=1, precision="float32", validate_every=0)
    study = QuarterStudy(
        tmp_path / "out", Streets(tmp_path, *sets, voxel_size=1.0), 0.25, training, share=1.0,
        method="random", evaluations=3, tuning_epochs=1, seeds=2,
    )  # fmt: skip
    run(study)
    text = (study.out / "table.md").read_text()
    names = [line.split(" | ")[0][2:] for line in text.splitlines() if line.startswith("| ")]
    assert names == [
        "network", "pruned, fine-tuned", "dense, fine-tuned", "narrow, from scratch", "pruned, not trained",
        "dense",
    ]  # fmt: skip
    dense, pruned = (load_model(study.out / name)[0] for name in ("dense", "pruned-1"))
    assert dense.spec != pruned.spec
    # what was trained from scratch had as many steps as both trainings of the pruned one
    steps = {name: len((study.out / name / "log.csv").read_text().splitlines()) - 1
             for name in ("dense", "pruned-2", "control-2", "scratch-2")}  # fmt: skip
    assert steps["scratch-2"] == steps["dense"] + steps["pruned-2"]
    assert steps["control-2"] == steps["pruned-2"]
    written = {path: path.stat().st_mtime_ns for path in study.out.rglob("model.safetensors")}
    assert len(written) == 7
    capsys.readouterr()
    run(study)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    with pytest.raises(RangeError, match="cannot be met: the smallest reachable is"):
        run(quarter.replace(study, share=0.001))
    assert torch.is_grad_enabled()
