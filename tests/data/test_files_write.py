"""Points and predictions to files: what was read comes back, in every format and from one to another."""

import numpy as np
import pytest

from pcsparse.data import files_write
from pcsparse.data.files import EXTENSIONS, read_points, write_classes, write_points
from pcsparse.data.files_table import CLASS_COLUMN, CONFIDENCE_COLUMN, PointClasses, columns_of
from pcsparse.errors import DtypeError, FormatError, RangeError, ShapeError, UnsupportedError
from tests.data.rows import street
from tests.data.test_files import WRITERS, _ply

N = 60
# .txt is .xyz under another name
ENDINGS = [ending for ending in WRITERS if ending != "txt"]
UTM = np.array([637_179.25, 5_849_498.75, 431.5])


def classes_of(n=N, codes=True):
    rng = np.random.default_rng(3)
    return PointClasses(
        rng.choice([10, 40, 50, 70, 259, 65535], n).astype(np.uint16),
        rng.random(n).astype(np.float32),
        rng.choice([1, 2, 6, 11], n).astype(np.uint8) if codes else None,
    )


def table_in(path, columns=None):
    """All columns of a file by name."""
    if path.suffix == ".bin":
        from pcsparse.data.files_bin import bin_table

        table = bin_table(path, columns, None)
    else:
        table = files_write._FORMATS[path.suffix].read(path)
    return {name: table[name] for name in table.dtype.names}


def check_classes(path, classes, columns=None):
    found = table_in(path, columns)
    # plain rows have no names
    names = (CLASS_COLUMN, CONFIDENCE_COLUMN) if CLASS_COLUMN in found else list(found)[-2:]
    np.testing.assert_array_equal(found[names[0]], classes.raw_ids)
    # text has as many digits as give back a float32
    np.testing.assert_array_equal(found[names[1]].astype(np.float32), classes.confidence)
    return found


@pytest.fixture
def source(tmp_path):
    def make(ending, n=N):
        path = tmp_path / f"in.{ending}"
        WRITERS[ending][0](path, street(n))
        return path

    return make


@pytest.mark.parametrize("ending", ENDINGS)
def test_same_format_keeps_every_column_and_adds_two(tmp_path, source, ending):
    path, out, classes = source(ending), tmp_path / "deep" / f"out.{ending}", classes_of()
    before, cloud = table_in(path), read_points(path)
    write_classes(out, path, classes)
    found = check_classes(out, classes, 6)
    for name, values in before.items():
        if name != "classification":
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    options = {"columns": 6} if ending == "bin" else {}
    again = read_points(out, **options)
    np.testing.assert_array_equal(again.points, cloud.points)
    np.testing.assert_array_equal(again.intensity, cloud.intensity)
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e not in ("bin", "npy", "xyz")])
def test_classes_of_a_second_run_replace_the_first(tmp_path, source, ending):
    first, second = tmp_path / f"first.{ending}", tmp_path / f"second.{ending}"
    write_classes(first, source(ending), classes_of())
    other = PointClasses(np.full(N, 44, np.uint16), np.full(N, 0.5, np.float32))
    write_classes(second, first, other)
    assert list(check_classes(second, other)) == list(table_in(first))


