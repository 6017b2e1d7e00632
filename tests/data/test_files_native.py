"""What only one format has stays when classes are written into it: scales, poses, headers, other elements."""

import struct
from functools import partial

import numpy as np
import pytest

from pcsparse.data import files_e57_copy, files_las
from pcsparse.data.files import read_points, write_classes
from pcsparse.data.files_e57 import e57_table
from pcsparse.data.files_table import CLASS_COLUMN, PointClasses
from pcsparse.errors import FormatError, RangeError
from tests.data.rows import street
from tests.data.test_files import WRITERS
from tests.data.test_files_write import UTM, N, check_classes, classes_of


def _survey(path, point_format, scales=(0.01, 0.01, 0.001)):
    """A LAS in UTM, on odd scales, with extra bytes, a VLR and a classification of its own."""
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=point_format, version="1.4")
    header.scales, header.offsets = np.array(scales), np.array([600_000.5, 5_800_000.0, -3.25])
    header.add_extra_dim(laspy.ExtraBytesParams("amplitude", np.float32))
    header.add_extra_dim(laspy.ExtraBytesParams("rgbn", "3u1"))
    header.vlrs.append(laspy.VLR("someone", 7, "a note", b"0123456789"))
    las = laspy.LasData(header)
    las.xyz = street(N)[:, :3].astype(np.float64) + UTM
    las.intensity = np.arange(N, dtype=np.uint16) * 1000
    las.classification = np.arange(N) % 5
    las.gps_time = np.linspace(0, 1, N)
    las.amplitude = np.linspace(-1, 1, N)
    las.rgbn = np.arange(3 * N).reshape(N, 3) % 256
    las.write(str(path))
    return laspy.read(path)


@pytest.mark.parametrize("point_format", [1, 3, 6, 7])
@pytest.mark.parametrize(("before", "after"), [("las", "las"), ("las", "laz"), ("laz", "las")])
def test_las_is_kept_to_the_bit(tmp_path, point_format, before, after):
    old = _survey(tmp_path / f"in.{before}", point_format)
    classes, out = classes_of(), tmp_path / f"out.{after}"
    write_classes(out, tmp_path / f"in.{before}", classes)
    new = pytest.importorskip("laspy").read(out)
    assert new.header.are_points_compressed == (after == "laz")
    assert new.header.point_format.id == point_format
    np.testing.assert_array_equal(new.header.scales, old.header.scales)
    np.testing.assert_array_equal(new.header.offsets, old.header.offsets)
    for name in old.point_format.dimension_names:
        if name != "classification":
            np.testing.assert_array_equal(np.asarray(new[name]), np.asarray(old[name]), err_msg=name)
    np.testing.assert_array_equal(new.classification, classes.las_codes)
    np.testing.assert_array_equal(new.classification_before, old.classification)
    np.testing.assert_array_equal(new.header.maxs, old.header.maxs)
    assert [v.record_data for v in new.header.vlrs if v.user_id == "someone"] == [b"0123456789"]


@pytest.mark.parametrize("ending", ["las", "laz", "e57"])
def test_pieces_of_a_file_get_their_own_classes(tmp_path, monkeypatch, ending):
    WRITERS[ending][0](tmp_path / f"in.{ending}", street(N))
    # seven points at a time, the last piece shorter
    monkeypatch.setattr(files_las, "las_records", partial(files_las.las_records, size=7))
    monkeypatch.setattr(files_e57_copy, "_CHUNK", 7)
    write_classes(tmp_path / f"out.{ending}", tmp_path / f"in.{ending}", classes_of())
    check_classes(tmp_path / f"out.{ending}", classes_of())
    before, after = (read_points(tmp_path / f"{name}.{ending}") for name in ("in", "out"))
    np.testing.assert_array_equal(after.points, before.points)
    np.testing.assert_array_equal(after.intensity, before.intensity)


def test_a_second_run_keeps_the_first_classification(tmp_path):
    old = _survey(tmp_path / "in.las", 6)
    write_classes(tmp_path / "first.las", tmp_path / "in.las", classes_of())
    write_classes(tmp_path / "second.las", tmp_path / "first.las", classes_of())
    new = pytest.importorskip("laspy").read(tmp_path / "second.las")
    np.testing.assert_array_equal(new.classification_before, old.classification)


def test_las_without_codes_keeps_its_classification(tmp_path):
    old = _survey(tmp_path / "in.las", 6)
    write_classes(tmp_path / "out.las", tmp_path / "in.las", classes_of(codes=False))
    new = pytest.importorskip("laspy").read(tmp_path / "out.las")
    np.testing.assert_array_equal(new.classification, old.classification)
    assert "classification_before" not in new.point_format.dimension_names


