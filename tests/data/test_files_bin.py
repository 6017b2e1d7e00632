"""Headerless sweeps: what is inferred, and what is refused with which words."""

import numpy as np
import pytest

from pcsparse.data.files import read_points
from pcsparse.errors import FormatError
from tests.data.rows import street


def _write(path, rows, dtype="<f4"):
    rows.astype(dtype).tofile(path)
    return path


# 60 rows: the file's size divides by 4, 5 and 6 values, so the width is told by the values alone
@pytest.mark.parametrize("columns", [4, 5, 6])
def test_width_is_inferred_from_the_values(tmp_path, columns):
    rows = street(60, columns=columns)
    cloud = read_points(_write(tmp_path / "a.bin", rows))
    np.testing.assert_array_equal(cloud.points, rows[:, :3])
    np.testing.assert_array_equal(cloud.intensity, rows[:, 3])
    assert cloud.n_file == 60
    assert f"read as {columns} columns of float32" in cloud.notes


def test_five_columns_bring_rings_and_six_say_what_was_not_read(tmp_path):
    rows = street(60, columns=6)
    five = read_points(_write(tmp_path / "a.bin", rows[:, :5]))
    np.testing.assert_array_equal(five.ring, rows[:, 4].astype(np.int32))
    six = read_points(_write(tmp_path / "b.bin", rows))
    assert six.ring is None
    assert "not read: column 4 (from 0), column 5 (from 0)" in six.notes


def test_nuscenes_is_five_columns_with_intensity_to_255(tmp_path):
    rows = street(60, columns=5)
    # a dark sweep: only the format can know that 1 is not full scale
    rows[:, 3] = np.arange(60) % 2
    cloud = read_points(_write(tmp_path / "a.pcd.bin", rows))
    np.testing.assert_array_equal(cloud.intensity, (np.arange(60) % 2 / 255).astype(np.float32))
    np.testing.assert_array_equal(cloud.ring, rows[:, 4].astype(np.int32))


def test_given_columns_are_used(tmp_path):
    rows = street(60, columns=3)
    cloud = read_points(_write(tmp_path / "a.bin", rows), columns=3)
    np.testing.assert_array_equal(cloud.points, rows)
    assert cloud.intensity is None


def test_zero_bytes(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(FormatError, match=r"a\.bin has 0 bytes.*fetch it again"):
        read_points(tmp_path / "a.bin")


def test_truncated_file_names_size_and_what_was_tried(tmp_path):
    path = _write(tmp_path / "a.bin", street(59))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError, match=r"a\.bin: 941 bytes .* 4 \(13 bytes.* 5 \(1 bytes.* 6 .*--columns"):
        read_points(path)


def test_given_width_that_does_not_divide(tmp_path):
    path = _write(tmp_path / "a.bin", street(7))
    with pytest.raises(FormatError, match=r"112 bytes .* tried columns 5 \(12 bytes left over\)"):
        read_points(path, columns=5)


@pytest.mark.parametrize("columns", [4, 5])
def test_wrong_width_that_divides_is_refused(tmp_path, columns):
    # Lyft's five columns read as four, and the reverse, give points and no error elsewhere
    path = _write(tmp_path / "a.bin", street(60, columns=columns))
    with pytest.raises(FormatError, match="intensity would lie in -"):
        read_points(path, columns=9 - columns)


@pytest.mark.parametrize("columns", [None, 4])
def test_float16_read_as_float32(tmp_path, columns):
    path = _write(tmp_path / "a.bin", street(60), "<f2")
    with pytest.raises(FormatError, match=r"a\.bin \(480 bytes\).*--dtype float16"):
        read_points(path, columns=columns)
    cloud = read_points(path, dtype="float16")
    np.testing.assert_array_equal(cloud.points, street(60)[:, :3].astype("<f2").astype(np.float32))


