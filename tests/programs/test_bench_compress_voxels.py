"""The study of voxel pruning on a miniature street: verified, measured, and nothing where it is wrong."""

import json
from dataclasses import replace

import pytest
import torch

from pcsparse.errors import RangeError
from pcsparse.nn import conv
from pcsparse.programs import bench_compress
from pcsparse.programs import bench_compress_voxels as study_module
from pcsparse.programs import bench_compress_voxels_measure as measure
from pcsparse.programs.bench_compress_voxels import VoxelStudy, run
from pcsparse.programs.bench_settings import BenchSettings


@pytest.fixture
def study(monkeypatch, tmp_path) -> VoxelStudy:
    cloud = study_module.scene_of(BenchSettings(quick=True, voxel_size=0.4))
    monkeypatch.setattr(study_module, "scene_of", lambda settings: cloud)
    return VoxelStudy(
        BenchSettings(quick=True, threads=1),
        width=1 / 8,
        shares=(1.0, 0.3),
        layers="conv2",
        runs=1,
        out=tmp_path / "voxels.json",
    )


@pytest.mark.parametrize("rest", ["pass", "centre"])
def test_a_street_is_verified_and_measured(study, capsys, rest):
    pytest.importorskip("matplotlib")
    study = replace(study, rest=rest)
    assert run(study) == 0
    text = capsys.readouterr().out
    assert f"agree with a simulation in float64; rest: {rest}" in text
    content = json.loads(study.out.read_text())
    assert content["rest"] == rest
    assert [row["share"] for row in content["rows"]] == [1.0, 0.3]
    assert [entry["share"] for entry in content["networks"]] == [1.0, 0.3]
    # stage by stage, two blocks each
    assert len(content["layers"]) == 16
    assert all(layer["name"].endswith("conv2") for layer in content["layers"])
    for i, row in enumerate(content["rows"][1:]):
        parts = [layer["shares"][i] for layer in content["layers"]]
        pairs = sum(part["pairs"] for part in parts) / sum(layer["pairs"] for layer in content["layers"])
        assert row["pairs"] == pytest.approx(pairs)
        # a row that keeps its centre keeps a pair
        rows = sum(layer["rows"] for layer in content["layers"]) if rest == "centre" else 0.0
        kept = (1 - row["share"]) * rows / sum(layer["pairs"] for layer in content["layers"])
        assert 0.5 * row["share"] < pairs - kept < min(1.0, 2.0 * row["share"])
        predicted = sum(
            layer["whole"]["median"] * part["pairs"] / layer["pairs"]
            for layer, part in zip(content["layers"], parts, strict=True)
        )
        assert row["predicted"] == pytest.approx(1e3 * predicted)
        assert row["choose"] == pytest.approx(1e3 * sum(part["choose"]["median"] for part in parts))
        assert row["filter"] == pytest.approx(1e3 * sum(part["filter"]["median"] for part in parts))
        assert row["convolve"] == pytest.approx(1e3 * sum(part["convolve"]["median"] for part in parts))
        assert f"| {row['share']:g} | {pairs:.1%} |" in text
    assert study.out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("rest", ["pass", "centre"])
@pytest.mark.parametrize("what", ["rows", "values"])
def test_a_wrong_network_prints_no_number(monkeypatch, study, capsys, what, rest):
    study = replace(study, rest=rest)
    if what == "rows":
        monkeypatch.setattr(conv, "important_rows", lambda feats, *rest: torch.arange(len(feats)) % 2 == 0)
    else:
        right = conv.partial_sparse_conv
        monkeypatch.setattr(
            conv, "partial_sparse_conv", lambda *args, **options: 1.01 * right(*args, **options)
        )
    monkeypatch.setattr(measure, "time_in_turns", lambda *args, **options: pytest.fail("timed"))
    assert run(study) == 1
    text = capsys.readouterr().out
    assert f"FAILED: {'rows of ' if what == 'rows' else ''}encoder.0.0.conv2 is not as simulated" in text
    assert "| share" not in text
    assert not study.out.exists()


def test_the_command_line_reaches_the_study(monkeypatch):
    seen = []
    monkeypatch.setattr(study_module, "run", lambda study: seen.append(study) or 0)
    assert bench_compress.main(["voxels", "--quick", "--shares", "0.5", "--layers", "conv2"]) == 0
    other = ["voxels", "--points", "a.bin", "--width", "0.5", "--threads", "2", "--rest", "pass"]
    assert bench_compress.main(other) == 0
    assert bench_compress.main(["voxels", "--quick", "--runs", "7", "--width", "0.5"]) == 0
    quick, other, asked = seen
    assert (asked.scene.quick, asked.width, asked.runs) == (True, 0.5, 7)
    assert (quick.scene.quick, quick.width, quick.runs) == (True, 0.25, 3)
    assert (quick.shares, quick.layers, quick.rest) == ((0.5,), "conv2", "centre")
    assert other.rest == "pass"
    assert (str(other.scene.cloud), other.width, other.scene.threads, other.runs) == ("a.bin", 0.5, 2, 20)


def test_all_rows_alone_are_refused(study):
    with pytest.raises(RangeError, match="name a share below 1"):
        run(replace(study, shares=(1.0,)))