def test_new_las_puts_columns_where_the_standard_has_them(tmp_path):
    laspy = pytest.importorskip("laspy")
    dtype = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"), ("red", "u1"), ("green", "u1")]
    dtype += [("blue", "u1"), ("gps_time", "f8"), ("return_number", "u1"), ("user_data", "f4"), ("t", "i8")]
    table = np.zeros(N, dtype)
    table["x"], table["red"], table["t"] = np.arange(N), 255, 2**60 + np.arange(N)
    table["intensity"], table["gps_time"], table["return_number"] = np.linspace(0, 1, N), np.pi, 3
    table["user_data"] = 0.5
    np.save(tmp_path / "in.npy", table)
    write_classes(tmp_path / "out.laz", tmp_path / "in.npy", classes_of(codes=False))
    las = laspy.read(tmp_path / "out.laz")
    assert (las.header.point_format.id, str(las.header.version)) == (7, "1.4")
    assert (np.asarray(las.red) == 65535).all()
    np.testing.assert_array_equal(las.intensity, np.round(table["intensity"].astype(float) * 65535))
    np.testing.assert_array_equal(las.gps_time, table["gps_time"])
    np.testing.assert_array_equal(las.return_number, table["return_number"])
    # the standard's user_data is a byte
    np.testing.assert_array_equal(las.file_user_data, table["user_data"])
    np.testing.assert_array_equal(las.t, table["t"])


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_stays_organised_in_its_encoding(tmp_path, encoding):
    pypcd4 = pytest.importorskip("pypcd4")
    header = "VERSION .7\nFIELDS x y z _ fpfh\nSIZE 4 4 4 1 4\nTYPE F F F U F\nCOUNT 1 1 1 2 3\n"
    header += "WIDTH 4\nHEIGHT 2\nVIEWPOINT 1 2 3 1 0 0 0\nPOINTS 8\nDATA ascii\n"
    lines = [f"{i / 3:.9g} {i * 1e-7:.9g} nan 1 2 {i} {i + 0.1:.9g} {i + 0.25}" for i in range(8)]
    (tmp_path / "in.pcd").write_text(header + "\n".join(lines) + "\n")
    cloud = pypcd4.PointCloud.from_path(tmp_path / "in.pcd")
    cloud.save(tmp_path / "in.pcd", encoding=pypcd4.Encoding(encoding))
    if encoding == "ascii":
        (tmp_path / "in.pcd").write_text(header + "\n".join(lines) + "\n")
    classes = classes_of(8)
    write_classes(tmp_path / "out.pcd", tmp_path / "in.pcd", classes)
    new = pypcd4.PointCloud.from_path(tmp_path / "out.pcd")
    meta = new.metadata
    assert (meta.width, meta.height, meta.viewpoint[:3], meta.data) == (4, 2, (1, 2, 3), encoding)
    assert meta.count == (1, 1, 1, 2, 3, 1, 1)
    for old_name, new_name in zip(cloud.pc_data.dtype.names, new.pc_data.dtype.names, strict=False):
        np.testing.assert_array_equal(new.pc_data[new_name], cloud.pc_data[old_name])
    check_classes(tmp_path / "out.pcd", classes)


@pytest.mark.parametrize(
    ("text", "order", "lists"),
    [(True, "=", False), (True, "=", True), (False, "<", False), (False, "<", True), (False, ">", False)],
)
def test_ply_keeps_elements_lists_comments_and_byte_order(tmp_path, text, order, lists):
    plyfile = pytest.importorskip("plyfile")
    dtype = [("x", "f8"), ("y", "f4"), ("z", "f4"), ("flags", "u1")] + ([("near", "O")] if lists else [])
    points = np.zeros(N, dtype)
    points["x"], points["y"], points["flags"] = 637_179.1234567 + np.arange(N), np.arange(N) / 3e4, 7
    elements = []
    if lists:
        points["near"] = [np.arange(i % 3 + 1, dtype="i4") for i in range(N)]
        faces = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
        elements = [plyfile.PlyElement.describe(faces, "face")]
    vertex = plyfile.PlyElement.describe(points, "vertex", comments=["of a lamp"])
    ply = plyfile.PlyData([vertex, *elements], text=text, byte_order=order, comments=["by hand"])
    ply.write(str(tmp_path / "in.ply"))
    write_classes(tmp_path / "out.ply", tmp_path / "in.ply", classes_of())
    new = plyfile.PlyData.read(str(tmp_path / "out.ply"))
    assert (new.text, new.comments, new["vertex"].comments) == (text, ["by hand"], ["of a lamp"])
    assert text or new.byte_order == order
    assert [e.name for e in new.elements] == [e.name for e in ply.elements]
    for name in ("x", "y", "flags"):
        np.testing.assert_array_equal(new["vertex"][name], points[name])
    if lists:
        assert [list(values) for values in new["vertex"]["near"]] == [list(v) for v in points["near"]]
        assert list(new["face"]["vertex_indices"][0]) == [0, 1, 2]
    check_classes(tmp_path / "out.ply", classes_of())


