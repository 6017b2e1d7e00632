"""`pcsparse view`: which files it finds, what it makes of them, and what it says of bad ones."""

import json

import numpy as np
import pytest

from pcsparse.cli import main
from pcsparse.data.files import read_points, write_classes
from pcsparse.data.files_table import PointClasses
from pcsparse.data.label_map import LabelMap
from pcsparse.programs import view as program
from pcsparse.view.raster import draw
from tests.streets import RAW, tiny_street
from tests.view import page_reader as reader

LABELS = LabelMap.load("semantickitti")
N = 300


def write_sweep(path, seed):
    street = tiny_street(seed, N)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.column_stack([street.points, street.intensity]).astype("<f4").tofile(path)
    return street


def raw_of(street, instance=0):
    raw = np.array([RAW.get(int(target), 0) for target in street.targets], "<u4")
    return raw | np.where(street.targets == 0, np.uint32(instance << 16), np.uint32(0))


@pytest.fixture
def sequence(tmp_path):
    """Two sweeps in the layout of SemanticKITTI: labels, predictions of the first, poses, our boxes."""
    folder = tmp_path / "sequences/08"
    for child in ("labels", "predictions", "boxes"):
        (folder / child).mkdir(parents=True)
    for i in range(2):
        street = write_sweep(folder / f"velodyne/{i:06d}.bin", i)
        raw_of(street, 3).tofile(folder / f"labels/{i:06d}.label")
        box = {"semantic": 252, "instance": 3, "centre": [i, 0, 0], "size": [4, 2, 1.5], "yaw": 0.1}
        (folder / f"boxes/{i:06d}.json").write_text(json.dumps([box]))
    raw_of(tiny_street(5, N)).tofile(folder / "predictions/000000.label")
    (folder / "poses.txt").write_text("1 0 0 9 0 1 0 0 0 0 1 0\n1 0 0 11 0 1 0 0 0 0 1 0\n")
    return folder


@pytest.fixture
def view(tmp_path, capsys):
    def act(*arguments):
        """Status, what was said, and the text of the page."""
        out = tmp_path / "out/page.html"
        status = main(["view", *map(str, arguments), "--out", str(out)])
        printed = capsys.readouterr()
        text = out.read_text(encoding="utf-8") if out.is_file() else None
        return status, printed.out + printed.err, text

    return act


def test_a_sequence_is_found_with_all_that_belongs_to_it(sequence, view):
    status, said, text = view(sequence / "velodyne")
    assert status == 0
    facts = reader.content(text)
    second = facts["sweeps"][1]
    assert [sweep["name"] for sweep in facts["sweeps"]] == ["000000.bin", "000001.bin"]
    street, columns = tiny_street(0, N), reader.columns(text)
    assert np.abs(columns["x"] - street.points[:, 0]).max() < 1e-3
    assert np.abs(columns["intensity"] / 255 - street.intensity).max() < 0.003
    np.testing.assert_array_equal(columns["labels"], street.targets % 256)
    np.testing.assert_array_equal(columns["prediction"], tiny_street(5, N).targets % 256)
    np.testing.assert_array_equal(columns["instance"], np.where(street.targets == 0, 3, 0))
    assert "prediction" not in second["columns"]
    # from the first sweep on
    assert np.array(second["pose"])[0, 3] == pytest.approx(2)
    assert [entry["name"] for entry in facts["classes"]] == [*LABELS.names, "unlabelled"]
    # raw id 252 is a car that moves
    assert (second["boxes"][0]["name"], second["boxes"][0]["center"]) == ("car", [1, 0, 0])
    for what in ("labels: ", "predictions: ", "boxes: ", "poses: "):
        assert what in said
    assert f"{2 * N} points" in said


def test_a_stray_point_that_coarsens_the_page_is_told(tmp_path, view):
    street = write_sweep(tmp_path / "a.bin", 0)
    assert "lie on a grid" not in view(tmp_path / "a.bin")[1]
    rows = np.column_stack([street.points, street.intensity]).astype("<f4")
    rows[7, 0] = 6_000 + rows[:, 0].min()
    rows.tofile(tmp_path / "a.bin")
    status, said, _ = view(tmp_path / "a.bin")
    assert status == 0
    # 6,000 m in 65,535 steps
    assert "note: a.bin spans 6,000 m, so its points lie on a grid of 92 mm" in said


