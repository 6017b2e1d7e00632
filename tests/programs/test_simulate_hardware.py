"""`scripts/simulate_hardware.py`: table, verdicts, files, exit status, and a bare environment."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcsparse.bench.clouds import small_cloud
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.hardware.eie_report import Verdict
from pcsparse.models.pointnet2 import PointNet2, PointNet2Spec
from pcsparse.nn.row_layer import RowLinear
from pcsparse.programs import simulate_hardware_eie, simulate_hardware_pointacc
from pcsparse.programs.simulate_hardware import main
from pcsparse.programs.simulate_hardware_eie import EIESettings, run
from pcsparse.programs.simulate_hardware_pointacc import PointAccSettings
from pcsparse.programs.simulate_hardware_pointacc import run as run_pointacc

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "simulate_hardware.py"


def test_a_quick_run_prints_and_writes(tmp_path, monkeypatch, capsys):
    some = [layer for layer in simulate_hardware_eie.EIE_LAYERS if layer.name in ("VGG-7", "NT-We", "NT-Wd")]
    monkeypatch.setattr(simulate_hardware_eie, "EIE_LAYERS", some)
    pytest.importorskip("matplotlib", reason="matplotlib (extra `view`) is not installed")
    out = tmp_path / "new" / "eie.json"
    status = main(["eie", "--quick", "--out", str(out)])

    said = capsys.readouterr().out
    content = json.loads(out.read_text())
    names = [layer["layer"]["name"] for layer in content["layers"]]
    assert names == ["VGG-7", "NT-We", "NT-Wd"]
    assert [layer["layer"]["n_in"] for layer in content["layers"]] == [256, 256, 38]
    for name in names:
        assert any(line.startswith(f"{name} ") for line in said.splitlines())
    assert all(layer["exact"] for layer in content["layers"])
    assert len(content["curves"]) == 3
    assert len(content["curves"][0]["cycles"]) == len(content["axes"]["pes"]) == 9
    assert content["environment"]["versions"]
    # small layers have shorter queues to fill, so single bounds may break; then the status says so
    assert status == (0 if all(verdict["passed"] for verdict in content["verdicts"]) else 1)
    assert f"of {len(content['verdicts'])} bounds hold" in said
    assert sorted(file.name for file in out.parent.iterdir()) == ["eie.json", "eie.png"]


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_a_broken_bound_is_the_exit_status(tmp_path, monkeypatch, capsys, passed, status):
    monkeypatch.setattr(simulate_hardware_eie, "EIE_LAYERS", simulate_hardware_eie.EIE_LAYERS[6:7])
    monkeypatch.setattr(simulate_hardware_eie, "layer_verdicts", lambda results: [Verdict("bound", passed)])
    out = tmp_path / "eie.json"
    assert run(EIESettings(out, quick=True, curves=False)) == status
    assert f"{int(passed)} of 1 bounds hold" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["eie.json"]


def test_the_picture_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(simulate_hardware_eie, "EIE_LAYERS", simulate_hardware_eie.EIE_LAYERS[6:7])
    monkeypatch.setattr(simulate_hardware_eie, "require_extra", None)
    monkeypatch.setattr(simulate_hardware_eie, "curve_verdicts", lambda curves: [])
    main(["eie", "--quick", "--no-figure", "--out", str(tmp_path / "eie.json")])
    assert [file.name for file in tmp_path.iterdir()] == ["eie.json"]


def test_without_matplotlib_it_stops_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"pcsparse\[view\]"):
        run(EIESettings(tmp_path / "eie.json", quick=True))
    assert list(tmp_path.iterdir()) == []


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(RangeError, match="got -1"):
        run(EIESettings(tmp_path / "eie.json", seed=-1))


def test_the_script_needs_neither_hydra_nor_open3d(tmp_path):
    program = (
        "import runpy, sys\n"
        "sys.modules.update({name: None for name in ('hydra', 'omegaconf', 'open3d', 'matplotlib')})\n"
        "sys.argv = ['simulate_hardware.py', 'eie', '--quick', '--no-curves', '--out', 'eie.json']\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert "bounds hold" in done.stdout
    assert (tmp_path / "eie.json").is_file()


def test_the_script_says_errors_in_a_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["simulate_hardware.py", "eie", "--seed", "-1", "--no-curves"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == "error: the seed must be 0 or more, got -1"


def test_a_chip_must_be_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "chip" in capsys.readouterr().err


def test_a_quick_run_of_pointacc_prints_and_writes(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib (extra `view`) is not installed")
    out = tmp_path / "new" / "pointacc.json"
    assert main(["pointacc", "--quick", "--voxel-size", "0.2", "--out", str(out)]) == 0

    said = capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["quick"]
    full, edge = content["chips"]
    assert (full["unet"]["chip"]["name"], edge["unet"]["chip"]["name"]) == ("full", "edge")
    for chip in (full, edge):
        names = [layer["name"] for layer in chip["unet"]["layers"]]
        assert names[0] == "stem.0"
        assert names[-1] == "classifier"
        assert len(chip["maps"]) == 9
        assert all(each["agrees"] for each in chip["maps"])
        assert [run["network"] for run in chip["points"]] == [
            "PointNet", "PointNet++", "PointNet++ segmentation",
        ]  # fmt: skip
        for name in ("stem.0 ", "decoder.3.0.conv2 ", "classifier "):
            assert sum(line.startswith(name) for line in said.splitlines()) >= 2
    assert said.count("(unverified): ") == len(full["findings"]) + len(edge["findings"])
    assert all(verdict["passed"] for verdict in content["verdicts"])
    assert "7 of 7 bounds hold" in said
    assert sorted(file.name for file in out.parent.iterdir()) == ["pointacc.json", "pointacc.png"]


def test_pointnet2_is_the_models():
    """Widths of the trace are those of the network's weights, in order."""
    points = torch.randn(1024, 3, generator=torch.Generator().manual_seed(5))
    trace = simulate_hardware_pointacc._trace_pointnet2(points / points.norm(dim=1).max())
    net = PointNet2(PointNet2Spec.classification())
    weights = [weight for weight in net.parameters() if weight.dim() == 2]
    assert len(trace.layers) == len(weights) == 12
    for layer, weight in zip(trace.layers, weights, strict=True):
        assert {layer.c_in, layer.c_out} == set(weight.shape)
        assert layer.macs == layer.n_rows * weight.numel()


