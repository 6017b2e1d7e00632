"""Sweeps of a compression that have no labels or no points: where they may be, and what is said else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pcsparse.compress.pruning_channels import ChannelPruning
from pcsparse.compress.search.uniform import Uniform
from pcsparse.compress.settings import EvaluationSettings, ScanSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.errors import FormatError, RangeError
from pcsparse.programs import compress_steps
from pcsparse.programs.compress import compress
from pcsparse.programs.compress_evaluation import digest_of, spread_batches
from tests.programs.compress_case import POINTS, tiny_job
from tests.streets import TinyStreets

VOXELS = VoxelSettings(0.6)


class Some(TinyStreets):
    """Streets of which some are without labels ("none"), all ignored, or without points ("empty")."""

    def __init__(self, n, how, first_seed=0):
        super().__init__(n, POINTS, first_seed)
        self.how = how

    def __getitem__(self, index):
        sweep, how = super().__getitem__(index), self.how.get(index)
        if how == "none":
            return replace(sweep, targets=None)
        if how == "ignored":
            return replace(sweep, targets=np.full_like(sweep.targets, -1))
        if how == "empty":
            return replace(sweep, points=sweep.points[:0], intensity=sweep.intensity[:0],
                           targets=sweep.targets[:0])  # fmt: skip
        return sweep


def names(how, n, needs, of=20):
    return [batch.names[0][-2:] for batch in spread_batches(Some(of, how), n, VOXELS, needs)]


def test_the_next_sweep_that_has_what_is_needed_comes_in_place_of_one_that_has_not():
    assert names({}, 3, "labels") == names({5: "empty"}, 3, "labels") == ["00", "10", "19"]
    lacking = {0: "none", 1: "ignored", 2: "empty", 10: "none", 19: "none"}
    assert names(lacking, 3, "nothing") == ["00", "10", "19"]
    assert names(lacking, 3, "voxels") == ["00", "10", "19"]
    assert names({**lacking, 0: "empty"}, 3, "voxels") == ["01", "10", "19"]
    # none comes after the last one
    assert names(lacking, 3, "labels") == ["03", "11"]
    # neighbours are not taken twice
    assert names({0: "none"}, 20, "labels") == names({}, 20, "labels")[1:]


def test_fewer_sweeps_than_asked_for_are_told(capsys):
    assert names(dict.fromkeys(range(10, 19), "none"), 3, "labels") == ["00", "19"]
    assert capsys.readouterr().out == (
        "2 sweeps instead of 3: at the other places none of 8 has a labelled voxel\n"
    )
    assert names({}, 3, "labels") == ["00", "10", "19"]
    assert capsys.readouterr().out == ""
    assert names({}, 3, "nothing", of=0) == []
    with pytest.raises(FormatError, match="0 of 0"):
        names({}, 3, "voxels", of=0)


def test_none_that_has_it_is_refused_with_what_to_do():
    for how, needs, what in (("ignored", "labels", "labelled voxel"), ("empty", "voxels", "voxel")):
        with pytest.raises(FormatError, match=rf"2 of 4 .* has a {what}, and .*choose another split or crop"):
            names(dict.fromkeys(range(4), how), 2, needs, of=4)


def test_a_compression_takes_sets_with_some_unlabelled_and_empty_sweeps(tmp_path, monkeypatch):
    monkeypatch.setattr(compress_steps, "search_figure", lambda *given: None)
    monkeypatch.setattr("pcsparse.timing._BUSY_SECONDS", 0.01)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    job = tiny_job(
        tmp_path, method=Uniform(), scan=ScanSettings(run=False),
        pruning=ChannelPruning((0.0, 0.5), 4, "taylor"),
        evaluation=EvaluationSettings(sweeps=2, calibration=2),
    )  # fmt: skip
    job.train_set = Some(4, {0: "ignored", 2: "empty"})
    job.search_set = Some(4, {0: "none", 3: "empty"})
    job.final_set = Some(3, {1: "empty", 2: "none"}, 50)
    try:
        compress(job)
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "run/report.html").is_file()
    # costs need voxels only; what is scored is labelled
    assert digest_of(job.cost_batches) == digest_of(spread_batches(job.search_set, 1, VOXELS, "nothing"))
    assert all(batch.n_labelled for batch in job.search_batches)


def test_a_split_without_labels_is_refused_before_anything_is_written(tmp_path):
    job = tiny_job(tmp_path)
    job.final_set = Some(3, {0: "none", 1: "ignored", 2: "empty"})
    with pytest.raises(RangeError, match=r"split val has no labels to report on; set measure\.split"):
        compress(job)
    assert not (tmp_path / "run").exists()


def test_taylor_scores_without_a_label_say_what_to_do(tmp_path):
    job = tiny_job(tmp_path, pruning=ChannelPruning((0.0, 0.5), 4, "taylor"))
    job.train_set = Some(4, {0: "none"})
    with pytest.raises(FormatError, match=r"none of the calibration sweeps .*evaluation.calibration higher"):
        _ = job.prunable
