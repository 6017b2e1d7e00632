"""Points as text: usual layouts are read, no digit is lost, faults have a line and a column."""

import numpy as np
import pytest

from pcsparse.data.files import list_point_files, read_classes, read_points, write_classes
from pcsparse.data.files_table import CLASS_COLUMN, CONFIDENCE_COLUMN, PointClasses
from pcsparse.data.files_text import text_table
from pcsparse.errors import FormatError

XYZ = [[1.5, -2.25, 0.125], [3, 4, 5], [6.5, 7, -8]]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


LAYOUTS = {
    "blanks": "1.5 -2.25 0.125 0.5\n3 4 5 0\n6.5 7 -8 1\n",
    "many blanks": "   1.5   -2.25 0.125 .5 \n  3   4   5 0\n  6.5 7 -8 1.0\n",
    "tabs": "1.5\t-2.25\t0.125\t0.5\n3\t4\t5\t0\n6.5\t7\t-8\t1\n",
    "commas": "1.5,-2.25,0.125,0.5\n3,4,5,0\n6.5,7,-8,1\n",
    "commas and blanks": "1.5, -2.25, 0.125, 0.5\n3, 4, 5, 0\n6.5, 7, -8, 1\n",
    "semicolons": "1.5;-2.25;0.125;0.5\n3;4;5;0\n6.5;7;-8;1\n",
    "decimal commas": "1,5;-2,25;0,125;0,5\n3;4;5;0\n6,5;7;-8;1\n",
    "decimal commas later": "3;4;5;0\n1,5;-2,25;0,125;0,5\n6,5;7;-8;1\n",
    "decimal commas and blanks": "1,5 -2,25 0,125 0,5\n3 4 5 0\n6,5 7 -8 1\n",
    "no end, empty lines, Windows": "\r\n1.5 -2.25 0.125 0.5\r\n\r\n3 4 5 0\r\n6.5 7 -8 1",
    "exponents": "1.5e0 -225E-2 0.125 5e-1\n3 4 5 0\n6.5 7 -8 1\n",
    "header": "x,y,z,intensity\n1.5,-2.25,0.125,0.5\n3,4,5,0\n6.5,7,-8,1\n",
    "other order, capitals, quotes": '"Z","Intensity","Y","X"\n0.125,0.5,-2.25,1.5\n5,0,4,3\n-8,1,7,6.5\n',
    "units": "X [m];Y [m];Z(m);Reflectance\n1.5;-2.25;0.125;0.5\n3;4;5;0\n6.5;7;-8;1\n",
    "CloudCompare": "//X Y Z Scalar_field Intensity\n1.5 -2.25 0.125 9 0.5\n3 4 5 9 0\n6.5 7 -8 9 1\n",
    "NumPy": "# made by us\n# x y z i\n1.5,-2.25,0.125,0.5\n3,4,5,0\n6.5,7,-8,1\n",
    "VeloView": '"Points:0","Points:1","Points:2","intensity"\n1.5,-2.25,0.125,0.5\n3,4,5,0\n6.5,7,-8,1\n',
    "survey": "Point#,Easting,Northing,Height,I\n1,1.5,-2.25,0.125,0.5\n2,3,4,5,0\n3,6.5,7,-8,1\n",
    "height above ground": "height,x,y,z,i\n9,1.5,-2.25,0.125,0.5\n9,3,4,5,0\n9,6.5,7,-8,1\n",
    "words": "kind,x,y,z,i\ncar,1.5,-2.25,0.125,0.5\na;b,3,4,5,0\n,6.5,7,-8,1\n",
    "pandas": ",0,1,2,3\n0,1.5,-2.25,0.125,0.5\n1,3.0,4.0,5.0,0.0\n2,6.5,7.0,-8.0,1.0\n",
    "pandas without an index": "0,1,2,3\n1.5,-2.25,0.125,0.5\n3.0,4.0,5.0,0.0\n6.5,7.0,-8.0,1.0\n",
    "a delimiter behind each row": "x,y,z,i\n1.5,-2.25,0.125,0.5,\n3,4,5,0,\n6.5,7,-8,1,\n",
    "a count": "3\n1.5 -2.25 0.125 0.5\n3 4 5 0\n6.5 7 -8 1\n",
    "comments": "1.5 -2.25 0.125 0.5 # first\n# none\n3 4 5 0\n6.5 7 -8 1\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_layouts_give_the_same_points(tmp_path, layout):
    cloud = read_points(write(tmp_path / "a.txt", LAYOUTS[layout]))
    order = [1, 0, 2] if layout == "decimal commas later" else [0, 1, 2]
    np.testing.assert_array_equal(cloud.points, np.array(XYZ, np.float32)[order])
    np.testing.assert_array_equal(cloud.intensity, np.array([0.5, 0, 1], np.float32)[order])


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "decimal commas later"])
def test_rows_keep_their_letters_beside_the_classes(tmp_path, layout):
    source = write(tmp_path / "a.txt", LAYOUTS[layout])
    classes = PointClasses(np.array([10, 40, 50], np.uint16), np.array([0.1, 1, 0.5], np.float32))
    notes = write_classes(tmp_path / "b.txt", source, classes)
    after = (tmp_path / "b.txt").read_bytes().decode()
    for line in LAYOUTS[layout].splitlines():
        # names of counted columns become words
        if not line.startswith(("0,1,2", ",0,1,2")):
            assert line.partition(" # first")[0].rstrip() in after
    if layout.startswith("decimal"):
        assert after.splitlines()[0].endswith(";10;0,1" if ";" in after else " 10 0,1")
    again = read_points(tmp_path / "b.txt", invalid="keep")
    np.testing.assert_array_equal(again.points, np.array(XYZ, np.float32))
    found = read_classes(tmp_path / "b.txt")
    if found is None:
        assert "pcsparse_class" in notes[0]
    else:
        assert found.raw_ids.tolist() == [10, 40, 50]
        np.testing.assert_array_equal(found.confidence, classes.confidence)
        # a second run replaces the first
        write_classes(tmp_path / "c.txt", tmp_path / "b.txt", PointClasses(np.full(3, 7, np.uint16)))
        assert read_classes(tmp_path / "c.txt").raw_ids.tolist() == [7, 7, 7]
        assert (tmp_path / "c.txt").read_text().count(CLASS_COLUMN) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path, encoding):
    text = "x,y,z,i,Höhe\n1.5,-2.25,0.125,0.5,9\n3,4,5,0,9\n6.5,7,-8,1,9\n"
    source = write(tmp_path / "a.csv", text, encoding)
    np.testing.assert_array_equal(read_points(source).points, np.array(XYZ, np.float32))
    write_classes(tmp_path / "b.csv", source, PointClasses(np.full(3, 7, np.uint16)))
    plain = "utf-8" if encoding == "utf-8-sig" else encoding
    assert (tmp_path / "b.csv").read_bytes().decode(plain).startswith("x,y,z,i,Höhe,pcsparse_class\n1.5,")


