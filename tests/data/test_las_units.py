"""LAS files whose header says feet or degrees."""

import warnings

import numpy as np
import pytest

from pcsparse.data.files import read_points, write_classes
from pcsparse.data.files_las import units_of_las
from pcsparse.data.files_table import PointClasses
from pcsparse.data.files_tiles import las_tiles

laspy = pytest.importorskip("laspy")
pyproj = pytest.importorskip("pyproj")

# by definition: 1959's foot, and that of the surveys in the United States
FOOT, SURVEY_FOOT = 0.3048, 12 / 39.37
XYZ = np.array([[636_000.0, 848_000.0, 400.0], [636_200.0, 848_100.0, 431.5], [636_300.5, 848_090.25, 402.0]])


def geo_keys(*entries):
    """GeoTIFF keys without any text or number beside them."""
    vlr = laspy.vlrs.known.GeoKeyDirectoryVlr()
    header = np.array([1, 1, 0, len(entries)], "<u2").tobytes()
    vlr.parse_record_data(header + np.array([(key, 0, 1, value) for key, value in entries], "<u2").tobytes())
    return vlr


def write(path, system=None, keys=None, version="1.4"):
    header = laspy.LasHeader(point_format=6 if version == "1.4" else 3, version=version)
    header.offsets, header.scales = np.round(XYZ.mean(axis=0)), np.full(3, 1e-4)
    if system is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header.add_crs(pyproj.CRS.from_user_input(system))
    if keys is not None:
        header.vlrs.append(geo_keys(*keys))
    las = laspy.LasData(header)
    las.x, las.y, las.z = XYZ.T
    las.intensity = np.array([1, 2, 300])
    las.write(path)
    return path


CASES = {
    "none": ({}, (1, 1, 1)),
    "metres": ({"system": 32633}, (1, 1, 1)),
    "feet, height too": ({"system": 2992}, (FOOT, FOOT, FOOT)),
    "survey feet": ({"system": 2225}, (SURVEY_FOOT,) * 3),
    "metres, height in survey feet": ({"system": "EPSG:26910+6360"}, (1, 1, SURVEY_FOOT)),
    "feet, height in metres": ({"system": "EPSG:2992+5703"}, (FOOT, FOOT, 1)),
    "feet by their code": ({"keys": [(1024, 1), (3072, 2992)], "version": "1.2"}, (FOOT,) * 3),
    "feet by their unit": (
        {"keys": [(1024, 1), (3072, 32767), (3076, 9003)], "version": "1.2"},
        (SURVEY_FOOT,) * 3,
    ),
    "code and unit of heights": (
        {"keys": [(1024, 1), (3072, 26913), (4099, 9003)], "version": "1.2"},
        (1, 1, SURVEY_FOOT),
    ),
    "codes of both": (
        {"keys": [(1024, 1), (3072, 26913), (4096, 6360)], "version": "1.2"},
        (1, 1, SURVEY_FOOT),
    ),
    "feet, heights in metres by keys": (
        {"keys": [(1024, 1), (3072, 2277), (4096, 5703), (4099, 9001)], "version": "1.2"},
        (SURVEY_FOOT, SURVEY_FOOT, 1),
    ),
    "a plane of one's own over a known datum": (
        {"keys": [(1024, 1), (2048, 4269), (3072, 32767), (3076, 9003)], "version": "1.2"},
        (SURVEY_FOOT,) * 3,
    ),
    "a code that nobody knows": (
        {"keys": [(1024, 1), (3072, 1025), (3076, 9003)], "version": "1.2"},
        (SURVEY_FOOT,) * 3,
    ),
    "units of both": (
        {"keys": [(1024, 1), (3072, 32767), (3076, 9001), (4099, 9002)], "version": "1.2"},
        (1, 1, FOOT),
    ),
}


@pytest.mark.parametrize(("content", "factors"), CASES.values(), ids=CASES)
def test_feet_become_metres(tmp_path, content, factors):
    cloud = read_points(write(tmp_path / "a.las", **content))
    expected = XYZ * factors
    np.testing.assert_allclose(cloud.world(), expected, atol=2e-4, rtol=0)
    assert cloud.origin.any()
    told = [note for note in cloud.notes if "converted to metres" in note]
    assert len(told) == (factors != (1, 1, 1))
    with las_tiles(tmp_path / "a.las", 60.0, 10.0) as tiles:
        assert [note for note in tiles.notes if "converted to metres" in note] == told
        for tile in tiles:
            np.testing.assert_allclose(tile.points + tile.origin, expected[tile.rows], atol=2e-4, rtol=0)


def test_the_note_names_axes_and_units(tmp_path):
    (note,) = units_of_las(write(tmp_path / "a.las", system="EPSG:26910+6360")).notes
    assert note.startswith("x y in metre (1 m), z in US survey foot (0.3048006 m)")


def test_text_behind_the_points_counts(tmp_path):
    with laspy.open(write(tmp_path / "a.las", system=2992)) as reader:
        header, points = reader.header, reader.read_points(-1)
    texts = [vlr for vlr in header.vlrs if vlr.record_id == 2112]
    assert texts
    header.vlrs = [vlr for vlr in header.vlrs if vlr not in texts]
    las = laspy.LasData(header, points)
    las.evlrs = laspy.vlrs.vlrlist.VLRList(texts)
    las.write(tmp_path / "b.las")
    assert units_of_las(tmp_path / "b.las").factors == (FOOT, FOOT, FOOT)


def test_an_unknown_unit_is_told(tmp_path):
    path = write(tmp_path / "a.las", keys=[(1024, 1), (3072, 32767), (3076, 9005)], version="1.2")
    units = units_of_las(path)
    assert units.factors == (1, 1, 1)
    assert "unit of code 9005" in " ".join(units.notes)


def test_other_formats_get_metres_and_a_las_keeps_its_own(tmp_path):
    source = write(tmp_path / "a.las", system="EPSG:2992+5703")
    classes = PointClasses(np.array([1, 2, 3], np.uint16), np.ones(3, np.float32))
    for name in ("b.ply", "b.e57", "b.laz"):
        notes = write_classes(tmp_path / name, source, classes)
        np.testing.assert_allclose(
            read_points(tmp_path / name).world(), XYZ * (FOOT, FOOT, 1), atol=2e-4, rtol=0
        )
        assert any("converted to metres" in note for note in notes) == (name != "b.laz")
    np.testing.assert_allclose(laspy.read(tmp_path / "b.laz").xyz, XYZ, atol=2e-4, rtol=0)


def test_degrees_are_told(tmp_path):
    cloud = read_points(write(tmp_path / "a.las", system=4326))
    np.testing.assert_allclose(cloud.world(), XYZ, atol=2e-4, rtol=0)
    assert any("says that coordinates are degrees (WGS 84)" in note for note in cloud.notes)


def test_a_system_that_cannot_be_read_is_told(tmp_path):
    path = write(tmp_path / "a.las", system=2992)
    content = path.read_bytes()
    assert content.count(b"PROJCRS[") == 1
    path.write_bytes(content.replace(b"PROJCRS[", b"PROJXXX["))
    cloud = read_points(path)
    np.testing.assert_allclose(cloud.world(), XYZ, atol=2e-4, rtol=0)
    assert any("coordinate system cannot be read, taken as metres" in note for note in cloud.notes)
