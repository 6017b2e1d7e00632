"""The benchmark program: quick runs from the command line to the JSON file."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcsparse.bench import clouds, outcome
from pcsparse.bench.clouds import Cloud
from pcsparse.bench.limits import Limits
from pcsparse.bench.map_library import plain_torch
from pcsparse.bench.peers import Peers
from pcsparse.bench.scaling import MAP, ScalingPoint
from pcsparse.bench.verify import Check
from pcsparse.errors import FormatError, RangeError
from pcsparse.kernels import cpu
from pcsparse.programs import bench_device, bench_run, bench_settings, bench_studies
from pcsparse.programs.bench import main
from pcsparse.programs.bench_run import run
from pcsparse.programs.bench_settings import BenchSettings
from pcsparse.timing import Timing

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--quick", "--runs", "1", "--net-runs", "1"]


@pytest.fixture(autouse=True)
def _no_probing(monkeypatch):
    # the peaks are the same for every test: a test reads no time
    for program in (bench_run, bench_studies):
        monkeypatch.setattr(program, "measure_limits", lambda: Limits(1e10, 1e11, 2e11))
    # what else is installed is not the subject here
    monkeypatch.setattr(
        bench_run, "find_peers", lambda: Peers((plain_torch(),), (("spconv", "not installed"),))
    )


@pytest.mark.slow
def test_a_quick_run_passes_and_writes_everything(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main([*QUICK, "--out", str(out)]) == 0
    text, report = capsys.readouterr().out, json.loads(out.read_text())

    assert "FAILED" not in text
    assert "WRONG" not in text
    assert "peer not here: spconv (not installed)" in text
    for title in ("Kernel maps", "Convolutions", "Networks, forward", "Networks, training", "Peak memory",
                  "Gather-GEMM-scatter", "Redundant", "Dataflows", "Neighbours"):  # fmt: skip
        assert f"\n{title}" in text
    assert report["cloud"] == "miniature street"
    for section in ("maps", "layers", "nets", "steps", "dataflows"):
        assert report[section], section
        for result in report[section]:
            assert result["ours"]["refusal"] or result["ours"]["time"]["median"] > 0
    assert {"MinkUNet-18 x0.25", "MinkUNet-18 x0.25 (maps alone)", "MinkUNet-18 x0.25 bf16"} <= {
        result["case"] for result in report["nets"]
    }
    assert len(report["steps"]) == len(report["memory"]) == 2
    assert all(entry["peak"] > entry["before"] > 0 for entry in report["memory"])
    assert report["groupings"]
    assert report["redundancy"]
    assert (tmp_path / "bench-roofline.png").stat().st_size > 10_000


def test_a_wrong_kernel_fails_the_run_and_has_no_number(tmp_path, capsys, monkeypatch):
    kernel = cpu.output_stationary

    def wrong(*arguments, **options):
        out = kernel(*arguments, **options)
        out[-1, -1] += 0.1
        return out

    monkeypatch.setattr(cpu, "output_stationary", wrong)
    out = tmp_path / "bench.json"

    assert main([*QUICK, "--sections", "maps", "layers", "--no-figure", "--out", str(out)]) == 1

    text, report = capsys.readouterr().out, json.loads(out.read_text())
    assert "checks FAILED" in text
    for line in text.splitlines():
        if "submanifold 3^3" in line and not line.startswith("cloud"):
            assert line.startswith("FAILED  submanifold 3^3")
    for result in report["layers"]:
        assert all(each["time"] is None for each in (result["ours"], *result["peers"]))
    # the maps do not use the wrong kernel
    assert all(result["ours"]["time"]["median"] > 0 for result in report["maps"])
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("arguments", "settle", "said"),
    [([], 1, "caches warm (settle 1)"), (["--settle", "0"], 0, "caches as the others left them (settle 0)")],
    ids=["default", "cold"],
)
def test_the_titles_say_how_the_caches_are_left(tmp_path, capsys, arguments, settle, said):
    out = tmp_path / "bench.json"
    sections = ["--sections", "maps", "layers", "--only", "2^3 stride 2", "--no-figure", "--out", str(out)]
    assert main([*QUICK, *arguments, *sections]) == 0
    text = capsys.readouterr().out
    assert f"caches: {settle} untimed run(s) of the same candidate" in text
    titles = [line for line in text.splitlines() if line.startswith(("Kernel maps", "Convolutions"))]
    assert titles
    assert all(said in line for line in titles)
    assert json.loads(out.read_text())["settle"] == settle


@pytest.mark.slow
def test_settling_reaches_every_timed_run_of_maps_layers_and_dataflows_and_no_network(tmp_path, monkeypatch):
    given = []
    timed = outcome.time_in_turns

    def spy(candidates, *, runs, settle):
        given.append(settle)
        return timed(candidates, runs=runs, settle=settle)

    monkeypatch.setattr(outcome, "time_in_turns", spy)
    settings = BenchSettings(quick=True, runs=1, net_runs=1, settle=2, out=tmp_path / "b.json", figure=False)
    for sections, each in ((("maps", "layers", "dataflows"), 2), (("nets",), 0)):
        given.clear()
        run(replace(settings, sections=sections))
        assert set(given) == {each}


def test_threads_are_set_and_given_back(tmp_path):
    before = torch.get_num_threads()
    out = tmp_path / "bench.json"
    assert main([*QUICK, "--sections", "redundancy", "--threads", "1", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["environment"]["threads"] == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("script", ["bench_kernels", "bench_models"])
def test_the_document_names_what_runs_on_a_gpu_leave(monkeypatch, script):
    seen = []
    monkeypatch.setattr(bench_device, "run", lambda settings: seen.append(settings.out) or 0)
    monkeypatch.setattr(sys, "argv", [script, "--device", "cuda"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    table = (ROOT / "docs/benchmarks.md").read_text().partition("## On a GPU")[0]
    (row,) = [line for line in table.splitlines() if line.startswith("|") and f"{script}.py --device" in line]
    assert f"`{seen[0].name}`" in row.split("|")[3]


def test_only_the_named_cases_run(tmp_path):
    out = tmp_path / "bench.json"
    arguments = ["--sections", "maps", "layers", "--only", "2^3 stride", "--no-figure", "--out", str(out)]
    assert main([*QUICK, *arguments]) == 0
    report = json.loads(out.read_text())
    assert [result["case"] for result in report["maps"]] == [
        "map 2^3 stride 2",
        "map 2^3 stride 2 inverse",
        "map 2^3 stride 2 generative",
    ]
    assert report["layers"] == []


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


def test_a_folder_without_a_sweep_is_said_loudly_and_a_simulated_one_serves(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PCSPARSE_REAL_DATA", str(tmp_path))
    small = clouds.small_cloud(400)
    simulated = Cloud("simulated", small.points, small.feats)
    monkeypatch.setattr(bench_settings, "simulated_cloud", lambda: simulated)
    assert run(BenchSettings(("redundancy",), out=tmp_path / "b.json")) == 0
    text = capsys.readouterr().out
    assert "NO REAL SWEEP" in text
    assert "velodyne/000000.bin" in text
    assert json.loads((tmp_path / "b.json").read_text())["cloud"] == "simulated"


@pytest.mark.parametrize(
    "settings",
    [
        BenchSettings(("kernels",)),
        BenchSettings(runs=0),
        BenchSettings(net_runs=0),
        BenchSettings(threads=-1),
        BenchSettings(threads=0),
        BenchSettings(settle=-1),
    ],
    ids=["section", "runs", "net_runs", "threads", "no threads", "settle"],
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(RangeError):
        run(settings)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sections", "maps"], "there are map 3^3, map 3^3 shuffled, "),
        (["--sections", "nets", "steps"], "there are MinkUNet-18 x0.25"),
        (["--sections", "neighbours", "dataflows", "memory", "layers"], "submanifold 3^3"),
        (["--profile"], "there are MinkUNet-18 x0.25"),
    ],
    ids=["maps", "networks", "others", "profile"],
)
def test_a_run_of_nothing_is_refused_before_any_work(tmp_path, monkeypatch, arguments, said):
    monkeypatch.setattr(bench_settings, "small_cloud", lambda: pytest.fail("work"))
    out = tmp_path / "bench.json"
    with pytest.raises(RangeError, match="no case has 'nothing' in its name") as refused:
        main([*QUICK, *arguments, "--only", "nothing", "--out", str(out)])
    assert said in str(refused.value)
    assert not out.exists()


def test_tags_that_leave_no_case_are_refused_too():
    with pytest.raises(RangeError, match="no case of these sections has a tag of stress"):
        run(BenchSettings(("maps", "memory"), tags=("stress",)))


@pytest.mark.parametrize("arguments", [["--scaling", "--runs", "0"], ["--profile", "--net-runs", "0"]])
def test_studies_without_runs_are_refused(arguments):
    with pytest.raises(RangeError, match="below 1"):
        main(["--quick", *arguments])


@pytest.mark.parametrize(
    "script", ["bench_kernels.py", "bench_models.py", "bench_heads.py", "bench_two_four.py"]
)
def test_a_script_that_refuses_has_a_status_of_its_own(script, monkeypatch, capsys):
    # 1 says that something is wrong
    monkeypatch.setattr(sys, "argv", [script, "--runs", "0"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_missing_cloud_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="no point file"):
        run(BenchSettings(("redundancy",), cloud=tmp_path / "none.bin"))


def test_the_scaling_study_writes_points_growth_and_figure(tmp_path, capsys, monkeypatch):
    out = tmp_path / "scaling.json"
    # whether it grows depends on times here, and a test reads none
    monkeypatch.setattr(bench_studies, "_MAY_GROW", 1e9)
    assert main([*QUICK, "--scaling", "--out", str(out)]) == 0
    report, text = json.loads(out.read_text()), capsys.readouterr().out
    # two sizes, each a map and two widths
    assert len(report["points"]) == 6
    assert all(point["time"]["median"] > 0 for point in report["points"])
    assert [found["channels"] for found in report["growth"]] == [MAP, 16, 32]
    assert all(found["factor"] > 0 and len(found["memory_shares"]) == 2 for found in report["growth"])
    assert "C=16: " in text
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def _points(costs):
    """A width of 16 at 10^5 and 10^6 voxels, at so many nanoseconds a pair."""
    for n, cost in zip((100_000, 1_000_000), costs, strict=True):
        seconds = 3 * n * cost * 1e-9
        yield ScalingPoint(n, 3 * n, 16, Check("rows", 0, 1), Timing(seconds, seconds, seconds, 1))


@pytest.mark.parametrize(
    ("costs", "code", "said"),
    [((10, 11), 0, "does not grow"), ((10, 12), 1, "GROWS"), ((10, 5), 0, "does not grow")],
    ids=["steady", "grows", "falls"],
)
def test_a_cost_that_grows_fails_the_scaling_study(tmp_path, capsys, monkeypatch, costs, code, said):
    out = tmp_path / "s.json"
    monkeypatch.setattr(bench_studies, "run_scaling", lambda *given: _points(costs))
    assert main([*QUICK, "--scaling", "--no-figure", "--out", str(out)]) == code
    lines = capsys.readouterr().out.splitlines()
    (verdict,) = [line for line in lines if line.startswith("C=16: ")]
    assert (
        f"C=16: {said}, from 100,000 to 1,000,000 voxels by a factor of {costs[1] / costs[0]:.2f}" in verdict
    )
    # 128 bytes a row, 24 a row for its pairs, at 10 GB/s: 15 ns of 3 * 10 ns a row, and a little for weights
    assert "is 51% of the time at the first" in verdict
    assert any(line.startswith("cost GROWS") for line in lines) == bool(code)
    report = json.loads(out.read_text())
    assert [found["factor"] for found in report["growth"]] == [pytest.approx(costs[1] / costs[0])]
    assert report["may_grow"] == 1.15


def test_a_wrong_kernel_fails_the_scaling_study(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_studies, "_MAY_GROW", 1e9)
    kernel = cpu.output_stationary
    monkeypatch.setattr(cpu, "output_stationary", lambda *given, **options: kernel(*given, **options).flip(0))
    assert main([*QUICK, "--scaling", "--no-figure", "--out", str(tmp_path / "s.json")]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.slow
def test_the_profile_study_writes_shares(tmp_path, capsys):
    out = tmp_path / "profile.json"
    assert main([*QUICK, "--profile", "--only", "step", "--out", str(out)]) == 0
    profiles = json.loads(out.read_text())["profiles"]
    assert [profile["case"] for profile in profiles] == [
        "MinkUNet-18 x0.25 training step",
        "MinkUNet-18 x0.25 training step bf16",
    ]
    for profile in profiles:
        assert sum(share["share"] for share in profile["shares"]) == pytest.approx(1)
    assert "convolution grad_weight" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["bench_kernels.py", "bench_models.py"])
def test_scripts_run_without_hydra(script, tmp_path):
    out = tmp_path / "bench.json"
    # one small case each: what they compute is tested above
    sections = ["--sections", "redundancy"]
    if script == "bench_models.py":
        sections = ["--sections", "nets", "--only", "x0.25 bf16"]
    code = (
        "import runpy, sys; sys.modules['hydra'] = sys.modules['omegaconf'] = None; "
        f"sys.argv = {[script, *QUICK, *sections, '--no-figure', '--out', str(out)]!r}; "
        f"runpy.run_path({str(ROOT / 'scripts' / script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert bool(report["nets"]) == (script == "bench_models.py")
    assert bool(report["redundancy"]) == (script == "bench_kernels.py")