@pytest.mark.parametrize("digits", [None, 3])
def test_float64_read_as_float32(tmp_path, digits):
    rows = street(60).astype(np.float64)
    # widened float32 has mostly zero low words, decimal numbers have random ones
    rows = rows if digits is None else rows.round(digits)
    path = _write(tmp_path / "a.bin", rows, "<f8")
    with pytest.raises(FormatError, match=r"--dtype float64"):
        read_points(path)
    np.testing.assert_allclose(read_points(path, dtype="float64").points, rows[:, :3], rtol=1e-7)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("int32", np.arange(240, dtype="<i4") - 100),
        ("labels", np.full(240, 40, dtype="<u4")),
        ("bytes", np.tile(np.arange(1, 241, dtype="u1"), 4)),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bytes_of_something_else(tmp_path, name, values):
    values.tofile(tmp_path / f"{name}.bin")
    with pytest.raises(FormatError, match="is no sweep of float32"):
        read_points(tmp_path / f"{name}.bin")


def test_a_tie_is_not_guessed(tmp_path):
    # all values in 0 ... 1: four columns are as good as six
    path = _write(tmp_path / "a.bin", np.full((6, 4), 0.5, np.float32))
    with pytest.raises(FormatError, match=r"makes sense with 4 and 6 columns; say which: --columns 4"):
        read_points(path)
    assert len(read_points(path, columns=4)) == 6


def test_the_typical_reading_wins_and_the_other_is_told(tmp_path):
    # all coordinates positive: as six columns the intensities would be those and some y, odd but possible
    rows = np.abs(street(60)) + np.float32(0.125)
    rows[:, 3] = np.arange(60) / 60
    cloud = read_points(_write(tmp_path / "a.bin", rows))
    np.testing.assert_array_equal(cloud.points, rows[:, :3])
    assert "6 columns would fit less well; --columns decides" in cloud.notes


@pytest.mark.parametrize("dtype", ["float99", "int32", "x y"])
def test_a_dtype_that_is_none_is_named(tmp_path, dtype):
    path = tmp_path / "a.bin"
    _write(path, street(30))
    with pytest.raises(FormatError, match=rf"dtype must be one of .*float32.*, got {dtype}"):
        read_points(path, dtype=dtype)


def test_columns_and_dtype_together_are_believed(tmp_path):
    rows = street(60)
    rows[:, 0] += 5e5
    path = _write(tmp_path / "a.bin", rows)
    with pytest.raises(FormatError, match=r"coordinates would reach 5e\+05"):
        read_points(path, columns=4)
    cloud = read_points(path, columns=4, dtype="float32")
    assert cloud.origin[0] > 4e5
    assert any("float32, which resolves" in note for note in cloud.notes)


@pytest.mark.parametrize(
    ("options", "said"), [({"dtype": "int32"}, "float16"), ({"columns": 2}, "at least 3")]
)
def test_impossible_options(tmp_path, options, said):
    path = _write(tmp_path / "a.bin", street(6))
    with pytest.raises(FormatError, match=said):
        read_points(path, **options)


def test_mostly_nan_is_no_sweep_but_some_nan_is(tmp_path):
    rows = street(60)
    rows[:10, 0] = np.nan
    path = _write(tmp_path / "a.bin", rows)
    assert len(read_points(path, invalid="keep")) == 60
    rows[:50, 0] = np.nan
    with pytest.raises(FormatError, match="83 % of the points would be NaN"):
        read_points(_write(path, rows))


@pytest.mark.parametrize(
    ("file", "n", "columns", "rings"),
    [
        ("semantickitti/dataset/sequences/00/velodyne/000000.bin", 124_668, 4, None),
        ("kitti/training/velodyne/000000.bin", 115_384, 4, None),
        ("kitti/training/velodyne_reduced/000008.bin", 17_238, 4, None),
        ("mmdet3d_tiny/waymo/kitti_format/training/velodyne/0000000.bin", 800, 6, None),
        ("nuscenes/samples/LIDAR_TOP/*.pcd.bin", 34_688, None, 31),
    ],
)
def test_real_sweeps(real_data, file, n, columns, rings):
    cloud = read_points(next(real_data.glob(file)))
    assert len(cloud) == n
    assert columns is None or f"read as {columns} columns of float32" in cloud.notes
    assert (None if cloud.ring is None else cloud.ring.max()) == rings
    assert 0 <= cloud.intensity.min() < cloud.intensity.max() <= 1
    assert np.abs(cloud.points).max() < 250
