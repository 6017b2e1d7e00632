"""SemanticKITTI's layout: splits, sweeps, what is missing."""

import logging
import re

import numpy as np
import pytest
from torch.utils.data import DataLoader

from pcsparse.data.datasets.semantic_kitti import SEQUENCES, SemanticKitti
from pcsparse.data.files import write_labels
from pcsparse.data.label_map import LabelMap
from pcsparse.errors import FormatError, RangeError
from tests.data.rows import street

RAW = (10, 40 | 3 << 16, 70, 0, 252)
TARGETS = (0, 8, 14, -1, 0)


@pytest.fixture
def root(tmp_path):
    """Two sweeps in 00, one in each of 08, 09 and 11; only 11 has no labels."""
    for sequence, n_frames in {"00": 2, "08": 1, "09": 1, "11": 1}.items():
        folder = tmp_path / "dataset" / "sequences" / sequence
        (folder / "velodyne").mkdir(parents=True)
        for frame in range(n_frames):
            street(20, seed=int(sequence) * 10 + frame).tofile(folder / "velodyne" / f"{frame:06d}.bin")
            if sequence != "11":
                labels = np.resize(np.array(RAW, np.uint32), 20)
                write_labels(folder / "labels" / f"{frame:06d}.label", labels)
    return tmp_path


def test_standard_split():
    assert [len(names) for names in SEQUENCES.values()] == [10, 1, 11]
    everything = [name for names in SEQUENCES.values() for name in names]
    assert sorted(everything) == [f"{i:02d}" for i in range(22)]
    assert SEQUENCES["val"] == ("08",)


@pytest.mark.parametrize("below", ["", "dataset"])
def test_sweeps_of_a_split_in_order(root, below):
    data = SemanticKitti(root / below, "train")
    assert [frame.name for frame in data.frames] == ["00/000000", "00/000001", "09/000000"]
    sweep = data[1]
    np.testing.assert_array_equal(sweep.points, street(20, seed=1)[:, :3])
    np.testing.assert_array_equal(sweep.intensity, street(20, seed=1)[:, 3])
    np.testing.assert_array_equal(sweep.targets, np.resize(TARGETS, 20))
    np.testing.assert_array_equal(sweep.instances, np.resize((0, 3, 0, 0, 0), 20))
    assert (sweep.points.dtype, sweep.intensity.dtype, sweep.targets.dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )
    assert sweep.name == "00/000001"
    assert len(SemanticKitti(root, "val")) == 1


def test_missing_labels_are_none_for_test_and_an_error_elsewhere(root):
    assert SemanticKitti(root, "test")[0].targets is None
    # labels that are there are read, in the test split too
    assert SemanticKitti(root, "test", sequences=["08"])[0].targets is not None
    (root / "dataset/sequences/00/labels/000001.label").unlink()
    with pytest.raises(
        FormatError, match=r"1 of 3 sweeps of split 'train' have no label file \(first: 00/000001\)"
    ):
        SemanticKitti(root, "train")


def test_missing_sequences_are_logged_or_an_error(root, caplog):
    with caplog.at_level(logging.WARNING):
        SemanticKitti(root, "train")
    assert "goes without sequences 01, 02, 03, 04, 05, 06, 07, 10" in caplog.text
    with pytest.raises(FormatError, match="lacks the sequences 05; it has sequences 00, 08, 09, 11"):
        SemanticKitti(root, "train", sequences=["00", "05"])


def test_empty_split_names_folder_and_sequences(root):
    for folder in ("00", "09"):
        (root / "dataset/sequences" / folder / "velodyne").rename(root / folder)
    with pytest.raises(
        FormatError, match=r"under .*sequences: looked for sequences 00, 01, .*10 .* it has sequences 08"
    ):
        SemanticKitti(root, "train")
    (root / "dataset/sequences/08/velodyne").rename(root / "08")
    with pytest.raises(FormatError, match=r"sequences 11; .* without validation.* data\.val=null$"):
        SemanticKitti(root, "val")
    with pytest.raises(FormatError, match=r"it has sequences 11$"):
        SemanticKitti(root, "train")
    with pytest.raises(FormatError, match=r"is no SemanticKITTI root: neither .*sequences"):
        SemanticKitti(root / "dataset" / "sequences" / "08")
    with pytest.raises(RangeError, match="split must be one of train, val, test, got 'valid'"):
        SemanticKitti(root, "valid")


