"""What a compression refuses before it measures anything."""

import sys
from functools import partial
from types import SimpleNamespace

import pytest
from torch import nn

from pcsparse.compress.settings import BudgetSettings, ScanSettings
from pcsparse.config import CompressSettings
from pcsparse.errors import PcsparseError, RangeError, UnsupportedError
from pcsparse.programs import compress_job as job_module
from pcsparse.programs.compress import compress
from pcsparse.programs.compress_job import Job
from pcsparse.programs.folder_lock import sole_user


def test_a_second_command_in_a_folder_at_work_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pcsparse.programs.compress.sole_user", partial(sole_user, patience=0.0))
    with (
        sole_user(tmp_path / "run"),
        pytest.raises(PcsparseError, match=r"another process is at work in .*run"),
    ):
        compress(SimpleNamespace(folder=tmp_path / "run", prunable=None, check_report=lambda: None))
    assert list((tmp_path / "run").iterdir()) == []


def test_without_matplotlib_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"'matplotlib'.*pip install 'pcsparse\[view\]'"):
        compress(SimpleNamespace(folder=tmp_path / "run", prunable=None))
    assert not (tmp_path / "run").exists()


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


def test_least_squares_of_a_network_that_the_graph_does_not_know_are_refused_before_the_search(monkeypatch):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(4, 4)

        def forward(self, x):
            return self.tokens(x)

    loaded = []
    monkeypatch.setattr(job_module, "load_model", lambda path: loaded.append(path) or (Odd(), None))
    one = CompressSettings(
        output_dir="nowhere", budget=BudgetSettings(share=0.5), reconstruct=True,
        compress={"_target_": "pcsparse.compress.pruning_offsets.OffsetPruning"},
        method={"_target_": "pcsparse.compress.search.uniform.Uniform"},
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"least squares need .*; or set reconstruct=false"):
        Job.of(one)
    assert loaded


def test_least_squares_for_rows_are_refused_before_anything_is_loaded():
    one = CompressSettings(
        output_dir="nowhere", budget=BudgetSettings(share=0.5), reconstruct=True, checkpoint="missing",
        compress={"_target_": "pcsparse.compress.pruning_voxels.VoxelPruning"},
        method={"_target_": "pcsparse.compress.search.uniform.Uniform"},
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"where rows are left out .*; set reconstruct=false"):
        Job.of(one)


def test_a_layer_that_runs_twice_is_refused_before_the_search(monkeypatch):
    entries = [SimpleNamespace(name=name, kind="conv") for name in ("stem", "again", "again")]
    graph = SimpleNamespace(layers=[*entries, SimpleNamespace(name="norm", kind="norm")])
    monkeypatch.setattr(job_module.ChannelGraph, "of", lambda model: graph)
    with pytest.raises(UnsupportedError, match=r"again runs 2 times .* set reconstruct=false"):
        job_module._check_refit(nn.Identity())
    graph.layers = [*entries[:2], SimpleNamespace(name="norm", kind="norm"), graph.layers[-1]]
    job_module._check_refit(nn.Identity())


@pytest.mark.parametrize("scan", [{"ratios": (1.0,)}, {"weights": (-0.1,)}, {"weights": (0.5, 1.0)}])
def test_ratios_of_a_scan_outside_are_refused_before_anything_is_loaded(scan):
    one = CompressSettings(
        output_dir="nowhere", budget=BudgetSettings(share=0.5), checkpoint="missing", compress={}, method={},
        scan=ScanSettings(**scan),
    )  # fmt: skip
    with pytest.raises(RangeError, match=rf"the ratio of scan.{next(iter(scan))} must be in \[0, 1\)"):
        Job.of(one)