def test_world_coordinates_and_time_stamps_lose_nothing(tmp_path):
    stamp = 315_966_265_259_836_001
    text = f"x y z t gps\n637179.2512345 5849498.1250001 431.5 {stamp} 1.5\n637180 5849499 432 {stamp} 2\n"
    source = write(tmp_path / "a.xyz", text)
    cloud = read_points(source)
    np.testing.assert_array_equal(cloud.origin, [637180, 5849499, 0])
    np.testing.assert_allclose(cloud.world()[0], [637179.2512345, 5849498.1250001, 431.5], atol=1e-7, rtol=0)
    write_classes(tmp_path / "b.npy", source, PointClasses(np.full(2, 7, np.uint16)))
    found = np.load(tmp_path / "b.npy")
    assert found["x"][0] == 637179.2512345
    assert found["y"][0] == 5849498.1250001
    assert found["t"].tolist() == [stamp, stamp]
    write_classes(tmp_path / "c.csv", tmp_path / "b.npy", PointClasses(np.full(2, 7, np.uint16)))
    row = f"637179.2512345,5849498.1250001,431.5,{stamp},1.5,7"
    assert (tmp_path / "c.csv").read_text().splitlines()[:2] == ["x,y,z,t,gps,pcsparse_class", row]


def test_a_first_line_that_counts_is_no_point_without_a_note(tmp_path):
    classes = PointClasses(np.array([10, 40, 50], np.uint16))
    for layout, doubtful in (("pandas", False), ("pandas without an index", True), ("header", False)):
        source = write(tmp_path / "a.csv", LAYOUTS[layout])
        for notes in (read_points(source).notes, write_classes(tmp_path / "b.csv", source, classes)):
            said = [
                note for note in notes if note.startswith("line 1 (0,1,2,3) taken for the numbers of col")
            ]
            assert len(said) == doubtful
    # as the note says
    source = write(tmp_path / "a.csv", "x,y,z\n0,1,2\n1.5,2.5,3.5\n")
    assert read_points(source).points.tolist() == [[0, 1, 2], [1.5, 2.5, 3.5]]