@pytest.mark.parametrize("after", ENDINGS)
@pytest.mark.parametrize("before", ["bin", "npz", "pcd", "las", "e57", "feather", "csv"])
def test_from_one_format_to_another(tmp_path, source, before, after):
    path, out, classes = source(before), tmp_path / f"out.{after}", classes_of()
    cloud = read_points(path)
    write_classes(out, path, classes)
    check_classes(out, classes, 7 if before == "feather" and after == "bin" else 6)
    options = {"columns": 7 if before == "feather" else 6} if after == "bin" else {}
    again = read_points(out, **options)
    atol = 5.1e-5 if after in ("las", "laz") and before not in ("las", "laz") else 0
    np.testing.assert_allclose(again.world(), cloud.world(), rtol=0, atol=max(atol, 1e-6))
    np.testing.assert_allclose(again.intensity, cloud.intensity, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("before", ["npy", "ply"])
def test_big_endian_sources(tmp_path, before, ending):
    rows = street(N)
    if before == "npy":
        np.save(tmp_path / "in.npy", rows.astype(">f4"))
    else:
        _ply(tmp_path / "in.ply", rows, byte_order=">")
    write_classes(tmp_path / f"out.{ending}", tmp_path / f"in.{before}", classes_of())
    check_classes(tmp_path / f"out.{ending}", classes_of(), 6)
    again = read_points(tmp_path / f"out.{ending}", **({"columns": 6} if ending == "bin" else {}))
    atol = 5.1e-5 if ending in ("las", "laz") else 0
    np.testing.assert_allclose(again.points, rows[:, :3], rtol=0, atol=atol)
    np.testing.assert_allclose(again.intensity, rows[:, 3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e != "bin"])
def test_world_coordinates_are_not_rounded(tmp_path, ending):
    xyz = street(N)[:, :3].astype(np.float64) + UTM
    table = columns_of({axis: xyz[:, i] for i, axis in enumerate("xyz")})
    np.save(tmp_path / "in.npy", table)
    out = tmp_path / f"out.{ending}"
    write_classes(out, tmp_path / "in.npy", classes_of())
    found = check_classes(out, classes_of())
    got = np.stack([found[axis] for axis in "xyz"], axis=1)
    assert got.dtype == np.float64
    # LAS stores tenths of a millimetre, the others the numbers themselves
    np.testing.assert_allclose(got, xyz, rtol=0, atol=5.1e-5 if ending in ("las", "laz") else 0)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_cloud_is_written_and_read_again(tmp_path, source, ending):
    cloud = read_points(source("npy"))
    write_points(tmp_path / f"out.{ending}", cloud, classes_of())
    options = {"columns": 6} if ending == "bin" else {}
    again = read_points(tmp_path / f"out.{ending}", **options)
    atol = 5.1e-5 if ending in ("las", "laz") else 0
    np.testing.assert_allclose(again.points, cloud.points, rtol=0, atol=atol)
    np.testing.assert_allclose(again.intensity, cloud.intensity, rtol=0, atol=1e-5)
    write_points(tmp_path / f"bare.{ending}", cloud)
    assert len(read_points(tmp_path / f"bare.{ending}")) == N


def test_a_bin_takes_no_world_coordinates(tmp_path):
    np.save(tmp_path / "in.npy", street(N)[:, :3].astype(np.float64) + UTM)
    with pytest.raises(
        UnsupportedError,
        match=r"out\.bin: coordinates reach 5849\d+ m, .* float32 resolves 0\.5 m there; write",
    ):
        write_classes(tmp_path / "out.bin", tmp_path / "in.npy", classes_of())
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize("ending", ["npy", "npz", "pcd", "ply", "las", "laz", "e57", "feather", "csv"])
def test_no_points(tmp_path, ending):
    np.save(tmp_path / "in.npy", street(0))
    write_classes(tmp_path / f"out.{ending}", tmp_path / "in.npy", classes_of(0))
    assert len(read_points(tmp_path / f"out.{ending}")) == 0


@pytest.mark.parametrize("ending", ["bin", "npy", "npz", "pcd", "ply", "e57", "feather", "csv"])
def test_points_that_are_not_finite_stay(tmp_path, ending):
    rows = street(N)
    rows[7, 0] = rows[30, 2] = np.nan
    np.save(tmp_path / "in.npy", rows)
    write_classes(tmp_path / f"out.{ending}", tmp_path / "in.npy", classes_of())
    options = {"columns": 6} if ending == "bin" else {}
    cloud = read_points(tmp_path / f"out.{ending}", invalid="keep", **options)
    assert np.flatnonzero(~np.isfinite(cloud.points).all(axis=1)).tolist() == [7, 30]
    check_classes(tmp_path / f"out.{ending}", classes_of(), 6)


def test_las_says_what_it_cannot_hold(tmp_path):
    pytest.importorskip("laspy")
    rows = street(N)
    rows[7, 0] = np.nan
    np.save(tmp_path / "in.npy", rows)
    notes = write_classes(tmp_path / "out.las", tmp_path / "in.npy", classes_of())
    assert notes == ("1 of 60 points left out: LAS cannot hold NaN or infinite coordinates",)
    assert len(read_points(tmp_path / "out.las")) == N - 1


@pytest.mark.parametrize("ending", ["las", "laz", "e57"])
@pytest.mark.parametrize("bad", [(np.nan,), (np.inf,), (-np.inf, np.nan)])
@pytest.mark.parametrize("high", [1.0, 200.0, 0.0035])
def test_one_intensity_that_is_not_finite_leaves_the_others(tmp_path, ending, bad, high):
    rows = street(N)
    rows[:, 3] = np.linspace(0, high, N)
    whole = rows[:, 3].copy()
    rows[7 : 7 + len(bad), 3] = bad
    np.save(tmp_path / "in.npy", rows)
    notes = write_classes(tmp_path / f"out.{ending}", tmp_path / "in.npy", classes_of())
    after = read_points(tmp_path / f"out.{ending}")
    whole[7 : 7 + len(bad)] = 0
    atol = 0.5 / 255 if high != 1 and ending != "e57" else 1e-5
    expected = whole / (255 if high > 1 else 1)
    np.testing.assert_allclose(after.intensity, expected, rtol=0, atol=atol)
    said = f"intensity of {len(bad)} points is NaN or infinite: "
    if ending == "e57":
        assert notes == (f"{said}marked invalid",)
        assert f"intensity of {len(bad)} points is marked invalid: 0 is used" in after.notes
        return
    assert notes[0] == f"{said}stored as 0"
    found = table_in(tmp_path / f"out.{ending}")
    if high < 0.01:
        assert notes[1].endswith("whole in the extra bytes file_intensity")
        np.testing.assert_array_equal(found["file_intensity"], rows[:, 3])
    else:
        assert len(notes) == 1
        assert "file_intensity" not in found


def test_no_intensity_is_finite(tmp_path):
    pytest.importorskip("laspy")
    rows = street(N)
    rows[:, 3] = np.nan
    np.save(tmp_path / "in.npy", rows)
    notes = write_classes(tmp_path / "out.las", tmp_path / "in.npy", classes_of())
    assert notes == ("intensity of 60 points is NaN or infinite: stored as 0",)
    assert not read_points(tmp_path / "out.las").intensity.any()


@pytest.mark.parametrize("ending", ["las", "laz", "e57"])
@pytest.mark.parametrize("high", [0.0, 1.0, 1.5, 2.0, 0.0035])
def test_floats_near_one_are_on_the_scale_that_the_reader_takes(tmp_path, ending, high):
    rows = street(N)
    rows[:, 3] = np.linspace(0, high, N)
    np.save(tmp_path / "in.npy", rows)
    before = read_points(tmp_path / "in.npy")
    notes = write_classes(tmp_path / f"out.{ending}", tmp_path / "in.npy", classes_of())
    after = read_points(tmp_path / f"out.{ending}")
    # a dark file has 8 bits in LAS, as readers take it
    atol = 0.5 / 255 if high < 0.01 and ending != "e57" else 1e-5
    np.testing.assert_allclose(after.intensity, before.intensity, rtol=0, atol=atol)
    if ending != "e57" and high > 1:
        n_bright = int((rows[:, 3] > 1).sum())
        assert notes == (f"{n_bright} intensities above 1 stored as 1",)
    elif ending != "e57" and 0 < high < 0.01:
        n_dark = int(((rows[:, 3] > 0) & (rows[:, 3] < 0.5 / 255)).sum())
        assert notes == (
            "intensity reaches 0.0035 of 1 only: stored as 0-255, which is how it is read; "
            f"{n_dark} of {N - 1} values above 0 became 0; whole in the extra bytes file_intensity",
        )
        stored = table_in(tmp_path / f"out.{ending}")
        np.testing.assert_array_equal(stored["intensity"], np.round(rows[:, 3] * 255))
        np.testing.assert_array_equal(stored["file_intensity"], rows[:, 3])
    else:
        assert notes == ()


def test_e57_says_that_floats_near_one_are_0_to_1(tmp_path):
    pye57 = pytest.importorskip("pye57")
    rows = street(N)
    rows[:, 3] = np.linspace(0, 1.5, N)
    np.save(tmp_path / "in.npy", rows)
    write_classes(tmp_path / "out.e57", tmp_path / "in.npy", classes_of())
    with pye57.E57(str(tmp_path / "out.e57")) as file:
        assert file.get_header(0).intensityMaximum == 1.0


def test_a_new_e57_names_its_scan_after_the_file(tmp_path):
    pye57 = pytest.importorskip("pye57")
    np.save(tmp_path / "in.npy", street(N))
    write_classes(tmp_path / "town.e57", tmp_path / "in.npy", classes_of())
    with pye57.E57(str(tmp_path / "town.e57")) as file:
        assert file.get_header(0)["name"].value() == "town"


def test_a_bin_takes_infinite_coordinates(tmp_path):
    rows = street(N)
    rows[7, 0], rows[30, 2] = np.inf, -np.inf
    np.save(tmp_path / "in.npy", rows)
    write_classes(tmp_path / "out.bin", tmp_path / "in.npy", classes_of())
    np.testing.assert_array_equal(table_in(tmp_path / "out.bin", 6)["x"], rows[:, 0])
    check_classes(tmp_path / "out.bin", classes_of(), 6)


def test_classes_are_checked(tmp_path, source):
    with pytest.raises(DtypeError, match="raw_ids must be uint16, got uint32"):
        PointClasses(np.zeros(3, np.uint32))
    with pytest.raises(ShapeError, match=r"confidence must have shape \(3,\), got \(4,\)"):
        PointClasses(np.zeros(3, np.uint16), np.zeros(4, np.float32))
    for ending in ENDINGS:
        with pytest.raises(RangeError, match=r"59 rows of classes do not fit .* 60 points"):
            write_classes(tmp_path / f"out.{ending}", source(ending), classes_of(N - 1))
    with pytest.raises(RangeError, match=r"in\.npy would be overwritten by its own classes"):
        write_classes(tmp_path / "in.npy", tmp_path / "in.npy", classes_of())
    with pytest.raises(FormatError, match=r"unknown ending '\.shp'; known: \.bin"):
        write_classes(tmp_path / "out.shp", tmp_path / "in.npy", classes_of())


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, source, monkeypatch, ending):
    path, out = source(ending), tmp_path / "deep" / f"out.{ending}"
    write_classes(out, path, classes_of())
    old = out.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr("pcsparse.whole_file.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_classes(out, path, classes_of(codes=False))
    assert out.read_bytes() == old
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_every_format_that_is_read_is_written():
    assert set(files_write.WRITABLE) == set(EXTENSIONS)