def test_big_endian_ply_with_lists_becomes_little_endian(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    header = "ply\nformat binary_big_endian 1.0\nelement vertex 2\nproperty double x\nproperty float y\n"
    header += "property float z\nproperty list uchar short near\nend_header\n"
    rows = [struct.pack(">dffBhh", 637_179.123 + i, i / 3, -1.0, 2, i, 300 + i) for i in range(2)]
    (tmp_path / "in.ply").write_bytes(header.encode() + b"".join(rows))
    notes = write_classes(tmp_path / "out.ply", tmp_path / "in.ply", classes_of(2))
    assert notes == ("little-endian, the source is big-endian",)
    new = plyfile.PlyData.read(str(tmp_path / "out.ply"))["vertex"].data
    assert new["x"].tolist() == [637_179.123, 637_180.123]
    assert [v.tolist() for v in new["near"]] == [[0, 300], [1, 301]]
    check_classes(tmp_path / "out.ply", classes_of(2))


def test_ply_has_no_integers_of_64_bits(tmp_path):
    pytest.importorskip("plyfile")
    table = np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("small", "i8"), ("time ns", "i8")])
    table["small"], table["time ns"] = [-1, 0, 2**31 - 1], 2**60 + np.arange(3)
    np.save(tmp_path / "in.npy", table)
    notes = write_classes(tmp_path / "out.ply", tmp_path / "in.npy", PointClasses(np.zeros(3, np.uint16)))
    assert notes == ("time ns rounded to double: PLY has no integers of 64 bits",)
    found = pytest.importorskip("plyfile").PlyData.read(str(tmp_path / "out.ply"))["vertex"].data
    assert found.dtype["small"] == np.int32
    assert found["time_ns"][0] == 2.0**60


def test_npz_keeps_arrays_that_are_no_columns(tmp_path):
    arrays = {"xyz": street(N)[:, :3], "pose": np.eye(4), "file": np.arange(3), "label": np.arange(N)}
    np.savez(tmp_path / "in.npz", **{k: v for k, v in arrays.items() if k != "file"})
    write_classes(tmp_path / "out.npz", tmp_path / "in.npz", classes_of())
    with np.load(tmp_path / "out.npz") as found:
        assert sorted(found.files) == ["label", CLASS_COLUMN, "pcsparse_confidence", "pose", "xyz"]
        np.testing.assert_array_equal(found["pose"], np.eye(4))
        np.testing.assert_array_equal(found[CLASS_COLUMN], classes_of().raw_ids)


@pytest.mark.parametrize("axes", ["xyz", "XYZ"])
@pytest.mark.parametrize("after", ["npz", "csv"])
def test_npz_of_an_array_a_column(tmp_path, axes, after):
    rows = street(N)
    arrays = {axis: rows[:, i].astype(np.float64) + UTM[i] for i, axis in enumerate(axes)}
    # as many rows as points, but no number a point
    arrays |= {"Intensity": rows[:, 3], "normals": rows[:, :3], "pose": np.eye(4), "ring": np.arange(N)}
    np.savez(tmp_path / "in.npz", **arrays)
    cloud = read_points(tmp_path / "in.npz")
    np.testing.assert_allclose(cloud.world(), rows[:, :3] + UTM, rtol=0, atol=5e-5)
    np.testing.assert_array_equal(cloud.intensity, rows[:, 3])
    np.testing.assert_array_equal(cloud.ring, np.arange(N))
    write_classes(tmp_path / f"out.{after}", tmp_path / "in.npz", classes_of())
    found = check_classes(tmp_path / f"out.{after}", classes_of())
    assert {"Intensity", "ring"} <= set(found)
    again = read_points(tmp_path / f"out.{after}")
    np.testing.assert_array_equal(again.world(), cloud.world())
    if after == "npz":
        with np.load(tmp_path / "out.npz") as kept:
            assert set(kept.files) == {*arrays, CLASS_COLUMN, "pcsparse_confidence"}
            for name, values in arrays.items():
                np.testing.assert_array_equal(kept[name], values)
        with pytest.raises(RangeError, match="59 rows of classes do not fit a file of 60 points"):
            write_classes(tmp_path / "short.npz", tmp_path / "in.npz", classes_of(N - 1))


