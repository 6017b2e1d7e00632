"""Point files of every format: the same points come out; what is broken is named."""

import builtins
import os
import struct

import numpy as np
import pytest

from pcsparse.data import files_list
from pcsparse.data.files import _READERS as readers
from pcsparse.data.files import EXTENSIONS, list_point_files, read_points, write_classes
from pcsparse.data.files_list import list_sources
from pcsparse.data.files_table import PointClasses
from pcsparse.errors import FormatError, UnsupportedError
from tests.data.rows import street


def _bin(path, rows):
    rows.tofile(path)


def _npy(path, rows):
    np.save(path, rows)


def _npz(path, rows):
    np.savez(path, points=rows[:, :3], intensity=rows[:, 3], other=np.zeros(3))


def _pcd(path, rows, encoding="binary_compressed"):
    pypcd4 = pytest.importorskip("pypcd4")
    pypcd4.PointCloud.from_xyzi_points(rows).save(path, encoding=pypcd4.Encoding(encoding))


def _ply(path, rows, byte_order="<"):
    plyfile = pytest.importorskip("plyfile")
    dtype = [(name, "f4") for name in ("x", "y", "z", "scalar_Intensity")]
    table = np.array([tuple(row) for row in rows], dtype=dtype)
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")], byte_order=byte_order).write(str(path))


def _las(path, rows):
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales, header.offsets = np.full(3, 1e-4), np.zeros(3)
    las = laspy.LasData(header)
    las.xyz = rows[:, :3].astype(np.float64)
    las.intensity = np.round(rows[:, 3] * 65535).astype(np.uint16)
    las.write(str(path))


def _e57(path, rows):
    pye57 = pytest.importorskip("pye57")
    columns = {f"cartesian{axis}": rows[:, i].astype(np.float64) for i, axis in enumerate("XYZ")}
    columns["intensity"] = rows[:, 3].astype(np.float64)
    with pye57.E57(str(path), mode="w") as file:
        file.write_scan_raw(columns)


def _feather(path, rows):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather

    columns = {axis: pa.array(rows[:, i].astype(np.float16)) for i, axis in enumerate("xyz")}
    columns["intensity"] = pa.array(np.round(rows[:, 3] * 255).astype(np.uint8))
    columns["laser_number"] = pa.array((np.arange(len(rows)) % 64).astype(np.uint8))
    feather.write_feather(pa.table(columns), str(path))


def _csv(path, rows):
    np.savetxt(path, rows, "%.9g", delimiter=",", header="x,y,z,intensity", comments="")


def _xyz(path, rows):
    np.savetxt(path, rows, "%.9g")


# how exactly the format can hold metres
WRITERS = {
    "bin": (_bin, 0.0),
    "npy": (_npy, 0.0),
    "npz": (_npz, 0.0),
    "pcd": (_pcd, 0.0),
    "ply": (_ply, 0.0),
    "las": (_las, 1e-4),
    "laz": (_las, 1e-4),
    "e57": (_e57, 1e-4),
    "feather": (_feather, 0.05),
    "csv": (_csv, 0.0),
    "xyz": (_xyz, 0.0),
    "txt": (_xyz, 0.0),
}
# cut between two rows, they cannot be told from shorter ones
UNCOUNTED = ("bin", "csv", "xyz", "txt")


@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_points(tmp_path, ending):
    write, tolerance = WRITERS[ending]
    rows = street(60)
    # full scale must occur where the format stores integers
    rows[0, 3] = 1.0
    path = tmp_path / f"sweep.{ending}"
    write(path, rows)
    cloud = read_points(path)
    assert cloud.points.dtype == np.float32
    assert cloud.intensity.dtype == np.float32
    np.testing.assert_allclose(cloud.points, rows[:, :3], rtol=0, atol=tolerance)
    np.testing.assert_allclose(cloud.intensity, rows[:, 3], rtol=0, atol=1 / 255)
    np.testing.assert_array_equal(cloud.kept, np.arange(60))
    assert (cloud.n_file, cloud.source) == (60, path)
    assert not cloud.origin.any()


