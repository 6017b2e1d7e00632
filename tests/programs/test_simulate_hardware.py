"""`scripts/simulate_hardware.py`: table, verdicts, files, exit status, and a bare environment."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.hardware.eie_report import Verdict
from pcsparse.programs import simulate_hardware_eie
from pcsparse.programs.simulate_hardware import main
from pcsparse.programs.simulate_hardware_eie import EIESettings, run

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