@pytest.mark.parametrize(
    "z", [np.zeros(N - 1), np.zeros((N, 1)), np.full(N, "a"), None], ids=["short", "2-D", "text", "none"]
)
def test_npz_whose_axes_are_no_columns(tmp_path, z):
    arrays = {"x": np.zeros(N), "y": np.zeros(N), "z": z}
    np.savez(tmp_path / "in.npz", **{name: values for name, values in arrays.items() if values is not None})
    with pytest.raises(FormatError, match=r"none is named points, .*and x, y and z are no columns of one"):
        read_points(tmp_path / "in.npz")


def test_plain_rows_of_halves_become_float32(tmp_path):
    rows = street(N)
    rows.astype(np.float16).tofile(tmp_path / "in.bin")
    np.save(tmp_path / "in.npy", rows.astype(np.float16))
    notes = write_classes(tmp_path / "out.bin", tmp_path / "in.bin", classes_of(), dtype="float16")
    assert notes == (
        "columns (from 0): 0 x, 1 y, 2 z, 3 intensity, 4 pcsparse_class, 5 pcsparse_confidence",
        "read .bin with --columns 6",
    )
    write_classes(tmp_path / "out.npy", tmp_path / "in.npy", classes_of())
    expected = np.column_stack([rows.astype(np.float16), classes_of().raw_ids, classes_of().confidence])
    for found in (np.fromfile(tmp_path / "out.bin", "<f4").reshape(-1, 6), np.load(tmp_path / "out.npy")):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_feather_keeps_text_and_metadata(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather

    table = pa.table(
        {**{a: pa.array(street(3)[:, 0].astype(np.float16)) for a in "xyz"}, "who": ["a", None, "c"]}
    )
    feather.write_feather(table.replace_schema_metadata({"city": "PIT"}), str(tmp_path / "in.feather"))
    write_classes(tmp_path / "out.feather", tmp_path / "in.feather", classes_of(3))
    found = feather.read_table(tmp_path / "out.feather")
    assert found.schema.metadata == {b"city": b"PIT"}
    assert found.column_names == ["x", "y", "z", "who", CLASS_COLUMN, "pcsparse_confidence"]
    assert (str(found.schema.field("x").type), found["who"].to_pylist()) == ("halffloat", ["a", None, "c"])


def test_e57_keeps_scans_poses_and_invalid_points(tmp_path):
    pye57 = pytest.importorskip("pye57")
    half = np.sqrt(0.5)
    columns = {f"cartesian{axis}": street(N)[:, i].astype(np.float64) for i, axis in enumerate("XYZ")}
    columns["intensity"] = street(N)[:, 3].astype(np.float64)
    columns["cartesianInvalidState"] = (np.arange(N) == 4).astype(np.int8)
    columns.update({f"color{c}": np.arange(N, dtype=np.uint8) for c in ("Red", "Green", "Blue")})
    with pye57.E57(str(tmp_path / "in.e57"), mode="w") as file:
        for name, shift in (("first", UTM), ("second", np.zeros(3))):
            file.write_scan_raw(columns, name=name, rotation=np.array([half, 0, 0, half]), translation=shift)
    classes = classes_of(2 * N)
    write_classes(tmp_path / "out.e57", tmp_path / "in.e57", classes)
    with pye57.E57(str(tmp_path / "in.e57")) as old, pye57.E57(str(tmp_path / "out.e57")) as new:
        assert new.scan_count == 2
        for i in range(2):
            before, after = old.get_header(i), new.get_header(i)
            assert after.pretty_print() == before.pretty_print()
            assert after.point_fields[-2:] == ["pcsparse:pcsparse_class", "pcsparse:pcsparse_confidence"]
            raw = new.read_scan_raw(i, ignore_unsupported_fields=True)
            for name, values in old.read_scan_raw(i).items():
                np.testing.assert_array_equal(raw[name], values)
    table = e57_table(tmp_path / "out.e57")
    np.testing.assert_array_equal(table[CLASS_COLUMN], classes.raw_ids)
    np.testing.assert_array_equal(table["scan"], np.repeat([0, 1], N))
    assert np.flatnonzero(np.isnan(table["x"])).tolist() == [4, N + 4]


def test_e57_spherical_scaled_integers_and_unlit_points(tmp_path):
    pye57 = pytest.importorskip("pye57")
    e57 = pye57.libe57
    columns = {
        "sphericalRange": np.array([10.0, 20.0, 30.0, 40.0]),
        "sphericalAzimuth": np.array([0.0, np.pi / 2, 0.0, 0.0]),
        "sphericalElevation": np.array([0.0, 0.0, np.pi / 2, 0.0]),
        "sphericalInvalidState": np.array([0, 0, 0, 2], np.longlong),
        "intensity": np.array([0, 2047, 4095, 9], np.longlong),
        "isIntensityInvalid": np.array([0, 1, 0, 0], np.longlong),
    }
    with pye57.E57(str(tmp_path / "in.e57"), mode="w") as file:
        image = file.image_file
        scan, prototype = e57.StructureNode(image), e57.StructureNode(image)
        scan.set("guid", e57.StringNode(image, "one"))
        limits = e57.StructureNode(image)
        limits.set("intensityMinimum", e57.IntegerNode(image, 0))
        limits.set("intensityMaximum", e57.IntegerNode(image, 4095))
        scan.set("intensityLimits", limits)
        # millimetres
        prototype.set("sphericalRange", e57.ScaledIntegerNode(image, 0, 0, 100_000, 0.001, 0.0))
        for name in list(columns)[1:]:
            kind = (
                e57.FloatNode(image)
                if columns[name].dtype.kind == "f"
                else e57.IntegerNode(image, 0, 0, 4095)
            )
            prototype.set(name, kind)
        points = e57.CompressedVectorNode(image, prototype, e57.VectorNode(image, True))
        scan.set("points", points)
        file.data3d.append(scan)
        buffers = e57.VectorSourceDestBuffer()
        for name, values in columns.items():
            buffers.append(e57.SourceDestBuffer(image, name, values, 4, True, True))
        writer = points.writer(buffers)
        writer.write(4)
        writer.close()
    write_classes(tmp_path / "out.e57", tmp_path / "in.e57", classes_of(4))
    for name in ("in.e57", "out.e57"):
        cloud = read_points(tmp_path / name, invalid="keep")
        expected = [[10, 0, 0], [0, 20, 0], [0, 0, 30], [np.nan] * 3]
        np.testing.assert_allclose(cloud.points, expected, atol=1e-5)
        np.testing.assert_allclose(cloud.intensity, [0, 0, 1, 9 / 4095], rtol=1e-6)
        assert "intensity of 1 points is marked invalid: 0 is used" in cloud.notes


REAL = [
    "las/autzen_trim.laz",
    "las/simple.copc.laz",
    "las/1_4_w_evlr.las",
    "las/extrabytes.las",
    "las/unregistered_extra_bytes.las",
    "las/vegetation_1_3.las",
    "pcd/ascii.pcd",
    "pcd/ascii_multi_count.pcd",
    "pcd/ascii_organized.pcd",
    "pcd/ascii_with_underscore.pcd",
    "pcd/ascii_with_empty_points.pcd",
    "pcd/binary_compressed_organized.pcd",
    "e57/testWithNormals.e57",
    "e57/translationWithoutRotation.e57",
    "av2/sensor/val/*/sensors/lidar/315966265259836000.feather",
    "nuscenes/samples/LIDAR_TOP/*.pcd.bin",
]


@pytest.mark.parametrize("file", REAL)
def test_real_files_come_back(tmp_path, real_data, file):
    path = next(real_data.glob(file))
    cloud = read_points(path)
    out = tmp_path / f"out{path.suffix}"
    write_classes(out, path, classes_of(cloud.n_file))
    options = {"columns": 7} if path.suffix == ".bin" else {}
    again = read_points(out, **options)
    np.testing.assert_array_equal(again.world(), cloud.world())
    if cloud.intensity is not None and path.suffix != ".bin":
        np.testing.assert_array_equal(again.intensity, cloud.intensity)
    write_classes(tmp_path / "other.npz", path, classes_of(cloud.n_file))
    np.testing.assert_array_equal(read_points(tmp_path / "other.npz").world(), cloud.world())


def test_real_evlrs_stay(tmp_path, real_data):
    laspy = pytest.importorskip("laspy")
    path = real_data / "las" / "1_4_w_evlr.las"
    old = laspy.read(path)
    write_classes(tmp_path / "out.laz", path, classes_of(len(old)))
    new = laspy.read(tmp_path / "out.laz")
    assert [e.record_data for e in new.evlrs] == [e.record_data for e in old.evlrs]
    assert [v.record_data_bytes() for v in old.vlrs[:2]] == [v.record_data_bytes() for v in new.vlrs[:2]]