@pytest.mark.parametrize("ending", [e for e in WRITERS if e not in UNCOUNTED])
def test_truncated_and_empty_files_of_every_format(tmp_path, ending):
    write, _ = WRITERS[ending]
    path = tmp_path / f"sweep.{ending}"
    write(path, street(4000))
    whole = path.read_bytes()
    for size in (len(whole) // 2, 40):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=rf"sweep\.{ending}.*({size} bytes|truncated)"):
            read_points(path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match=r"has 0 bytes.*fetch it again"):
        read_points(path)


@pytest.mark.parametrize("ending", ["npy", "npz", "pcd", "ply", "las", "feather"])
def test_empty_clouds_where_the_format_can_say_so(tmp_path, ending):
    path = tmp_path / f"sweep.{ending}"
    WRITERS[ending][0](path, street(0))
    cloud = read_points(path)
    assert cloud.points.shape == (0, 3)
    assert cloud.intensity.shape == (0,)
    assert cloud.n_file == 0
    assert cloud.to_file_rows(np.zeros(0, np.uint32), 0).shape == (0,)


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize("n", [1, 60])
def test_pcd_encodings(tmp_path, encoding, n):
    _pcd(tmp_path / "a.pcd", street(n), encoding)
    np.testing.assert_allclose(read_points(tmp_path / "a.pcd").points, street(n)[:, :3], atol=1e-5)


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_pcd_cut_between_two_points(tmp_path, encoding):
    path = tmp_path / "a.pcd"
    _pcd(path, street(60), encoding)
    whole = path.read_bytes()
    cut = whole[: whole.rindex(b"\n", 0, -1) + 1] if encoding == "ascii" else whole[:-16]
    path.write_bytes(cut)
    with pytest.raises(FormatError, match="header promises 60 points, 59 are there; the file is truncated"):
        read_points(path)


def test_las_cut_between_two_points(tmp_path):
    _las(tmp_path / "a.las", street(60))
    # a point of format 3 has 34 bytes
    (tmp_path / "a.las").write_bytes((tmp_path / "a.las").read_bytes()[:-34])
    with pytest.raises(FormatError, match="header promises 60 points, 59 are there; the file is truncated"):
        read_points(tmp_path / "a.las")


def test_broken_pcd_header(tmp_path):
    (tmp_path / "a.pcd").write_text("# .PCD v.7 - Point Cloud Data file format\nVERSION .7\nFIEL")
    with pytest.raises(FormatError, match=r"a\.pcd \(57 bytes\) is no readable PCD.*check the header"):
        read_points(tmp_path / "a.pcd")


def test_big_endian_ply_with_faces(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    _ply(tmp_path / "a.ply", street(60), ">")
    np.testing.assert_array_equal(read_points(tmp_path / "a.ply").points, street(60)[:, :3])
    faces = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
    plyfile.PlyData([plyfile.PlyElement.describe(faces, "face")]).write(str(tmp_path / "b.ply"))
    with pytest.raises(FormatError, match=r"elements \['face'\]; points are read from 'vertex'"):
        read_points(tmp_path / "b.ply")


def test_e57_scans_are_moved_by_their_pose_and_joined(tmp_path):
    pye57 = pytest.importorskip("pye57")
    rows = street(10).astype(np.float64)
    columns = {f"cartesian{axis}": rows[:, i] for i, axis in enumerate("XYZ")}
    columns["cartesianInvalidState"] = (np.arange(10) == 4).astype(np.int8)
    half = np.sqrt(0.5)
    with pye57.E57(str(tmp_path / "a.e57"), mode="w") as file:
        # a quarter turn about z, then a shift
        file.write_scan_raw(
            columns, rotation=np.array([half, 0, 0, half]), translation=np.array([100.0, 0, 0])
        )
        file.write_scan_raw(columns)
    cloud = read_points(tmp_path / "a.e57", invalid="keep")
    turned = np.stack([100 - rows[:, 1], rows[:, 0], rows[:, 2]], axis=1)
    expected = np.concatenate([turned, rows[:, :3]])
    expected[[4, 14]] = np.nan
    np.testing.assert_allclose(cloud.points, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("tops", "scales"),
    [
        ((255, 200), (255, 255)),
        ((200, 255), (255, 255)),
        ((255, 4095), (255, 4095)),
        ((1, 255), (1, 255)),
        ((200, 0), (255, 255)),
        # dark and empty scans, and those that are on 0-1 already, say nothing of the others
        ((4095, 0), (4095, 1)),
        ((255, 0.93), (255, 1)),
    ],
)
def test_intensity_of_e57_scans_is_on_one_scale(tmp_path, tops, scales):
    pye57 = pytest.importorskip("pye57")
    rows = street(10).astype(np.float64)
    columns = {f"cartesian{axis}": rows[:, i] for i, axis in enumerate("XYZ")}
    steps = np.linspace(0, 1, 10)
    with pye57.E57(str(tmp_path / "a.e57"), mode="w") as file:
        for top in tops:
            # the library writes the limits that occur
            file.write_scan_raw({**columns, "intensity": top * steps})
    cloud = read_points(tmp_path / "a.e57")
    expected = np.concatenate([top / scale * steps for top, scale in zip(tops, scales, strict=True)])
    np.testing.assert_allclose(cloud.intensity, expected, rtol=1e-6)
    mixed = (255 in tops) and (200 in tops)
    said = "intensity limits left unused: those of 1 of 2 scans are no full scale"
    assert (said in cloud.notes) == mixed
    write_classes(tmp_path / "a.npy", tmp_path / "a.e57", PointClasses(np.zeros(20, np.uint16)))
    stored = np.load(tmp_path / "a.npy")["intensity"]
    whole = np.concatenate([top * steps for top in tops])
    np.testing.assert_allclose(stored, whole if 200 in tops else expected, rtol=1e-6)


def test_a_signed_e57_scan_beside_others(tmp_path):
    pye57 = pytest.importorskip("pye57")
    rows = street(10).astype(np.float64)
    columns = {f"cartesian{axis}": rows[:, i] for i, axis in enumerate("XYZ")}
    steps = np.linspace(0, 1, 10)
    with pye57.E57(str(tmp_path / "a.e57"), mode="w") as file:
        file.write_scan_raw({**columns, "intensity": -2047 + 4095 * steps})
        file.write_scan_raw({**columns, "intensity": 0 * steps})
    cloud = read_points(tmp_path / "a.e57")
    np.testing.assert_allclose(cloud.intensity, np.concatenate([steps, 0 * steps]), atol=1e-6)
    with pye57.E57(str(tmp_path / "b.e57"), mode="w") as file:
        file.write_scan_raw({**columns, "intensity": -2047 + 4095 * steps})
        file.write_scan_raw({**columns, "intensity": 200 * steps})
    # the scale of the second is unknown; but it is read
    assert read_points(tmp_path / "b.e57").intensity.min() >= 0


def test_structured_array_and_pickles(tmp_path):
    rows = street(20)
    table = np.empty(20, dtype=[("X", "f8"), ("Y", "f8"), ("Z", "f8"), ("Remission", "u1"), ("t", "i8")])
    for i, name in enumerate("XYZ"):
        table[name] = rows[:, i]
    table["Remission"], table["t"] = np.arange(20), 0
    np.save(tmp_path / "a.npy", table)
    cloud = read_points(tmp_path / "a.npy")
    np.testing.assert_array_equal(cloud.points, rows[:, :3])
    np.testing.assert_allclose(cloud.intensity, np.arange(20) / 255, rtol=1e-6)
    assert "not read: t" in cloud.notes

    np.save(tmp_path / "b.npy", np.array([{"points": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="pickled objects are never loaded"):
        read_points(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 50)), None),
        (np.zeros((50, 2)), r"shape \(50, 2\)"),
        (np.zeros(50), r"shape \(50,\)"),
        (np.zeros((50, 4), complex), "complex128"),
        (np.zeros(3, dtype=[("x", "f4"), ("y", "f4")]), r"columns \['x', 'y'\]; x, y and z"),
    ],
    ids=["wide", "two columns", "flat", "complex", "no z"],
)
def test_arrays_that_are_no_points(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array)
    if said is None:
        # 50 columns are odd, but they are columns
        assert len(read_points(tmp_path / "a.npy")) == 4
        return
    with pytest.raises(FormatError, match=said):
        read_points(tmp_path / "a.npy")


def test_transposed_array_is_told(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    with pytest.raises(FormatError, match="save its transpose"):
        read_points(tmp_path / "a.npy")


def test_npz_of_many_arrays_needs_a_name(tmp_path):
    np.savez(tmp_path / "a.npz", left=street(), right=street())
    with pytest.raises(FormatError, match=r"holds arrays \['left', 'right'\]; none is named points"):
        read_points(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", anything=street())
    assert len(read_points(tmp_path / "b.npz")) == 60


@pytest.mark.parametrize("given", ["columns", "dtype"])
def test_bin_options_do_not_apply_elsewhere(tmp_path, given):
    np.save(tmp_path / "a.npy", street())
    with pytest.raises(FormatError, match=r"for \.bin files"):
        read_points(tmp_path / "a.npy", **{given: 4 if given == "columns" else "float32"})


def test_unknown_ending_missing_file_and_folder(tmp_path):
    (tmp_path / "a.shp").write_text("0 0 0")
    with pytest.raises(FormatError, match=r"unknown ending '\.shp'; known: \.bin \.npy .*\.e57"):
        read_points(tmp_path / "a.shp")
    with pytest.raises(FormatError, match=rf"b\.bin does not exist \(looked in {tmp_path}\)"):
        read_points(tmp_path / "b.bin")
    with pytest.raises(FormatError, match="is a folder"):
        read_points(tmp_path)


@pytest.mark.parametrize(
    ("ending", "module"),
    [("pcd", "pypcd4"), ("ply", "plyfile"), ("las", "laspy"), ("e57", "pye57"), ("feather", "pyarrow")],
)
def test_missing_library_names_the_extra(tmp_path, monkeypatch, ending, module):
    WRITERS[ending][0](tmp_path / f"a.{ending}", street())
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == module:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", lambda name: refuse(name))
    with pytest.raises(UnsupportedError, match=r"pcsparse\[io\]"):
        read_points(tmp_path / f"a.{ending}")


def test_corrupt_laz_body(tmp_path):
    _las(tmp_path / "a.laz", street(4000))
    data = bytearray((tmp_path / "a.laz").read_bytes())
    (offset,) = struct.unpack_from("<I", data, 96)
    del data[offset + 20 :]
    (tmp_path / "a.laz").write_bytes(data)
    with pytest.raises(FormatError, match="no readable LAS"):
        read_points(tmp_path / "a.laz")


class TestListPointFiles:
    def test_file_folder_and_pattern(self, tmp_path):
        for name in ("b.bin", "a.laz", "notes.txt", ".hidden.bin", "a.label"):
            (tmp_path / name).touch()
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "deep" / "er" / "c.npy").touch()
        assert [p.name for p in list_point_files(tmp_path)] == ["a.laz", "b.bin"]
        assert list_point_files(str(tmp_path / "notes.txt")) == [tmp_path / "notes.txt"]
        assert [p.name for p in list_point_files(tmp_path / "*.bin")] == ["b.bin"]
        assert [p.name for p in list_point_files(tmp_path / "**" / "*")] == ["a.laz", "b.bin", "c.npy"]

    def test_nothing_found_says_where_there_is_something(self, tmp_path):
        (tmp_path / "velodyne").mkdir()
        with pytest.raises(FormatError, match=r"no point file in .* \(known: \.bin"):
            list_point_files(tmp_path)
        (tmp_path / "velodyne" / "0.bin").touch()
        with pytest.raises(FormatError, match=r"there are some in .*velodyne: name one, or use the pattern"):
            list_point_files(tmp_path)
        with pytest.raises(FormatError, match="matches no point file"):
            list_point_files(tmp_path / "*.laz")
        with pytest.raises(FormatError, match="does not exist"):
            list_point_files(tmp_path / "nowhere")

    def test_what_lies_in_sub_folders_of_a_named_one_is_told(self, tmp_path):
        for name in ("b.bin", "deep/c.npy", "deep/er/d.ply", "deep/boxes.csv", ".venv/e.npz", "poses/p.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
        files, notes = list_sources([tmp_path, tmp_path / "b.bin"])
        assert [p.name for p in files] == ["b.bin"]
        assert notes == (
            f"{tmp_path}: its sub folders are left out, and there are point files in {tmp_path}/deep, "
            f"{tmp_path}/deep/er; name them, or use the pattern '{tmp_path}/**/*'",
        )
        assert [p.name for p in list_point_files(f"{tmp_path}/deep/**/*")] == ["c.npy", "d.ply"]
        # nothing is left out where they are named too, or are outputs
        files, notes = list_sources([tmp_path, tmp_path / "deep", tmp_path / "deep" / "er"])
        assert ([p.name for p in files], notes) == (["b.bin", "c.npy", "d.ply"], ())
        assert list_sources([tmp_path], written=tmp_path / "deep")[1] == ()
        assert list_sources([tmp_path / "deep" / "er"])[1] == ()

    def test_few_sub_folders_are_shown_and_not_all_of_a_tree_is_looked_at(self, tmp_path, monkeypatch):
        (tmp_path / "b.bin").touch()
        for i in range(9):
            (tmp_path / f"d{i}").mkdir()
            (tmp_path / f"d{i}" / "c.npy").touch()
        (note,) = list_sources([tmp_path])[1]
        assert f"in {tmp_path}/d0, {tmp_path}/d1, {tmp_path}/d2 and more; name them" in note
        looked = []
        scandir = os.scandir
        monkeypatch.setattr("os.scandir", lambda path: looked.append(path) or scandir(path))
        monkeypatch.setattr(files_list, "_LOOKS", 13)
        (note,) = list_sources([tmp_path])[1]
        assert f"in {tmp_path}/d0; name them" in note
        assert len(looked) < 9

    def test_sub_folders_that_may_not_be_looked_into_stop_nothing(self, tmp_path, monkeypatch):
        (tmp_path / "b.bin").touch()
        (tmp_path / "closed").mkdir()
        scandir = os.scandir

        def closed(path):
            if str(path).endswith("closed"):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr("os.scandir", closed)
        assert list_sources([tmp_path]) == ([tmp_path / "b.bin"], ())

    def test_every_ending_that_is_listed_can_be_read(self):
        assert (".bin", *readers) == EXTENSIONS

    def test_brackets_in_a_name_are_no_pattern_if_it_exists(self, tmp_path):
        (tmp_path / "a[1].bin").touch()
        assert list_point_files(tmp_path / "a[1].bin") == [tmp_path / "a[1].bin"]


def test_every_known_ending_is_tested():
    assert {f".{ending}" for ending in WRITERS} == set(EXTENSIONS)


@pytest.mark.parametrize(
    ("file", "n"),
    [
        ("las/autzen_trim.laz", 110_000),
        ("las/simple.copc.laz", 1_065),
        ("las/1_4_w_evlr.las", 1_000),
        ("pcd/binary_compressed_organized.pcd", 8),
        ("pcd/open3d_ml_fragment.pcd", 113_662),
        ("pcd/ascii_with_empty_points.pcd", 0),
        ("e57/translationWithoutRotation.e57", 4),
        ("benchmark-pc.npz", 198_130),
        ("av2/sensor/val/*/sensors/lidar/315966265259836000.feather", 99_229),
    ],
)
def test_real_files(real_data, file, n):
    cloud = read_points(next(real_data.glob(file)))
    assert (len(cloud), cloud.n_file) == (n, n)
    assert cloud.intensity is None or n == 0 or cloud.intensity.max() <= 1


@pytest.mark.parametrize("file", ["pcd/ascii_empty.pcd", "pcd/ascii_invalid_header.pcd"])
def test_real_broken_files(real_data, file):
    with pytest.raises(FormatError, match="fetch it again"):
        read_points(real_data / file)


def test_an_array_of_an_archive_whose_name_has_a_slash_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", **{"lidar/points": np.zeros((9, 2), np.float32)})
    with pytest.raises(FormatError, match=r"a\.npz\[lidar/points\] has shape \(9, 2\)"):
        read_points(tmp_path / "a.npz")