def test_the_summary_of_the_files_changes_with_names_and_sizes_alone(root, tmp_path):
    before = SemanticKitti(root, "train").file_digest()
    assert re.fullmatch("00/000000 to 09/000000, 3 in all, [0-9a-f]{16}", before)
    (root / "dataset").rename(tmp_path / "moved")
    folder = tmp_path / "moved/sequences/00"
    assert SemanticKitti(tmp_path / "moved", "train").file_digest() == before
    with (folder / "velodyne/000001.bin").open("ab") as file:
        file.write(bytes(16))
    longer = SemanticKitti(tmp_path / "moved", "train").file_digest()
    for kind, ending in (("velodyne", "bin"), ("labels", "label")):
        (folder / kind / f"000001.{ending}").rename(folder / kind / f"000002.{ending}")
    renamed = SemanticKitti(tmp_path / "moved", "train").file_digest()
    assert len({before, longer, renamed}) == 3


def test_hidden_files_are_no_sweeps(root):
    sequence = root / "dataset/sequences/00"
    (sequence / "velodyne/._000000.bin").write_bytes(b"Mac OS X")
    (sequence / "velodyne/._000002.bin").write_bytes(b"Mac OS X")
    (sequence / "labels/._000002.label").write_bytes(b"Mac OS X")
    data = SemanticKitti(root, "train")
    assert [frame.name for frame in data.frames] == ["00/000000", "00/000001", "09/000000"]


def test_labels_that_do_not_match_points(root):
    data = SemanticKitti(root, "val")
    write_labels(data.frames[0].labels, np.zeros(19, np.uint32))
    with pytest.raises(FormatError, match=r"000000\.label holds 19 .* there are 20 points"):
        data[0]


def test_unknown_label_names_the_file(root):
    data = SemanticKitti(root, "val")
    write_labels(data.frames[0].labels, np.full(20, 77, np.uint32))
    with pytest.raises(FormatError, match=r"08/labels/000000\.label.* id 77 \(20 points\)"):
        data[0]


def test_invalid_points_stay_in_their_rows(root):
    data = SemanticKitti(root, "val")
    rows = street(20, seed=80)
    rows[4, 1] = np.nan
    rows.tofile(data.frames[0].points)
    with pytest.warns(UserWarning, match=r"000000\.bin: 1 of 20 points are NaN or infinite"):
        sweep = data[0]
    assert len(sweep.points) == len(sweep.targets) == 20
    assert np.isnan(sweep.points[4, 1])


def test_intensity_beyond_one_is_refused(root):
    data = SemanticKitti(root, "val")
    rows = street(20, seed=80)
    rows[:, 3] *= 255
    rows.tofile(data.frames[0].points)
    with pytest.raises(FormatError, match="full scale is 1 here"):
        data[0]


def test_synthetic_root_has_its_own_label_map(root, monkeypatch):
    loaded = []
    from pcsparse.data.label_map import LabelMap

    real = LabelMap.load.__func__
    monkeypatch.setattr(
        LabelMap, "load", classmethod(lambda cls, name: (loaded.append(name), real(cls, name))[1])
    )
    SemanticKitti(root, "val")
    (root / "dataset" / "synthetic.json").write_text("{}")
    data = SemanticKitti(root, "val")
    assert loaded == ["semantickitti", "synthetic"]
    assert data[0].targets.max() == 14


def test_unfinished_synthetic_root_is_told(root, caplog):
    mark = root / "dataset" / "synthetic.json"
    mark.write_text('{"complete": false}')
    with caplog.at_level(logging.WARNING):
        assert len(SemanticKitti(root, "val")) == 1
    assert "dataset is unfinished" in caplog.text
    mark.write_text("[")
    with pytest.raises(FormatError, match=r"synthetic\.json is no record of the simulator"):
        SemanticKitti(root, "val")


