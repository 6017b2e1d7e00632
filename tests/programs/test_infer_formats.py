"""`pcsparse infer --format`: the files themselves with classes as columns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pcsparse.cli import main
from pcsparse.config import InferSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files import read_labels, read_points
from pcsparse.data.files_ply import ply_table
from pcsparse.data.files_table import CLASS_COLUMN, CONFIDENCE_COLUMN
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import RangeError
from pcsparse.programs.infer_files import output_paths
from pcsparse.programs.infer_tiled import tile_size
from pcsparse.train.model_file import ModelCard, arch_of, save_model
from tests.streets import tiny_model, tiny_street

LABELS = LabelMap.load("semantickitti")
N = 400
HOLES = [3, 57]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    model, sweep = tiny_model(), tiny_street(0)
    card = ModelCard(
        arch=arch_of(model, 19),
        labels=LABELS,
        voxels=VoxelSettings(0.3),
        input_spec=InputSpec.of([CloudFacts.of(sweep.points, sweep.intensity)]),
        metrics={},
        provenance={},
    )
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, model, card)
    return path


@pytest.fixture
def infer(model_file, tmp_path, capsys):
    def call(*arguments):
        options = ["--checkpoint", str(model_file), "--out", str(tmp_path / "out"), "--no-picture"]
        status = main(["infer", *map(str, arguments), *options])
        return status, capsys.readouterr()

    return call


def street_rows(seed=5):
    sweep = tiny_street(seed, N)
    return np.column_stack([sweep.points, sweep.intensity]).astype(np.float32)


def survey(path):
    laspy = pytest.importorskip("laspy")
    las = laspy.create(point_format=3, file_version="1.2")
    las.header.scales, las.header.offsets = np.full(3, 1e-3), np.array([637_000.0, 849_000.0, 0.0])
    las.xyz = street_rows()[:, :3].astype(np.float64) + np.array([637_179.25, 849_498.75, 431.5])
    las.intensity, las.user_data = np.arange(N) % 256, np.arange(N) % 7
    las.write(str(path))
    return laspy.read(path)


def test_a_survey_gets_classes_codes_and_confidence(tmp_path, infer):
    laspy = pytest.importorskip("laspy")
    old = survey(tmp_path / "town.las")
    status, said = infer(tmp_path / "town.las", "--format", "label,las,laz,ply")
    assert status == 0
    names = ["classes.csv", "town.label", "town.las", "town.laz", "town.ply"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    labels = read_labels(tmp_path / "out/town.label", N)
    assert len(set(labels.tolist())) > 1
    las_codes = dict(zip(LABELS.raw_ids.tolist(), LABELS.las_codes.tolist(), strict=True))
    for name in ("town.las", "town.laz"):
        new = laspy.read(tmp_path / "out" / name)
        np.testing.assert_array_equal(new[CLASS_COLUMN], labels)
        assert np.asarray(new.classification).tolist() == [las_codes[raw] for raw in labels.tolist()]
        assert 0 < new[CONFIDENCE_COLUMN].min() < new[CONFIDENCE_COLUMN].max() < 1
        for dimension in ("X", "Y", "Z", "intensity", "user_data", "gps_time"):
            np.testing.assert_array_equal(new[dimension], old[dimension])
    for i, axis in enumerate("xyz"):
        np.testing.assert_array_equal(ply_table(tmp_path / "out/town.ply")[axis], old.xyz[:, i])
    legend = (tmp_path / "out/classes.csv").read_text().splitlines()
    assert legend[:2] == ["pcsparse_class,name,classification,red,green,blue", "0,unlabelled,0,0,0,0"]
    assert legend[10] == "40,road,11,255,0,255"
    assert f"wrote {tmp_path / 'out/town.label'}, {tmp_path / 'out/town.las'}" in said.out


def test_rows_without_a_prediction_stay_and_are_unlabelled(tmp_path, infer):
    rows = street_rows()
    rows[HOLES[0], 0], rows[HOLES[1], 3] = np.nan, np.inf
    table = np.rec.fromarrays([*rows.T, np.arange(N)], names=["x", "y", "z", "intensity", "time"])
    np.save(tmp_path / "a.npy", table)
    status, _ = infer(tmp_path / "a.npy", "--format", "same")
    assert status == 0
    found = np.load(tmp_path / "out/a.npy")
    assert found.dtype.names == ("x", "y", "z", "intensity", "time", CLASS_COLUMN, CONFIDENCE_COLUMN)
    for i, name in enumerate(("x", "y", "z", "intensity")):
        np.testing.assert_array_equal(found[name], rows[:, i])
    assert (found[CLASS_COLUMN] == 0).nonzero()[0].tolist() == HOLES
    assert (found[CONFIDENCE_COLUMN] == 0).nonzero()[0].tolist() == HOLES


def test_bin_options_hold_for_writing_too(tmp_path, infer):
    street_rows().astype(np.float16).tofile(tmp_path / "a.bin")
    status, said = infer(tmp_path / "a.bin", "--format", "same,npz", "--columns", 4, "--dtype", "float16")
    assert status == 0
    assert "note: a.bin: read .bin with --columns 6" in said.out
    assert len(read_points(tmp_path / "out/a.bin", columns=6)) == N
    assert len(read_points(tmp_path / "out/a.npz")) == N


def test_what_cannot_be_written_is_named_and_the_others_go_on(tmp_path, infer):
    survey(tmp_path / "a.las")
    np.save(tmp_path / "b.npy", street_rows())
    status, said = infer(tmp_path / "a.las", tmp_path / "b.npy", "--format", "bin")
    assert status == 1
    assert "out/a.bin: coordinates reach 849" in said.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.bin", "classes.csv"]


def test_inputs_are_never_overwritten(tmp_path, infer):
    (tmp_path / "out").mkdir()
    rows = street_rows()
    np.save(tmp_path / "out/a.npy", rows)
    status, said = infer(tmp_path / "out/a.npy", "--format", "same")
    assert status == 2
    assert "out/a.npy would be overwritten by its own classes; give another --out" in said.err
    np.testing.assert_array_equal(np.load(tmp_path / "out/a.npy"), rows)


def test_an_unknown_format_lists_the_known(tmp_path, infer):
    np.save(tmp_path / "a.npy", street_rows())
    status, said = infer(tmp_path / "a.npy", "--format", "label,shp")
    assert status == 2
    assert "format must be one or more of label, same, bin, npy" in said.err
    assert "got shp" in said.err


def test_names_of_outputs(tmp_path):
    def named(source, formats, name=None):
        settings = InferSettings((source,), out="out", formats=formats)
        return [p.name for p in output_paths(source, name or source.stem, settings)]

    nuscenes = tmp_path / "n1.pcd.bin"
    assert named(nuscenes, ("same", "label", "ply")) == ["n1.bin", "n1.pcd.label", "n1.pcd.ply"]
    copc = tmp_path / "town.copc.laz"
    assert named(copc, ("same", "laz", "las")) == ["town.laz", "town.copc.las"]
    assert named(tmp_path / "a.LAS", ("same", "las")) == ["a.LAS"]
    assert named(tmp_path / "a.las", ("same", "npz"), "a.las") == ["a.las", "a.las.npz"]
    with pytest.raises(RangeError, match="got None"):
        named(nuscenes, ())
    with pytest.raises(RangeError, match=r"classes\.csv is the file that says what the classes are; rename"):
        named(tmp_path / "classes.npy", ("csv",))


def test_tiles_give_every_row_a_class_and_a_picture(model_file, tmp_path, capsys):
    laspy = pytest.importorskip("laspy")
    survey(tmp_path / "town.las")
    np.save(tmp_path / "same.npy", street_rows() + np.array([637_179.25, 849_498.75, 431.5, 0]))
    arguments = [
        "infer",
        str(tmp_path / "town.las"),
        str(tmp_path / "same.npy"),
        "--out",
        str(tmp_path / "out"),
    ]
    arguments += ["--checkpoint", str(model_file), "--format", "label,las"]
    assert main([*arguments, "--tile", "20"]) == 0
    said = capsys.readouterr().out
    assert "town.las: 400 points, " in said
    assert " tiles of 20 m" in said
    for name in ("town", "same"):
        labels = read_labels(tmp_path / f"out/{name}.label", N)
        assert (labels != 0).all()
        assert (tmp_path / f"out/{name}.png").read_bytes()[:4] == b"\x89PNG"
        las = laspy.read(tmp_path / f"out/{name}.las")
        np.testing.assert_array_equal(las[CLASS_COLUMN], labels)
    assert main([*arguments, "--tile", "20", "--max-range", "50"]) == 1
    assert "--max-range 50 cannot go with tiles" in capsys.readouterr().out


def test_large_surveys_are_tiled_unasked(model_file, tmp_path, monkeypatch):
    survey(tmp_path / "town.las")
    settings = InferSettings((), checkpoint=str(model_file))
    assert tile_size(tmp_path / "town.las", settings) is None
    monkeypatch.setattr("pcsparse.programs.infer_tiled._MANY_POINTS", N - 1)
    assert tile_size(tmp_path / "town.las", settings) == 60.0
    assert tile_size(tmp_path / "town.las", replace(settings, tile=0.0)) is None
    assert tile_size(tmp_path / "town.npy", settings) is None


def test_another_format_under_the_ending_of_a_survey_is_named(model_file, tmp_path, infer):
    (tmp_path / "town.las").write_bytes(b"ply\nformat ascii 1.0\n")
    for more in ([], ["--tile", "20"]):
        status, said = infer(tmp_path / "town.las", *more)
        assert status == 1
        assert "begins as a PLY file, not as a .las file: rename it to .ply" in said.out