def test_segmentation_is_the_models():
    """Each layer has the weights of the network's layer, and as many rows as reach it when it runs."""
    points = torch.randn(1100, 3, generator=torch.Generator().manual_seed(5))
    points /= points.norm(dim=1).max()
    trace = simulate_hardware_pointacc._trace_segmentation(points)
    net = PointNet2(PointNet2Spec.segmentation()).eval()
    rows = []
    for module in net.modules():
        if isinstance(module, RowLinear):
            module.register_forward_hook(lambda _, args, out: rows.append((*args[0].shape, out.shape[1])))
    with torch.no_grad():
        net(points)
    assert len(trace.layers) == len(rows) == 12 + 9 + 2
    assert [(layer.n_rows, layer.c_in, layer.c_out) for layer in trace.layers] == rows


def test_a_fault_of_the_pointacc_model_is_the_exit_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulate_hardware_pointacc, "verdicts", lambda *found: [Verdict("bound", False)])
    arguments = [
        "pointacc",
        "--quick",
        "--voxel-size",
        "0.5",
        "--no-figure",
        "--out",
        str(tmp_path / "p.json"),
    ]
    assert main(arguments) == 1
    assert "0 of 1 bounds hold" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["p.json"]


def test_pointacc_takes_a_point_file(tmp_path, capsys):
    points = small_cloud(1500).feats.numpy()
    points.tofile(tmp_path / "sweep.bin")
    settings = PointAccSettings(tmp_path / "p.json", tmp_path / "sweep.bin", 0.5, quick=True, figure=False)
    assert run_pointacc(settings) == 0
    assert "sweep.bin (file): 1500 points" in capsys.readouterr().out
    points[:1000].tofile(tmp_path / "short.bin")
    with pytest.raises(RangeError, match="needs 1024 points, the cloud has 1000"):
        run_pointacc(replace(settings, points=tmp_path / "short.bin"))
    with pytest.raises(FormatError, match="does not exist"):
        run_pointacc(replace(settings, points=tmp_path / "none.bin"))
    with pytest.raises(RangeError, match="voxel_size must be positive"):
        run_pointacc(replace(settings, voxel_size=0.0))


def test_pointacc_without_matplotlib_stops_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"pcsparse\[view\]"):
        main(["pointacc", "--quick", "--out", str(tmp_path / "p.json")])
    assert list(tmp_path.iterdir()) == []