LONG = "1700000000123456789"
LATER = {
    "all fit": ("1700000000123456790", None),
    "the largest": ("9223372036854775807", None),
    "the least": ("-9223372036854775808", None),
    "beyond 64 bits": ("9223372036854775808", 2.0**63),
    "missing": ("", np.nan),
    "no whole number": ("1.5", 1.5),
}


@pytest.mark.parametrize("later", LATER)
def test_nanoseconds_keep_all_digits_or_a_note_says_that_they_do_not(tmp_path, later):
    text, rounded = LATER[later]
    source = write(tmp_path / "a.csv", f"x,y,z,i,t\n1,2,3,0.5,{LONG}\n4,5,6,0.5,{text}\n")
    found = text_table(source)["t"]
    notes = [
        note for note in read_points(source).notes if note.startswith("t: read as float64, which rounds")
    ]
    if rounded is None:
        assert found.tolist() == [int(LONG), int(text)]
        assert not notes
    else:
        np.testing.assert_array_equal(found, [float(LONG), rounded])
        assert len(notes) == 1
    # the same where the first row is the short one, or too long
    if text:
        source = write(tmp_path / "b.csv", f"x,y,z,i,t\n4,5,6,0.5,{text}\n1,2,3,0.5,{LONG}\n")
        again = text_table(source)["t"]
        np.testing.assert_array_equal(again, found[::-1])


def test_columns_without_names_are_counted(tmp_path):
    rows = np.arange(24).reshape(4, 6) + 0.5

    def names(text):
        return text_table(write(tmp_path / "a.xyz", text)).dtype.names

    assert names("1 2 3\n") == ("x", "y", "z")
    assert names("1 2 3 4 5\n") == ("x", "y", "z", "intensity", "column_4")
    # bytes behind the coordinates are colours, not an intensity
    assert names("1 2 3 4 5 6\n1 2 3 0 255 9\n") == ("x", "y", "z", "red", "green", "blue")
    assert names("1 2 3 4 5 6\n1 2 3 0.5 255 9\n")[3:] == ("intensity", "column_4", "column_5")
    np.savetxt(tmp_path / "b.xyz", rows)
    cloud = read_points(tmp_path / "b.xyz", intensity_scale=30)
    np.testing.assert_allclose(cloud.intensity, rows[:, 3] / 30, rtol=1e-6)
    assert cloud.notes[0].startswith("no names of columns: taken for x, y, z, intensity, column_4, column_5;")


def test_whole_numbers_are_integers_but_for_points_and_intensity(tmp_path):
    table = text_table(write(tmp_path / "a.csv", "x,y,z,intensity,ring,time\n1,2,3,1,4,5\n1,2,3,0,5,5.5\n"))
    kinds = {name: table.dtype[name].kind for name in table.dtype.names}
    assert kinds == {"x": "f", "y": "f", "z": "f", "intensity": "f", "ring": "i", "time": "f"}
    assert read_points(tmp_path / "a.csv").ring.tolist() == [4, 5]


def test_missing_numbers_are_nan_and_stay(tmp_path):
    text = "x,y,z,i\n1,2,3,0.5\n,2,3,0.5\n1,NA,3,0.5\n1,2,nan,0.5\n1,2,3,\n1,inf,3,1\n"
    source = write(tmp_path / "a.csv", text)
    with pytest.warns(UserWarning, match=r"5 of 6 points are NaN or infinite \(first: row 1\): dropped"):
        cloud = read_points(source)
    assert cloud.kept.tolist() == [0]
    assert "3 missing numbers read as NaN" in cloud.notes
    write_classes(tmp_path / "b.csv", source, PointClasses(np.arange(6, dtype=np.uint16)))
    assert (tmp_path / "b.csv").read_text().splitlines()[2] == ",2,3,0.5,1"