def test_points_alone_on_demand(sequence, view):
    status, said, text = view(sequence / "velodyne/000000.bin", "--alone")
    (sweep,) = reader.content(text)["sweeps"]
    assert status == 0
    assert (sweep["columns"], sweep["boxes"]) == (["x", "y", "z", "intensity"], [])
    assert "labels: " not in said


def test_named_files_go_before_those_beside(sequence, tmp_path, view):
    other = tmp_path / "mine"
    other.mkdir()
    for i in range(2):
        np.full(N, 50, "<u4").tofile(other / f"{i:06d}.label")
    (tmp_path / "one.csv").write_text("x,y,z,length,width,height,yaw,name\n5,5,0,1,1,1,0,crate\n")
    status, _, text = view(sequence / "velodyne", "--predictions", other, "--boxes", tmp_path / "one.csv")
    assert status == 0
    for i in range(2):
        assert set(reader.columns(text, i)["prediction"]) == {LABELS.names.index("building")}
        assert reader.content(text)["sweeps"][i]["boxes"][0]["name"] == "crate"


def test_thinned_points_keep_their_rows(sequence, view):
    status, _, text = view(sequence / "velodyne/000000.bin", "--every", 7)
    columns, rows = reader.columns(text), np.arange(0, N, 7)
    assert status == 0
    np.testing.assert_array_equal(columns["rows"], rows)
    np.testing.assert_array_equal(columns["labels"], tiny_street(0, N).targets[rows] % 256)


def test_rows_that_were_dropped_keep_labels_with_their_points(sequence, view):
    path = sequence / "velodyne/000000.bin"
    rows = np.fromfile(path, "<f4").reshape(-1, 4)
    rows[[0, 50]] = np.nan
    rows.tofile(path)
    status, _, text = view(path)
    kept = np.delete(np.arange(N), [0, 50])
    assert status == 0
    np.testing.assert_array_equal(reader.columns(text)["rows"], kept)
    np.testing.assert_array_equal(reader.columns(text)["labels"], tiny_street(0, N).targets[kept] % 256)


@pytest.mark.parametrize("ending", ["ply", "las", "npz"])
def test_columns_that_infer_wrote_are_shown(tmp_path, view, ending):
    pytest.importorskip({"ply": "plyfile", "las": "laspy", "npz": "numpy"}[ending])
    street = write_sweep(tmp_path / "a.bin", 0)
    sure = np.linspace(0, 1, N, dtype=np.float32)
    classes = PointClasses(LABELS.to_raw(street.targets).astype(np.uint16), sure)
    write_classes(tmp_path / f"with.{ending}", tmp_path / "a.bin", classes)
    status, _, text = view(tmp_path / f"with.{ending}")
    columns = reader.columns(text)
    assert status == 0
    np.testing.assert_array_equal(columns["prediction"], street.targets % 256)
    assert np.abs(columns["confidence"] / 255 - sure).max() < 0.003


def test_units_and_axes_can_be_mended_and_boxes_are_left_out_then(sequence, view):
    status, said, text = view(sequence / "velodyne/000000.bin", "--scale", "0.1")
    x = read_points(sequence / "velodyne/000000.bin").points[:, 0]
    assert status == 0
    assert np.abs(reader.columns(text)["x"] - 0.1 * x).max() < 1e-4
    assert reader.content(text)["sweeps"][0]["boxes"] == []
    assert "the boxes are left out" in said


def test_boxes_of_a_file_in_the_world_lie_among_its_points(tmp_path, view):
    street, at = tiny_street(0, N), np.array([512000.0, 5400000.0, 0.0])
    np.save(tmp_path / "utm.npy", np.column_stack([street.points + at, street.intensity]))
    (tmp_path / "b.csv").write_text("x,y,z,length,width,height,yaw\n512005,5400003,1,4,2,1.5,0\n")
    status, _, text = view(tmp_path / "utm.npy", "--boxes", tmp_path / "b.csv")
    (sweep,) = reader.content(text)["sweeps"]
    assert status == 0
    np.testing.assert_allclose(np.add(sweep["boxes"][0]["center"], sweep["origin"]), (512005, 5400003, 1))
    assert abs(sweep["boxes"][0]["center"][0]) < 100


def test_a_file_in_the_world_keeps_its_precision_when_it_is_scaled(tmp_path, view):
    street, at = tiny_street(0, N), np.array([512000.0, 5400000.0, 0.0])
    np.save(tmp_path / "utm.npy", np.column_stack([1000 * (street.points + at), street.intensity]))
    status, _, text = view(tmp_path / "utm.npy", "--scale", "0.001")
    (sweep,), columns = reader.content(text)["sweeps"], reader.columns(text)
    assert status == 0
    assert np.abs(columns["y"] + sweep["origin"][1] - at[1] - street.points[:, 1]).max() < 2e-3


