"""The page that `pcsparse infer` writes: its points, classes and confidences are those of the prediction."""

import numpy as np
import pytest
import torch

from pcsparse.cli import main
from pcsparse.config import InferSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files import read_labels, read_points
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.infer.predictor import Predictor
from pcsparse.programs import infer, infer_page
from pcsparse.train.model_file import ModelCard, arch_of, load_model, save_model
from tests.streets import tiny_model, tiny_street
from tests.view import page_reader as reader

LABELS = LabelMap.load("semantickitti")
N_POINTS = 400


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    model = tiny_model()
    facts = [CloudFacts.of(s.points, s.intensity) for s in (tiny_street(0), tiny_street(1))]
    arch, voxels = arch_of(model, 19), VoxelSettings(0.3)
    card = ModelCard(arch, LABELS, voxels, InputSpec.of(facts), {}, {})
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, model, card)
    return path


def sweep_file(path, seed=5, holes=(), shift=0.0):
    street = tiny_street(seed, N_POINTS)
    rows = np.column_stack([street.points, street.intensity]).astype(np.float32)
    rows[:, 0] += shift
    rows[list(holes)] = np.nan
    rows.tofile(path)
    return path


def infer_with(model_file, out, source, **settings):
    return infer.run(InferSettings((source,), out=out, checkpoint=str(model_file), **settings))


def test_the_page_says_what_the_labels_say_and_how_sure(model_file, tmp_path):
    source = sweep_file(tmp_path / "a.bin", holes=(0, 7, 399))
    assert infer_with(model_file, tmp_path / "out", source) == 0
    text = (tmp_path / "out/a.html").read_text()
    found, facts = reader.columns(text), reader.content(text)
    rows = found["rows"]
    np.testing.assert_array_equal(rows, np.delete(np.arange(N_POINTS), [0, 7, 399]))
    written = read_labels(tmp_path / "out/a.label", N_POINTS)
    np.testing.assert_array_equal(found["prediction"], LABELS.to_target(written)[rows])
    cloud = read_points(source, invalid="keep")
    assert np.abs(found["y"] - cloud.points[rows, 1]).max() < 1e-3
    assert np.abs(found["intensity"] / 255 - cloud.intensity[rows]).max() < 0.003
    model, card = load_model(model_file)
    expected = Predictor(model, card.voxels)(cloud.points[rows], cloud.intensity[rows])
    assert np.abs(found["confidence"] / 255 - expected.confidence).max() < 0.003
    assert facts["title"] == facts["sweeps"][0]["name"] == "a.bin"
    assert [entry["name"] for entry in facts["classes"]] == [*LABELS.names, "unlabelled"]


def test_world_coordinates_come_with_their_origin_unless_they_were_moved(model_file, tmp_path):
    street = tiny_street(5, N_POINTS)
    world = street.points.astype(np.float64) + np.array([4e5, 5e6, 100.0])
    np.save(tmp_path / "utm.npy", world)
    for name, settings in (("plain", {}), ("placed", {"z_offset": -100.0})):
        assert infer_with(model_file, tmp_path / name, tmp_path / "utm.npy", **settings) == 0
    plain, placed = (reader.content((tmp_path / n / "utm.html").read_text()) for n in ("plain", "placed"))
    origin = plain["sweeps"][0]["origin"]
    assert origin[1] == pytest.approx(5_000_000, abs=20)
    y = reader.columns((tmp_path / "plain/utm.html").read_text())["y"]
    np.testing.assert_allclose(y + origin[1], world[:, 1], atol=1e-3)
    assert placed["sweeps"][0]["origin"] == [0, 0, 0]


def test_tiles_make_one_page_in_the_order_of_the_file(model_file, tmp_path):
    source = sweep_file(tmp_path / "a.bin")
    assert infer_with(model_file, tmp_path / "out", source, tile=8.0) == 0
    text = (tmp_path / "out/a.html").read_text()
    found, origin = reader.columns(text), reader.content(text)["sweeps"][0]["origin"]
    np.testing.assert_array_equal(found["rows"], np.arange(N_POINTS))
    assert np.abs(found["x"] + origin[0] - read_points(source).points[:, 0]).max() < 1e-3
    written = read_labels(tmp_path / "out/a.label", N_POINTS)
    np.testing.assert_array_equal(found["prediction"], LABELS.to_target(written))
    assert found["confidence"].min() > 0


def test_the_page_can_be_declined(model_file, tmp_path):
    source = sweep_file(tmp_path / "a.bin")
    arguments = ["infer", str(source), "--checkpoint", str(model_file), "--out"]
    for option, files in (("--no-page", {"a.label", "a.png"}), ("--no-picture", {"a.label"})):
        assert main([*arguments, str(tmp_path / option), option]) == 0
        assert {path.name for path in (tmp_path / option).iterdir()} == files


def test_a_cloud_beyond_what_browsers_take_gets_a_thinned_page_and_is_done(
    model_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(infer_page, "MAX_POINTS", 150)
    source = sweep_file(tmp_path / "a.bin", holes=(1,))
    assert infer_with(model_file, tmp_path / "out", source) == 0
    said = "note: the page shows one point in 3: browsers take 150, there are 399"
    assert said in capsys.readouterr().out
    found = reader.columns((tmp_path / "out/a.html").read_text())
    rows = np.delete(np.arange(N_POINTS), 1)[::3]
    np.testing.assert_array_equal(found["rows"], rows)
    written = read_labels(tmp_path / "out/a.label", N_POINTS)
    np.testing.assert_array_equal(found["prediction"], LABELS.to_target(written)[rows])
    assert np.abs(found["x"] - read_points(source, invalid="keep").points[rows, 0]).max() < 1e-3
    assert infer_with(model_file, tmp_path / "out", source, skip_existing=True) == 0
    assert "skipped" in capsys.readouterr().out


def test_an_empty_cloud_gives_a_page_that_says_so(model_file, tmp_path):
    np.save(tmp_path / "empty.npy", np.zeros((0, 4), np.float32))
    assert infer_with(model_file, tmp_path / "out", tmp_path / "empty.npy") == 0
    assert reader.content((tmp_path / "out/empty.html").read_text())["sweeps"][0]["points"] == 0


def test_a_cloud_in_tiles_is_warned_of_once(model_file, tmp_path, capsys):
    street = tiny_street(5, 12_000)
    for name, rows in (("bare", street.points), ("full", np.c_[street.points, street.intensity])):
        np.save(tmp_path / f"{name}.npy", rows)
        arguments = {"tile": 20.0, "picture": False}
        assert infer_with(model_file, tmp_path / "out", tmp_path / f"{name}.npy", **arguments) == 0
        said = capsys.readouterr().out
        assert said.count("warning: the file has no intensity") == (name == "bare")
        assert name == "bare" or "warning" not in said