FAULTS = {
    "a column less": ("1 2 3 4\n1 2 3\n1 2 3 4\n", r"a\.txt, line 2: 3 columns, 4 in the lines before"),
    "a column more": ("x,y,z\n1,2,3\n\n1,2,3,4\n", r"a\.txt, line 4: 4 columns, 3 in the lines before"),
    "cut off": ("1 2 3\n4 5 6\n7 8", r"line 3: 2 columns, 3 in .*; if it is the last line, .* truncated"),
    "a word": ("# x y z\n1 2 3\n1 two 3\n", r"a\.txt, line 3, column 2 \(y\): 'two' is no number"),
    "a word without names": ("1 2 3\n1 2 3m\n", r"a\.txt, line 2, column 3: '3m' is no number"),
    "a word in the first row": ("x y z\none 2 3\n", r"line 2, column 1 \(x\): 'one' is no number"),
    "a label first": ("car 1 2 3\nvan 1 2 3\n", r"a\.txt, line 1, column 1: 'car' is no number"),
    "other names": ("lat,lon,z\n1,2,3\n", r"has the columns \['lat', 'lon', 'z'\]; x, y and z are needed"),
    "fewer names": ("x y z\n1 2 3 4\n", r"line 2: 4 columns, line 1 names 3 \(x, y, z\); give every column"),
    "two columns": ("1 2\n3 4\n", r"line 1: 2 columns, points have 3 or more: x, y, z, intensity"),
    "blank": ("\n\n  \n", r"a\.txt holds no line of numbers"),
    "comments": ("# a\n# b\n", r"a\.txt holds comments and no line of numbers"),
    "too few for the count": ("3\n1 2 3\n4 5 6\n", r"promises 3 points, 2 are there; the file is truncated"),
    "too many for the count": ("1\n1 2 3\n4 5 6\n", r"promises 1 points, there is room for 2"),
    "cut off in the names": ("x,y,z,inten", r"ends within the line that names its columns: .* truncated"),
    "bytes": ("1 2 3\n\0\0\0", r"a\.txt is no text: byte 6 is 0"),
    "negative intensity": ("1 2 3 -4\n", r"intensity lies in -4 \.\.\. -4, it cannot be negative"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_have_line_and_column(tmp_path, name):
    text, said = FAULTS[name]
    with pytest.raises(FormatError, match=said):
        read_points(write(tmp_path / "a.txt", text))


def test_a_last_line_without_an_end_is_told(tmp_path):
    assert "the last line has no end" in read_points(write(tmp_path / "a.xyz", "1 2 3\n4 5 6")).notes[-2]
    assert not any("no end" in note for note in read_points(write(tmp_path / "a.xyz", "1 2 3\n")).notes)


def test_names_alone_are_an_empty_cloud(tmp_path):
    for text in ("x,y,z,intensity\n", "# x y z intensity\n"):
        cloud = read_points(write(tmp_path / "a.csv", text))
        assert (cloud.points.shape, cloud.intensity.shape, cloud.n_file) == ((0, 3), (0,), 0)


def test_columns_are_written_with_names(tmp_path):
    table = np.zeros(1, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("a b", "f4"), ('q"', "u1")])
    table["x"], table["a b"] = 0.1, 0.1
    np.save(tmp_path / "a.npy", table)
    classes = PointClasses(np.array([40], np.uint16), np.array([0.3], np.float32))
    for ending, first in (
        ("csv", 'x,y,z,a b,"q""",pcsparse_class,pcsparse_confidence'),
        ("txt", "# x y z a_b q pcsparse_class pcsparse_confidence"),
        ("xyz", "# x y z a_b q pcsparse_class pcsparse_confidence"),
    ):
        write_classes(tmp_path / f"b.{ending}", tmp_path / "a.npy", classes)
        lines = (tmp_path / f"b.{ending}").read_text().splitlines()
        blank = "," if ending == "csv" else " "
        assert lines[1] == blank.join(["0.1", "0.0", "0.0", "0.1", "0", "40", "0.3"])
        assert lines[0] == first
        assert {CLASS_COLUMN, CONFIDENCE_COLUMN} <= set(text_table(tmp_path / f"b.{ending}").dtype.names)


def test_in_a_folder_text_counts_where_nothing_else_is_there(tmp_path):
    for name in ("poses.txt", "times.csv"):
        write(tmp_path / name, "1 2 3\n")
    assert [p.name for p in list_point_files(tmp_path)] == ["poses.txt", "times.csv"]
    (tmp_path / "velodyne").mkdir()
    np.save(tmp_path / "velodyne" / "0.npy", np.zeros((1, 3)))
    with pytest.raises(FormatError, match=r"no point file in .*there are some in .*velodyne"):
        list_point_files(tmp_path)
    assert [p.name for p in list_point_files(tmp_path / "**" / "*")] == ["0.npy"]
    assert [p.name for p in list_point_files(tmp_path / "*.txt")] == ["poses.txt"]
    write(tmp_path / "a.xyz", "1 2 3\n")
    assert [p.name for p in list_point_files(tmp_path)] == ["a.xyz"]
