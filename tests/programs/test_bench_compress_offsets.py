"""The study of kernel offsets: counts, lines, and what a wrong network does."""

import json

import numpy as np
import pytest

from pcsparse.errors import RangeError
from pcsparse.models import MinkUNetSpec
from pcsparse.programs import bench_compress_offsets as study_module
from pcsparse.programs.bench_compress import main
from tests.streets import tiny_model, tiny_street


@pytest.fixture
def points(tmp_path, monkeypatch):
    # fewer and narrower layers than the study has
    monkeypatch.setattr(study_module, "_network", lambda study: tiny_model(1 / 16).eval())
    sweep = tiny_street(0, 400)
    path = tmp_path / "street.bin"
    np.column_stack([sweep.points, sweep.intensity]).astype("<f4").tofile(path)
    return path


def _study(points, *options):
    out = points.with_name("offsets.json")
    given = ["--points", str(points), "--runs", "1", "--voxel-size", "0.4"]
    return main(["offsets", *given, "--keep", "8", *options, "--out", str(out)]), out


def test_rows_have_counts_predictions_and_times(points, capsys):
    status, out = _study(points)
    assert status == 0
    said = capsys.readouterr().out
    assert "predicted: each layer on the straight line over its pairs" in said
    (result,) = json.loads(out.read_text())["results"]
    whole, nine = result["rows"]
    assert (whole["offsets"], nine["offsets"]) == (27, 9)
    for key in ("pairs", "macs", "searched"):
        assert 0 < nine[key] < whole[key]
    for row in (whole, nine):
        assert row["same"]
        assert all(row[name]["median"] > 0 for name in ("network", "maps", "both"))
        assert row["network_line"] > 0
    assert result["voxels"] > 100
    assert out.with_name("offsets-0.4.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_network_has_no_times_and_fails_the_run(points, capsys, monkeypatch):
    monkeypatch.setattr(study_module, "mask_offsets", lambda *_: None)
    status, out = _study(points)
    assert status == 1
    said = capsys.readouterr().out
    assert "FAILED  9 offsets: not what the network gives with zeros for weights" in said
    (result,) = json.loads(out.read_text())["results"]
    assert [row["same"] for row in result["rows"]] == [True, False]
    assert all(row["both"] is None for row in result["rows"])
    # neither a number nor a picture
    assert "ms" not in said.splitlines()[-2]
    assert "measured" not in said
    assert not list(out.parent.glob("*.png"))


def test_numbers_that_no_kernel_has_are_refused(points):
    with pytest.raises(RangeError, match="keeps 1 to 27 offsets, not 28"):
        _study(points, "--keep", "28")


def test_without_a_checkpoint_it_is_a_minkunet18():
    network = study_module._network(study_module.OffsetStudy(width=1 / 16))
    assert network.spec == MinkUNetSpec.minkunet18(width=1 / 16)