@pytest.mark.parametrize("flags", [["--scale", "0.1"], ["--up=-y"]])
def test_poses_are_left_out_where_they_would_not_fit(sequence, view, flags):
    status, said, text = view(sequence / "velodyne", *flags)
    assert status == 0
    assert "the poses are left out" in said
    assert all(sweep.get("pose") is None for sweep in reader.content(text)["sweeps"])


@pytest.mark.parametrize("ending", ["labels", "points"])
def test_a_picture_is_drawn_beside_the_page(sequence, tmp_path, view, ending):
    pytest.importorskip("PIL")
    options = ["--light"] if ending == "labels" else ["--alone"]
    status, said, text = view(sequence / "velodyne/000001.bin", "--png", "--title", "my <street>", *options)
    assert status == 0
    assert (tmp_path / "out/page.png").read_bytes()[:4] == b"\x89PNG"
    facts = reader.content(text)
    assert (facts["title"], facts["theme"]) == ("my <street>", "light" if ending == "labels" else "dark")
    assert "page.png" in said


def test_boxes_of_the_first_sweep_are_in_the_picture_in_their_class_colours(
    sequence, tmp_path, view, monkeypatch
):
    pytest.importorskip("PIL")
    drawn = []
    monkeypatch.setattr(program, "draw", lambda *given, **more: drawn.append(more) or draw(*given, **more))
    boxes = sequence / "boxes/000001.json"
    (box,) = json.loads(boxes.read_text())
    boxes.write_text(json.dumps([box, {**box, "semantic": 0}]))
    boxes.with_name("000000.json").write_text("[]")
    assert view(sequence / "velodyne/000001.bin", sequence / "velodyne", "--png")[0] == 0
    (given,) = drawn
    car = LABELS.colors[LABELS.names.index("car")]
    assert [tuple(one.center) for one in given["boxes"]] == [(1, 0, 0), (1, 0, 0)]
    assert given["box_colors"].tolist() == [car.tolist(), [255, 196, 84]]
    # one colour where the page has no classes
    status, _, text = view(sequence / "velodyne/000001.bin", "--png", "--alone", "--boxes", boxes)
    assert status == 0
    assert len(reader.content(text)["sweeps"][0]["boxes"]) == len(drawn[1]["boxes"]) == 2
    assert drawn[1]["box_colors"] is None


def test_sweeps_without_numbers_have_no_poses(sequence, view):
    for child, suffix in (("velodyne", ".bin"), ("labels", ".label"), ("boxes", ".json")):
        (sequence / child / f"000001{suffix}").rename(sequence / child / f"last{suffix}")
    status, said, _ = view(sequence / "velodyne")
    assert status == 2
    assert "last.bin is none; use --alone" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labels", "{root}/nowhere"], "nowhere does not exist"),
        (["--labels", "{root}/boxes"], "has no 000000.label for"),
        (["--boxes", "{root}/labels/000000.label"], "boxes come in .json"),
        (["--every", "0"], "every must be at least 1, got 0"),
        (["--label-set", "mine"], "'mine'"),
        (["--label-set", "{root}/labels"], "labels/model.safetensors does not exist"),
        (["--label-set", "{root}/odd.label"], "odd.label is no .safetensors file"),
        (["--labels", "{root}/short.label"], "short.label holds 2 uint32 labels"),
        (["--labels", "{root}/odd.label"], "odd.label: label set 'semantickitti' does not have id 7"),
        (["--poses", "{root}/none.txt"], "none.txt does not exist"),
    ],
)
def test_refusals_are_one_line_and_leave_no_page(sequence, view, options, said):
    np.zeros(2, "<u4").tofile(sequence / "short.label")
    np.full(N, 7, "<u4").tofile(sequence / "odd.label")
    given = [option.format(root=sequence) for option in options]
    status, printed, text = view(sequence / "velodyne/000000.bin", *given)
    assert (status, text) == (2, None)
    assert said in printed


def test_too_few_poses_are_named(sequence, view):
    (sequence / "poses.txt").write_text("1 0 0 9 0 1 0 0 0 0 1 0\n")
    status, said, _ = view(sequence / "velodyne")
    assert status == 2
    assert "has 1 poses, none for sweep 1" in said
