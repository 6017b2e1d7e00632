"""What a compression refuses before it measures anything."""

from functools import partial
from types import SimpleNamespace

import pytest

from pcsparse.compress.settings import BudgetSettings, ScanSettings
from pcsparse.config import CompressSettings
from pcsparse.errors import PcsparseError, RangeError, UnsupportedError
from pcsparse.programs.compress import compress
from pcsparse.programs.compress_job import Job
from pcsparse.programs.folder_lock import sole_user


def test_a_second_command_in_a_folder_at_work_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pcsparse.programs.compress.sole_user", partial(sole_user, patience=0.0))
    with (
        sole_user(tmp_path / "run"),
        pytest.raises(PcsparseError, match=r"another process is at work in .*run"),
    ):
        compress(SimpleNamespace(folder=tmp_path / "run", prunable=None))
    assert list((tmp_path / "run").iterdir()) == []


def test_an_agent_that_could_never_act_is_refused_before_anything_is_loaded():
    channels = {"_target_": "pcsparse.compress.pruning_channels.ChannelPruning"}
    one = CompressSettings(
        output_dir="nowhere", budget=BudgetSettings(share=0.5), evaluations=1, checkpoint="missing",
        compress=channels, method={"_target_": "pcsparse.compress.search.amc.AMC"},
    )  # fmt: skip
    with pytest.raises(RangeError, match=r"amc needs .* got evaluations=1"):
        Job.of(one)


def test_two_budgets_are_refused_with_what_to_do():
    with pytest.raises(RangeError, match=r"got \{'share': 0.5, 'ms': 80.0\}; set the others to null"):
        BudgetSettings(share=0.5, ms=80.0).check()


@pytest.mark.parametrize("name", ["joint.JointPruning", "offsets.OffsetPruning", "voxels.VoxelPruning"])
def test_least_squares_of_another_axis_than_channels_are_refused_before_anything_is_loaded(name):
    one = CompressSettings(
        output_dir="nowhere", budget=BudgetSettings(share=0.5), reconstruct=True, checkpoint="missing",
        compress={"_target_": f"pcsparse.compress.pruning_{name}"},
        method={"_target_": "pcsparse.compress.search.uniform.Uniform"},
    )  # fmt: skip
    with pytest.raises(
        UnsupportedError,
        match=r"lost channels alone, not (channels and )?(offsets|voxels); set reconstruct=false",
    ):
        Job.of(one)


@pytest.mark.parametrize("scan", [{"ratios": (1.0,)}, {"weights": (-0.1,)}, {"weights": (0.5, 1.0)}])
def test_ratios_of_a_scan_outside_are_refused_before_anything_is_loaded(scan):
    one = CompressSettings(
        output_dir="nowhere", budget=BudgetSettings(share=0.5), checkpoint="missing", compress={}, method={},
        scan=ScanSettings(**scan),
    )  # fmt: skip
    with pytest.raises(RangeError, match=rf"the ratio of scan.{next(iter(scan))} must be in \[0, 1\)"):
        Job.of(one)
