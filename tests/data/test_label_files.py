"""`.label` files: as many as points, or an error; written whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from pcsparse.data.files import read_labels, write_labels
from pcsparse.errors import DtypeError, FormatError, ShapeError


def test_round_trip_makes_the_folder(tmp_path):
    raw = np.array([10 | 9 << 16, 0, 2**32 - 1], np.uint32)
    write_labels(tmp_path / "deep" / "a.label", raw)
    np.testing.assert_array_equal(read_labels(tmp_path / "deep" / "a.label", 3), raw)
    assert (tmp_path / "deep" / "a.label").read_bytes() == raw.astype("<u4").tobytes()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.label"]


def test_no_points_no_labels(tmp_path):
    write_labels(tmp_path / "a.label", np.zeros(0, np.uint32))
    assert read_labels(tmp_path / "a.label", 0).shape == (0,)


@pytest.mark.parametrize("n", [99, 101])
def test_another_number_than_points_is_an_error(tmp_path, n):
    write_labels(tmp_path / "a.label", np.zeros(n, np.uint32))
    with pytest.raises(FormatError, match=rf"a\.label holds {n} uint32 labels .* there are 100 points"):
        read_labels(tmp_path / "a.label", 100)


def test_truncated_and_missing(tmp_path):
    (tmp_path / "a.label").write_bytes(bytes(398))
    with pytest.raises(FormatError, match=r"holds 99\.5 uint32 labels \(398 bytes\)"):
        read_labels(tmp_path / "a.label", 100)
    (tmp_path / "a.label").write_bytes(bytes(100))
    with pytest.raises(FormatError, match="one byte a point"):
        read_labels(tmp_path / "a.label", 100)
    with pytest.raises(FormatError, match=r"b\.label does not exist"):
        read_labels(tmp_path / "b.label", 100)


def test_only_raw_ids_are_written(tmp_path):
    with pytest.raises(DtypeError, match=r"must be uint32 raw ids, got int64; use LabelMap\.to_raw"):
        write_labels(tmp_path / "a.label", np.zeros(3, np.int64))
    with pytest.raises(ShapeError, match=r"\(3, 1\)"):
        write_labels(tmp_path / "a.label", np.zeros((3, 1), np.uint32))
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    old = np.full(3, 40, np.uint32)
    write_labels(tmp_path / "a.label", old)

    def die(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(OSError, match="disk full"):
        write_labels(tmp_path / "a.label", np.zeros(3, np.uint32))
    assert [p.name for p in tmp_path.iterdir()] == ["a.label"]
    np.testing.assert_array_equal(read_labels(tmp_path / "a.label", 3), old)
