"""The demo's bars: what they measure, and that they can fail."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pcsparse.models import MinkUNet
from pcsparse.programs import demo
from pcsparse.programs.default_model import checkpoint_or_default
from pcsparse.programs.ground_rule import ground_shares
from pcsparse.train.model_file import load_model, save_model


def test_ground_shares_count_near_points_by_height_alone():
    #                  low      low, far  high     high     between
    points = np.array([[5, 0, -1.6], [30, 0, -1.6], [0, 5, 0.6], [0, 9, 2.0], [3, 3, -1.0]], np.float32)
    assert ground_shares(points, np.array([True, False, False, False, False])) == (1.0, 1.0)
    assert ground_shares(points, np.array([False, True, True, False, True])) == (0.0, 0.5)


def test_shares_of_nothing_are_nan_and_fail_their_bar():
    low, high = ground_shares(np.zeros((1, 3), np.float32), np.array([True]))
    assert math.isnan(low)
    assert math.isnan(high)
    verdict = demo._Verdict()
    verdict.bar("nothing", low, 0.1)
    assert not verdict.passed


def test_one_missed_bar_fails_the_whole():
    verdict = demo._Verdict()
    verdict.bar("first", 0.5, 0.5)
    assert verdict.passed
    verdict.bar("second", 0.49, 0.5)
    verdict.bar("third", 0.9, 0.5)
    assert not verdict.passed
    assert [line.split()[0] for line in verdict.lines] == ["ok", "FAIL", "ok"]


def test_a_missing_checkpoint_is_told_before_anything_is_written(tmp_path, capsys):
    assert (
        demo.main(["--out", str(tmp_path / "demo"), "--checkpoint", str(tmp_path / "none.safetensors")]) == 2
    )
    assert "none.safetensors does not exist" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_failed_inference_is_no_verdict_on_what_an_earlier_demo_left(tmp_path, monkeypatch, capsys):
    stale = tmp_path / "pictures/simulated-08-000000/000000.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    monkeypatch.setattr(demo, "write_towns", lambda *args, **kwargs: None)
    monkeypatch.setattr(demo, "SemanticKitti", lambda *args, **kwargs: [])
    monkeypatch.setattr(demo, "_train", lambda *args: None)
    monkeypatch.setattr(demo, "_evaluate", lambda *args: None)
    monkeypatch.setattr(demo.infer, "run", lambda settings: 1)
    assert demo.main(["--out", str(tmp_path)]) == 2
    assert "000000.bin failed" in capsys.readouterr().err
    assert not stale.exists()


@pytest.mark.slow
@pytest.mark.parametrize("trained", [True, False])
def test_the_default_checkpoint_passes_and_random_weights_do_not(tmp_path, capsys, trained):
    real = demo._real_files(
        Path(os.environ["PCSPARSE_REAL_DATA"]) if "PCSPARSE_REAL_DATA" in os.environ else None
    )
    model, card = load_model(checkpoint_or_default(None))
    torch.manual_seed(0)
    path = tmp_path / "judged.safetensors"
    save_model(path, model if trained else MinkUNet(model.spec), card)
    status = demo.main(["--out", str(tmp_path / "demo"), "--checkpoint", str(path)])
    said = capsys.readouterr().out
    assert status == (0 if trained else 1), said
    failed = [line for line in said.splitlines() if line.startswith("  FAIL ")]
    # four classes and their mean; the short training run does not depend on the checkpoint
    assert sum("held-out" in line for line in failed) == (0 if trained else 5)
    for name in real:
        assert any(name in line for line in failed) != trained
    assert list((tmp_path / "demo/pictures").rglob("*.png"))
