"""The benchmark program: quick runs from the command line to the JSON file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcsparse.bench import clouds
from pcsparse.errors import FormatError, RangeError
from pcsparse.kernels import cpu
from pcsparse.programs import bench
from pcsparse.programs.bench import BenchSettings, main, run

ROOT = Path(__file__).resolve().parents[2]
# the peaks are the same for every test: a test reads no time
QUICK = ["--quick", "--runs", "1", "--net-runs", "1"]


@pytest.fixture(autouse=True)
def _no_probing(monkeypatch):
    monkeypatch.setattr(bench, "measure_limits", lambda: bench_limits())


def bench_limits():
    from pcsparse.bench.limits import Limits

    return Limits(bandwidth=1e10, fma=1e11)


def test_a_quick_run_passes_and_writes_everything(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main([*QUICK, "--train", "--out", str(out)]) == 0
    text, report = capsys.readouterr().out, json.loads(out.read_text())

    assert "FAILED" not in text
    for title in ("Kernel maps", "Convolutions", "Networks", "Gather-GEMM-scatter", "Redundant"):
        assert f"\n{title}" in text
    assert report["cloud"] == "miniature street"
    for section in ("maps", "layers", "nets"):
        assert report[section], section
        assert all(result["ours"]["median"] > 0 for result in report[section])
    assert {result["case"] for result in report["nets"]} == {
        "MinkUNet-18 x0.25",
        "MinkUNet-18 x0.25 (maps alone)",
        "MinkUNet-18 x0.25 training step",
    }
    assert report["groupings"]
    assert report["redundancy"]


def test_a_wrong_kernel_fails_the_run_and_has_no_number(tmp_path, capsys, monkeypatch):
    kernel = cpu.output_stationary

    def wrong(*arguments):
        out = kernel(*arguments)
        out[-1, -1] += 0.01
        return out

    monkeypatch.setattr(cpu, "output_stationary", wrong)
    out = tmp_path / "bench.json"

    assert main([*QUICK, "--sections", "maps", "layers", "--out", str(out)]) == 1

    text, report = capsys.readouterr().out, json.loads(out.read_text())
    assert "checks FAILED" in text
    for line in text.splitlines():
        if "submanifold 3^3" in line and not line.startswith("Gather"):
            assert line.startswith("FAILED  submanifold 3^3")
    assert all(result["ours"] is None and result["peer"] is None for result in report["layers"])
    # the maps do not use the wrong kernel
    assert all(result["ours"]["median"] > 0 for result in report["maps"])


def test_threads_are_set_and_given_back(tmp_path):
    before = torch.get_num_threads()
    out = tmp_path / "bench.json"
    assert main([*QUICK, "--sections", "redundancy", "--threads", "1", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["environment"]["threads"] == 1
    assert torch.get_num_threads() == before


def test_a_given_cloud_is_read(tmp_path):
    points = clouds.small_cloud(400).feats
    path = tmp_path / "sweep.bin"
    points.numpy().tofile(path)
    settings = BenchSettings(("redundancy",), cloud=path, out=tmp_path / "b.json", voxel_size=0.1)
    assert run(settings) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["n_points"] == 400
    assert report["cloud"].endswith("sweep.bin (file)")
    assert report["voxel_size"] == 0.1


def test_the_real_sweep_is_taken_where_there_is_one(real_data, tmp_path):
    assert run(BenchSettings(("redundancy",), out=tmp_path / "b.json")) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["n_points"] == 124_668


def test_a_folder_without_the_sweep_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PCSPARSE_REAL_DATA", str(tmp_path))
    with pytest.raises(FormatError, match="name a sweep with --cloud"):
        run(BenchSettings(("redundancy",), out=tmp_path / "b.json"))


@pytest.mark.parametrize(
    "settings",
    [
        BenchSettings(("kernels",)),
        BenchSettings(runs=0),
        BenchSettings(net_runs=0),
        BenchSettings(threads=-1),
    ],
    ids=["section", "runs", "net_runs", "threads"],
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(RangeError):
        run(settings)


def test_a_missing_cloud_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="no point file"):
        run(BenchSettings(("redundancy",), cloud=tmp_path / "none.bin"))


@pytest.mark.parametrize("script", ["bench_kernels.py", "bench_models.py"])
def test_scripts_run_without_hydra(script, tmp_path):
    out = tmp_path / "bench.json"
    sections = ["--sections", "redundancy"] if script == "bench_kernels.py" else []
    code = (
        "import runpy, sys; sys.modules['hydra'] = sys.modules['omegaconf'] = None; "
        f"sys.argv = {[script, *QUICK, *sections, '--out', str(out)]!r}; "
        f"runpy.run_path({str(ROOT / 'scripts' / script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert bool(report["nets"]) == (script == "bench_models.py")
    assert bool(report["redundancy"]) == (script == "bench_kernels.py")