def test_two_workers_give_what_one_process_gives(root):
    data = SemanticKitti(root, "train")
    loader = DataLoader(data, batch_size=1, num_workers=2, collate_fn=lambda sweeps: sweeps[0])
    for here, there in zip((data[i] for i in range(len(data))), loader, strict=True):
        assert here.name == there.name
        np.testing.assert_array_equal(here.points, there.points)
        np.testing.assert_array_equal(here.targets, there.targets)


def test_real_labelled_frame(real_data):
    data = SemanticKitti(real_data / "mmdet3d_tiny" / "semantickitti", "train")
    sweep = data[0]
    assert sweep.points.shape == (50, 3)
    assert {data.label_map.names[t] for t in sweep.targets[sweep.targets >= 0]} >= {"building", "vegetation"}


def rewrite(root, columns, scale):
    """The points of all sweeps with further columns and another scale of intensity."""
    for path in root.rglob("*.bin"):
        rows = np.fromfile(path, "<f4").reshape(-1, 4)
        rows[:, 3] *= scale
        more = np.full((len(rows), columns - 4), 5.0, "<f4")
        np.hstack([rows, more]).astype("<f4").tofile(path)


def test_files_of_other_sensors_are_read_as_the_caller_says(root):
    before = SemanticKitti(root, "train")
    points, intensity = before[1].points, before[1].intensity
    rewrite(root, 6, 255)
    data = SemanticKitti(root, "train", columns=6, intensity_scale=255)
    np.testing.assert_array_equal(data[1].points, points)
    np.testing.assert_allclose(data[1].intensity, intensity, rtol=1e-6)
    # a run is not continued with another reading
    plain = SemanticKitti(root, "train").file_digest()
    assert data.file_digest() == f"{plain}, 6 columns, intensity of 255"


@pytest.mark.parametrize(
    ("columns", "scale", "given"), [(5, 1.0, {}), (4, 255.0, {}), (4, 1.0, {"columns": 6})]
)
def test_a_wrong_reading_names_the_settings_of_the_data_set(root, columns, scale, given):
    rewrite(root, columns, scale)
    said = r"data\.columns=N\), and intensity_scale, 1 here \(data\.intensity_scale=S\)$"
    with pytest.raises(FormatError, match=rf"{given.get('columns', 4)} here \({said}"):
        SemanticKitti(root, "train", **given)[0]


@pytest.mark.parametrize(
    "given", [{"columns": 3}, {"intensity_scale": 0.0}, {"intensity_scale": float("inf")}]
)
def test_senseless_readings_are_refused(root, given):
    with pytest.raises(RangeError, match="columns must be at least 4"):
        SemanticKitti(root, "train", **given)


def test_a_label_map_may_be_given_or_named(root, tmp_path):
    rows = LabelMap.load("semantickitti").rows()
    rows["classes"] = rows["classes"][:2]
    rows["raw"] = [row | {"train": min(row["train"], 1)} for row in rows["raw"]]
    own = LabelMap.from_rows("things", **rows)
    data = SemanticKitti(root, "train", label_map=own)
    np.testing.assert_array_equal(data[0].targets, np.resize((0, 0, 0, -1, 0), 20))
    (tmp_path / "labels.toml").write_text(
        'label_set = "one"\nignore = 0\nraw = [{ id = 0, train = 0 }, '
        '{ id = 10, train = 1, name = "car", color = [1, 2, 3] }, { id = 40, train = 0 }, '
        "{ id = 70, train = 0 }, { id = 252, train = 0 }]\n"
        "classes = [{ train = 0, raw = 0 }, { train = 1, raw = 10 }]\n"
    )
    named = SemanticKitti(root, "train", label_map=str(tmp_path / "labels.toml"))
    assert named.label_map.names == ("car",)
    np.testing.assert_array_equal(named[0].targets, np.resize((0, -1, -1, -1, -1), 20))
    with pytest.raises(FormatError, match="is not a label map"):
        SemanticKitti(root, "train", label_map=tmp_path / "none.toml")
