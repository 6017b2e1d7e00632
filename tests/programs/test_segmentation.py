"""The programs on four sweeps in SemanticKITTI's layout: train, evaluate, infer, as a user calls them."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pcsparse.cli import main
from pcsparse.config import InferSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files import read_labels, read_points
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import DeviceError, RangeError, UnsupportedError
from pcsparse.models import SPVCNN
from pcsparse.programs import infer
from pcsparse.train.metrics import ConfusionMatrix, SemanticKittiMetrics
from pcsparse.train.model_file import ModelCard, arch_of, load_model, save_model
from tests.streets import tiny_model, tiny_street, write_root
from tests.view import page_reader

LABELS = LabelMap.load("semantickitti")
N_POINTS = 400


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two training sweeps, one to validate, one test sweep: four in all."""
    return write_root(tmp_path_factory.mktemp("kitti"), {"00": 2, "08": 1, "11": 1}, points=N_POINTS)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A model that was never trained; good enough to predict something for every point."""
    torch.manual_seed(0)
    model = tiny_model()
    sweeps = [tiny_street(seed) for seed in range(3)]
    card = ModelCard(
        arch=arch_of(model, 19),
        labels=LABELS,
        voxels=VoxelSettings(0.3),
        input_spec=InputSpec.of([CloudFacts.of(s.points, s.intensity) for s in sweeps]),
        metrics={},
        provenance={},
    )
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, model, card)
    return path


def infer_with(model_file, out, *sources, **settings):
    return infer.run(InferSettings(tuple(sources), out=out, checkpoint=str(model_file), **settings))


def rows_of(seed, n=N_POINTS):
    sweep = tiny_street(seed, n)
    return np.column_stack([sweep.points, sweep.intensity]).astype(np.float32)


def test_train_evaluate_and_infer_as_a_user_calls_them(root, tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    status = main(
        [
            "train", f"data.root={root}", "model=minkunet14", "model.spec.width=0.125", "name=tiny",
            "epochs=2", "batch_size=1", "voxels.voxel_size=0.4", "workers=1", "progress=plain",
        ]
    )  # fmt: skip
    assert status == 0
    run = tmp_path / "runs/tiny"
    assert {"config.yaml", "log.csv", "val.csv", "last.pt", "model.safetensors", "model.json"} <= {
        path.name for path in run.iterdir()
    }
    assert (run / "log.csv").read_text().count("\n") == 1 + 4
    said = capsys.readouterr().out
    assert "sweeps/s" in said
    assert "mIoU" in said

    # test sweeps have labels here, as simulated ones do
    for split, n_sweeps in (("val", 1), ("test", 1), ("train", 2)):
        arguments = [f"data.root={root}", f"split={split}", "checkpoint=runs/tiny", "workers=0"]
        assert main(["evaluate", *arguments, f"output={split}.json", "predictions=submission"]) == 0
        result = json.loads((tmp_path / f"{split}.json").read_text())
        assert (result["sweeps"], set(result["classes"])) == (n_sweeps, set(LABELS.names))
    table = capsys.readouterr().out
    assert "mIoU over all 19 (official)" in table

    # the metrics are those of the predictions that were written
    confusion = ConfusionMatrix(19)
    written = read_labels(tmp_path / "submission/sequences/08/predictions/000000.label", N_POINTS)
    truth = read_labels(root / "sequences/08/labels/000000.label", N_POINTS)
    confusion.update(LABELS.to_target(written), LABELS.to_target(truth))
    expected = SemanticKittiMetrics.of(confusion)
    result = json.loads((tmp_path / "val.json").read_text())
    assert result["miou"] == pytest.approx(expected.mean_iou)
    assert result["points"] == int(expected.n_truth.sum()) < N_POINTS
    # the best epoch's validation, point by point, is what a later evaluation finds
    assert result["miou"] == pytest.approx(load_model(run)[1].metrics["miou"])

    # inference writes the labels that evaluation wrote
    sweep = root / "sequences/08/velodyne/000000.bin"
    assert main(["infer", str(sweep), "--checkpoint", "runs/tiny", "--out", "out", "--no-picture"]) == 0
    np.testing.assert_array_equal(read_labels(tmp_path / "out/000000.label", N_POINTS), written)


def test_a_network_with_points_trains_and_infers_by_its_name(root, tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"data.root={root}", "model=spvcnn", "model.spec.width=0.125", "name=points", "epochs=1",
        "voxels.voxel_size=0.4", "workers=0", "progress=plain",
    ]  # fmt: skip
    assert main(["train", *arguments]) == 0
    model, _ = load_model("runs/points")
    assert type(model) is SPVCNN
    sweep = root / "sequences/08/velodyne/000000.bin"
    assert main(["infer", str(sweep), "--checkpoint", "runs/points", "--out", "out", "--no-picture"]) == 0
    assert len(read_labels(tmp_path / "out/000000.label", N_POINTS)) == N_POINTS


YARD = """
label_set = "yard"
ignore = 0
raw = [
  { id = 0, train = 0 },
  { id = 3, train = 1, name = "machine", color = [9, 8, 7] },
  { id = 500, train = 2, name = "ground", color = [1, 2, 3] },
  { id = 7, train = 3, name = "hall", color = [4, 5, 6] },
]
classes = [{ train = 0, raw = 0 }, { train = 1, raw = 3 }, { train = 2, raw = 500 }, { train = 3, raw = 7 }]
"""


def test_classes_columns_and_intensity_of_ones_own(tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    root = write_root(tmp_path / "yard", {"00": 1, "08": 1}, points=N_POINTS)
    for path in root.rglob("*.bin"):
        rows = np.fromfile(path, "<f4").reshape(-1, 4)
        rows[:, 3] *= 255
        np.column_stack([rows, np.arange(len(rows)) % 32]).astype("<f4").tofile(path)
    for path in root.rglob("*.label"):
        raw = np.fromfile(path, "<u4") & 0xFFFF
        table = np.zeros(100, np.uint32)
        table[[10, 40, 50]] = 3, 500, 7
        table[raw].astype("<u4").tofile(path)
    (tmp_path / "yard.toml").write_text(YARD)
    data = [f"data.root={root}", "data.labels=yard.toml", "data.columns=5", "data.intensity_scale=255"]
    arguments = [
        "model=minkunet14", "model.spec.width=0.125", "name=own", "epochs=1", "batch_size=1",
        "voxels.voxel_size=0.4", "workers=1", "progress=plain",
    ]  # fmt: skip
    assert main(["train", *data, *arguments]) == 2
    assert "the model has 19 classes, the label set 3; set model.spec.n_classes=3" in capsys.readouterr().err
    assert main(["train", *data, *arguments, "model.spec.n_classes=3"]) == 0
    assert load_model("runs/own")[1].labels == LabelMap.from_toml("yard.toml")
    # the model knows its classes without the file
    (tmp_path / "yard.toml").rename(tmp_path / "elsewhere.toml")
    data[1] = "data.labels=elsewhere.toml"
    assert main(["evaluate", *data, "checkpoint=runs/own", "workers=0", "predictions=submission"]) == 0
    assert "mIoU over all 3 (official)" in capsys.readouterr().out
    written = read_labels(tmp_path / "submission/sequences/08/predictions/000000.label", N_POINTS)
    assert set(written.tolist()) <= {0, 3, 500, 7}
    sweep = root / "sequences/08/velodyne/000000.bin"
    scale = ["--columns", "5", "--intensity-scale", "255"]
    assert main(["infer", str(sweep), *scale, "--checkpoint", "runs/own", "--out", "out", "--no-page"]) == 0
    np.testing.assert_array_equal(read_labels(tmp_path / "out/000000.label", N_POINTS), written)
    # nor has who looks at them
    for named in ("runs/own", "runs/own/model.safetensors", "runs/own/model.json"):
        view = ["view", str(sweep), *scale, "--label-set", named, "--predictions", "out/000000.label"]
        assert main([*view, "--alone", "--out", "page.html"]) == 0
        classes = page_reader.content((tmp_path / "page.html").read_text())["classes"]
        assert [row["name"] for row in classes] == ["machine", "ground", "hall", "unlabelled"]
    # what is wrong with the files comes in a line, from the process that reads them
    assert main(["evaluate", *data[:2], "checkpoint=runs/own", "workers=1"]) == 2
    said = capsys.readouterr().err
    assert "data.columns=N" in said
    assert "Traceback" not in said
    assert main(["evaluate", data[0], *data[2:], "checkpoint=runs/own", "workers=0"]) == 2
    assert "of label map 'yard', the data" in (said := capsys.readouterr().err)
    assert "go by as data.labels=FILE" in said


def test_errors_of_hydra_programs_are_one_line_and_a_status(root, tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"data.root={tmp_path}/nowhere"]) == 2
    assert "is no SemanticKITTI root" in capsys.readouterr().err
    assert main(["evaluate", f"data.root={root}", "checkpoint=runs/none"]) == 2
    assert "runs/none" in capsys.readouterr().err
    assert main(["evaluate", f"data.root={root}", "split=training"]) == 2
    assert "split must be" in capsys.readouterr().err
    # and nothing is left behind
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_wrong_labels_stop_training_with_the_file_named(tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    arguments = ["data.val=null", "model=minkunet14", "model.spec.width=0.125", "epochs=1", "workers=0"]
    root = write_root(tmp_path / "short", {"00": 1}, points=50)
    label = root / "sequences/00/labels/000000.label"
    label.write_bytes(label.read_bytes()[:-4])
    assert main(["train", f"data.root={root}", *arguments]) == 2
    assert "000000.label holds 49 uint32 labels" in capsys.readouterr().err

    root = write_root(tmp_path / "unknown", {"00": 1}, points=50)
    np.full(50, 7, "<u4").tofile(root / "sequences/00/labels/000000.label")
    assert main(["train", f"data.root={root}", *arguments]) == 2
    errors = capsys.readouterr().err
    assert "id 7 (50 points)" in errors
    assert "000000.label" in errors


def test_every_format_gets_a_label_for_every_point_and_a_picture(model_file, tmp_path, capsys):
    pytest.importorskip("PIL")
    laspy, plyfile, pypcd4 = (pytest.importorskip(name) for name in ("laspy", "plyfile", "pypcd4"))
    rows = rows_of(5)
    source = tmp_path / "in"
    source.mkdir()
    rows.tofile(source / "a.bin")
    np.save(source / "b.npy", rows)
    np.savez(source / "c.npz", points=rows[:, :3], intensity=rows[:, 3])
    names = ("x", "y", "z", "intensity")
    pypcd4.PointCloud.from_points(rows, names, (np.float32,) * 4).save(source / "d.pcd")
    table = np.rec.fromarrays(rows.T.copy(), names=list(names))
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")]).write(source / "e.ply")
    for name in ("f.las", "g.laz"):
        las = laspy.create(point_format=0, file_version="1.2")
        las.header.scales = np.full(3, 1e-5)
        las.x, las.y, las.z = rows[:, :3].T.astype(np.float64)
        las.intensity = np.round(rows[:, 3] * 65535).astype(np.uint16)
        las.write(source / name)

    assert infer_with(model_file, tmp_path / "out", source) == 0
    expected = read_labels(tmp_path / "out/a.label", N_POINTS)
    assert len(set(expected.tolist())) > 1
    assert set(expected.tolist()) <= set(LABELS.raw_ids.tolist())
    for name in "abcdefg":
        labels = read_labels(tmp_path / "out" / f"{name}.label", N_POINTS)
        # the grid of a LAS file rounds coordinates, which moves a few points into other voxels
        share = 0.9 if name in "fg" else 1.0
        assert (labels == expected).mean() >= share, name
        assert (tmp_path / "out" / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    said = capsys.readouterr().out
    assert said.count(f"{N_POINTS} points") == 7
    assert "voxelise" in said


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_invalid_rows_keep_their_place_and_get_unlabelled(model_file, tmp_path, capsys, policy):
    rows = rows_of(5)
    rows.tofile(tmp_path / "clean.bin")
    holes = np.insert(rows, [0, 7, 7, 390], np.nan, axis=0)
    holes[0, 3] = 0.5
    holes.astype(np.float32).tofile(tmp_path / "holes.bin")
    files = (tmp_path / "clean.bin", tmp_path / "holes.bin")
    assert infer_with(model_file, tmp_path / "out", *files, invalid=policy, picture=False) == 0
    clean = read_labels(tmp_path / "out/clean.label", N_POINTS)
    labels = read_labels(tmp_path / "out/holes.label", N_POINTS + 4)
    bad = np.isnan(holes).any(axis=1)
    assert (labels[bad] == 0).all()
    np.testing.assert_array_equal(labels[~bad], clean)
    said = capsys.readouterr().out
    assert "4 of 404 points are NaN or infinite" in said
    assert "(unlabelled)" in said


def test_a_folder_that_cannot_be_written_is_told_before_any_work(model_file, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "a.npy", rows_of(5))
    for out in ("a.npy", "a.npy/deeper"):
        with pytest.raises(RangeError, match=r"a\.npy is a file; name a folder"):
            infer_with(model_file, tmp_path / out, tmp_path / "a.npy")
    # root may write anywhere but to a read-only disk
    monkeypatch.setattr("pcsparse.programs.infer.os.access", lambda path, mode: False)
    with pytest.raises(RangeError, match="nothing can be written to"):
        infer_with(model_file, tmp_path / "out", tmp_path / "a.npy")
    assert "400 points" not in capsys.readouterr().out


def test_pictures_that_cannot_be_drawn_are_told_before_any_work(model_file, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", rows_of(5))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UnsupportedError, match=r"pcsparse\[view\]', or write labels alone with --no-picture"):
        infer_with(model_file, tmp_path / "out", tmp_path / "a.npy")
    assert not (tmp_path / "out").exists()
    assert infer_with(model_file, tmp_path / "out", tmp_path / "a.npy", picture=False) == 0


def test_a_device_that_is_not_there_is_told(model_file, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", rows_of(5))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device, said in (("cuda", "sees no CUDA device here; use cpu"), ("gpu", "'gpu' is none")):
        with pytest.raises(DeviceError, match=said):
            infer_with(model_file, tmp_path / "out", tmp_path / "a.npy", device=device)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(DeviceError, match=r"torch sees 2, cuda:0 to cuda:1"):
        infer_with(model_file, tmp_path / "out", tmp_path / "a.npy", device="cuda:2")


def test_points_without_a_class_are_told_why(model_file, tmp_path, capsys):
    np.save(tmp_path / "a.npy", rows_of(5))
    given = {"min_range": 2.5, "max_range": 10.0, "picture": False}
    assert infer_with(model_file, tmp_path / "out", tmp_path / "a.npy", **given) == 0
    assert "not finite; nearer than 2.5 m; beyond 10 m" in capsys.readouterr().out


def test_invalid_rows_are_an_error_where_asked_for_and_other_files_go_on(model_file, tmp_path, capsys):
    rows = rows_of(5)
    rows.tofile(tmp_path / "b.bin")
    rows[3, 1] = np.inf
    rows.tofile(tmp_path / "a.bin")
    assert infer_with(model_file, tmp_path / "out", tmp_path, invalid="raise", picture=False) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.label"]
    said = capsys.readouterr().out
    assert "error: " in said
    assert f"1 of 2 files failed: {tmp_path / 'a.bin'}" in said


def test_an_empty_cloud_gives_empty_labels_and_says_so(model_file, tmp_path, capsys):
    np.save(tmp_path / "empty.npy", np.zeros((0, 4), np.float32))
    assert infer_with(model_file, tmp_path / "out", tmp_path / "empty.npy") == 0
    assert (tmp_path / "out/empty.label").read_bytes() == b""
    assert (tmp_path / "out/empty.png").is_file()
    assert "the file has no points" in capsys.readouterr().out


def test_a_cloud_of_nothing_but_nan_is_all_unlabelled(model_file, tmp_path):
    np.save(tmp_path / "nan.npy", np.full((6, 4), np.nan, np.float32))
    assert infer_with(model_file, tmp_path / "out", tmp_path / "nan.npy") == 0
    assert read_labels(tmp_path / "out/nan.label", 6).tolist() == [0] * 6


def test_a_point_beyond_the_key_is_an_error_that_names_file_and_point(model_file, tmp_path, capsys):
    rows = rows_of(5)
    rows[9, :3] = (8000.0, 8000.0, 8000.0)
    np.save(tmp_path / "far.npy", rows)
    assert infer_with(model_file, tmp_path / "out", tmp_path / "far.npy", voxel_size=0.05) == 1
    said = capsys.readouterr().out
    assert "far.npy" in said
    assert "8000" in said
    assert not (tmp_path / "out").exists()


def test_inputs_of_one_name_do_not_overwrite_each_other(model_file, tmp_path, capsys):
    rows_of(1).tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", rows_of(2))
    assert infer_with(model_file, tmp_path / "out", tmp_path, picture=False) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.bin.label", "a.npy.label"]
    # from two folders there is no name left that tells them apart
    (tmp_path / "more").mkdir()
    rows_of(3).tofile(tmp_path / "more/a.bin")
    with pytest.raises(ValueError, match=r"a\.bin\.label"):
        infer_with(model_file, tmp_path / "out", tmp_path / "a.bin", tmp_path / "more/a.bin")


def test_existing_outputs_are_overwritten_or_skipped_as_told(model_file, tmp_path, capsys):
    rows_of(1).tofile(tmp_path / "a.bin")
    label = tmp_path / "out/a.label"
    assert infer_with(model_file, tmp_path / "out", tmp_path / "a.bin", picture=False) == 0
    first = label.read_bytes()
    label.write_bytes(b"old")
    capsys.readouterr()
    assert (
        infer_with(model_file, tmp_path / "out", tmp_path / "a.bin", picture=False, skip_existing=True) == 0
    )
    assert label.read_bytes() == b"old"
    assert "skipped" in capsys.readouterr().out
    assert infer_with(model_file, tmp_path / "out", tmp_path / "a.bin", picture=False) == 0
    assert label.read_bytes() == first
    assert [path.name for path in label.parent.iterdir()] == ["a.label"]


def test_a_cloud_unlike_the_training_set_is_warned_of(model_file, tmp_path, capsys):
    rows = rows_of(4, n=4000)
    rows[:, 2] += 3.0
    np.save(tmp_path / "high.npy", rows[:, :3])
    infer_with(model_file, tmp_path / "out", tmp_path / "high.npy", picture=False)
    said = capsys.readouterr().out
    assert "warning: the ground lies at" in said
    assert "warning: the file has no intensity: 0 is used for every point" in said
    assert "--z-offset -3" in said
    infer_with(
        model_file, tmp_path / "out", tmp_path / "high.npy", picture=False, z_offset=-3.0, voxel_size=0.5
    )
    said = capsys.readouterr().out
    assert "the ground lies" not in said
    assert "warning: voxels of 0.5 m, the model was trained on 0.3 m" in said


def test_a_cloud_in_other_axes_and_units_gets_the_same_classes(model_file, tmp_path):
    rows = rows_of(4, n=4000)
    # a camera's axes (right, down, forward), millimetres, and a place of its own
    turned = np.column_stack([-rows[:, 1], -rows[:, 2], rows[:, 0]]).astype(np.float64) * 1000
    np.save(tmp_path / "street.npy", rows)
    turned += np.array([3000, -1000, 7000])
    np.save(tmp_path / "camera.npy", np.column_stack([turned, rows[:, 3]]))
    flags = ["--scale", "0.001", "--up=-y", "--origin=7,-3,1", "--max-range", "10"]
    arguments = ["--checkpoint", str(model_file), "--out", str(tmp_path), "--no-picture"]
    assert main(["infer", str(tmp_path / "street.npy"), *arguments, "--max-range", "10"]) == 0
    assert main(["infer", str(tmp_path / "camera.npy"), *arguments, *flags]) == 0
    straight = read_labels(tmp_path / "street.label", len(rows))
    other = read_labels(tmp_path / "camera.label", len(rows))
    far = np.linalg.norm(rows[:, :3], axis=1) > 10
    assert 0 < far.sum() < len(rows)
    np.testing.assert_array_equal(straight == 0, far)
    # a point on a voxel's face may fall on its other side
    assert (straight == other).mean() > 0.98
    assert len(np.unique(straight)) > 2


def test_without_a_checkpoint_the_default_model_is_used_or_missed_clearly(tmp_path, monkeypatch, capsys):
    rows_of(1).tofile(tmp_path / "a.bin")
    monkeypatch.setattr("pcsparse.resources.weights_dir", lambda: Path("/nowhere"))
    assert main(["infer", str(tmp_path / "a.bin")]) == 2
    assert "/nowhere/minkunet-hdl64e.safetensors, is not there" in capsys.readouterr().err


def test_a_wrong_policy_is_refused(model_file, tmp_path):
    with pytest.raises(ValueError, match="invalid must be one of drop, raise, keep"):
        infer_with(model_file, tmp_path, tmp_path, invalid="ignore")
    settings = InferSettings((tmp_path,), checkpoint=str(model_file))
    assert replace(settings, invalid="keep").invalid == "keep"


@pytest.mark.parametrize(
    "name",
    [
        "semantickitti/dataset/sequences/00/velodyne/000000.bin",
        "kitti/training/velodyne/000000.bin",
        "kitti_odometry/000049.bin",
        "pcd/binary_compressed.pcd",
        "las/simple.laz",
    ],
)
def test_real_files_get_a_label_for_every_row(real_data, model_file, tmp_path, name):
    source = real_data / name
    if not source.is_file():
        pytest.skip(f"no {name} among the real samples")
    assert infer_with(model_file, tmp_path, source, picture=False) == 0
    n_rows = read_points(source, invalid="keep").n_file
    labels = read_labels(tmp_path / f"{source.stem}.label", n_rows)
    assert set(labels.tolist()) <= {0, *LABELS.raw_ids.tolist()}


def test_dtype_and_columns_are_for_bin_files_alone(model_file, tmp_path, capsys):
    rows = rows_of(5)
    rows.astype(np.float16).tofile(tmp_path / "half.bin")
    np.save(tmp_path / "whole.npy", rows)
    out = tmp_path / "out"
    arguments = ["infer", str(tmp_path / "half.bin"), str(tmp_path / "whole.npy"), "--out", str(out)]
    arguments += ["--checkpoint", str(model_file), "--no-picture"]
    assert main([*arguments, "--columns", "4"]) == 1
    assert "--dtype float16" in capsys.readouterr().out
    assert main([*arguments, "--columns", "4", "--dtype", "float16"]) == 0
    assert len(read_labels(out / "half.label", N_POINTS)) == len(read_labels(out / "whole.label", N_POINTS))
