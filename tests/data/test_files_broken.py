"""Bad input of every format: the file is named, what was found, what to do; no point is lost unsaid."""

import contextlib
import gzip
import importlib
import pickle
import re
import zipfile

import numpy as np
import pytest

from pcsparse.data.files import read_points, write_classes
from pcsparse.errors import FormatError, UnsupportedError
from tests.data.rows import street
from tests.data.test_files import UNCOUNTED, WRITERS
from tests.data.test_files_write import classes_of

# .txt is .xyz under another name
ENDINGS = [ending for ending in WRITERS if ending != "txt"]


def written(path, n=60):
    WRITERS[path.suffix[1:]][0](path, street(n))
    return path


def fault(path, said, **options):
    """Read a file that must not be read; the error begins with its name."""
    with pytest.raises(FormatError, match=said) as caught:
        read_points(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_zero_bytes(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.touch()
    fault(path, "has 0 bytes: the copy or the download broke off; fetch it again")
    with pytest.raises(FormatError, match="has 0 bytes"):
        write_classes(tmp_path / "out.npz", path, classes_of(0))


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e not in UNCOUNTED])
def test_no_truncation_is_taken_for_a_shorter_cloud(tmp_path, ending):
    path = written(tmp_path / f"a.{ending}", 300)
    whole = path.read_bytes()
    for size in np.linspace(1, len(whole) - 2, 24).astype(int):
        path.write_bytes(whole[:size])
        # a reader may do without the last bytes, which are an index or padding; never without a point
        with contextlib.suppress(FormatError):
            assert len(read_points(path)) == 300, (size, len(whole))


def test_a_bin_that_lost_a_point_cannot_be_told_but_a_part_of_one_can(tmp_path):
    path = written(tmp_path / "a.bin")
    path.write_bytes(path.read_bytes()[:-3])
    fault(path, r"957 bytes are no whole number of points; tried columns 4 \(13 bytes left over\).*truncated")


@pytest.mark.parametrize("other", [e for e in ENDINGS if e not in (*UNCOUNTED, "laz")])
@pytest.mark.parametrize("ending", ENDINGS)
def test_another_format_under_the_ending(tmp_path, ending, other):
    if ending == other or {ending, other} == {"las", "laz"}:
        return
    data = written(tmp_path / f"b.{other}").read_bytes()
    path = tmp_path / f"a.{ending}"
    path.write_bytes(data)
    if other == "pcd":
        # its first line is a comment that may be missing: the reader of the ending says what it can
        fault(path, r"begins as a PCD file|begins as text|no readable|no sweep|no whole number|is no text")
    else:
        fault(path, rf"begins as .*, not as a \.{ending} file: rename it to \.{other}")


STRANGERS = {
    "web page": (
        b"<!DOCTYPE html><html><body>Sign in to download</body></html>" * 9,
        "a web page, .*: the download gave a page",
    ),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "gzip": (gzip.compress(bytes(4000)), "a gzip archive, .*: unpack it with gunzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(400), "an HDF5 file, .*: save its points"),
    "parquet": (b"PAR1" + bytes(400), "a Parquet file, .*: write its table"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_no_point_file_at_all(tmp_path, ending, stranger):
    data, said = STRANGERS[stranger]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(data)
    fault(path, said)


def test_text_under_the_ending_bin(tmp_path):
    np.savetxt(tmp_path / "a.bin", street())
    fault(
        tmp_path / "a.bin", "begins as text, not as a .bin file of floats: .* rename it to .xyz, .csv or .txt"
    )


class TestPcd:
    HEAD = (
        "VERSION .7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH {n}\nHEIGHT 1\n"
    )
    TAIL = "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {data}\n"

    def write(self, path, body, n=3, data="ascii", head=HEAD, tail=TAIL):
        path.write_bytes((head + tail).format(n=n, data=data).encode() + body)
        return path

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"0 0 0 .1\n1 1 1 .2\n", "promises 3 points, 2 are there; the file is truncated"),
            (b"0 0 0 .1\n" * 4, "promises 3 points, there is room for 4; points would be lost"),
            (b"0 0 0 .1\n1 1 1\n2 2 2 .3\n", r"requires 4 columns but 3 were found at row 2"),
            (b"0 0 0 .1\n1 1 1 .2 9\n2 2 2 .3\n", r"requires 4 columns but 5 were found at row 2"),
            (b"0 0 0 .1\n1 one 1 .2\n2 2 2 .3\n", "could not convert"),
        ],
        ids=["too few", "too many", "a column less", "a column more", "a word"],
    )
    def test_rows_that_do_not_fit_the_header(self, tmp_path, body, said):
        fault(self.write(tmp_path / "a.pcd", body), said)

    @pytest.mark.parametrize("separator", ["\t", "   "])
    def test_blanks_of_any_number_part_the_columns(self, tmp_path, separator):
        body = "".join(f"  {separator.join(('1', '2', '3', '.5'))} \r\n" for _ in range(3)).encode()
        cloud = read_points(self.write(tmp_path / "a.pcd", body))
        np.testing.assert_allclose(cloud.points, [[1, 2, 3]] * 3)

    def test_binary_points_behind_those_of_the_header(self, tmp_path):
        path = self.write(tmp_path / "a.pcd", street(5).tobytes(), data="binary")
        fault(path, "promises 3 points, there is room for 5; points would be lost: correct the header")
        assert len(read_points(self.write(path, street(3).tobytes() + b"\n", data="binary"))) == 3

    @pytest.mark.parametrize(
        "broken",
        ["FIELDS x y z intensity", "SIZE 4 4 4 4", "TYPE F F F F", "POINTS {n}", "DATA {data}", "WIDTH {n}"],
    )
    def test_a_line_of_the_header_is_missing(self, tmp_path, broken):
        head, tail = (part.replace(f"{broken}\n", "") for part in (self.HEAD, self.TAIL))
        path = self.write(tmp_path / "a.pcd", b"0 0 0 .1\n" * 3, head=head, tail=tail)
        fault(path, r"no readable PCD file \(.*check the header")

    def test_no_z(self, tmp_path):
        path = self.write(tmp_path / "a.pcd", b"0 0 0 .1\n" * 3, head=self.HEAD.replace("z i", "depth i"))
        fault(path, r"has the columns \['depth', 'intensity', 'x', 'y'\]; x, y and z are needed")

    @pytest.mark.parametrize("file", ["ascii_empty.pcd", "ascii_invalid_header.pcd"])
    def test_real_broken_files(self, real_data, file):
        said = fault(real_data / "pcd" / file, "fetch it again")
        assert "0 bytes" in said or "58 bytes" in said

    def test_real_fields_without_a_name_and_of_many_values(self, real_data):
        cloud = read_points(real_data / "pcd" / "ascii_with_underscore.pcd")
        assert (len(cloud), cloud.intensity) == (213, None)
        several = read_points(real_data / "pcd" / "ascii_multi_count.pcd")
        assert (len(several), several.intensity) == (8, None)
        assert any("intensity__0000" in note for note in several.notes)


class TestPly:
    def write(self, path, rows, n=3, kind="ascii"):
        head = f"ply\nformat {kind} 1.0\nelement vertex {n}\n"
        head += "".join(f"property float {name}\n" for name in ("x", "y", "z")) + "end_header\n"
        path.write_bytes(head.encode() + rows)
        return path

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (b"1 2 3\n" * 2, "no readable PLY file .*early end-of-file.*truncated"),
            (b"1 2 3\n" * 4, "promises 3 lines of data, 4 are there; points would be lost"),
            (b"1 2 3\n1 2\n1 2 3\n", "no readable PLY"),
            (b"1 2 3\n1 2 3 4\n1 2 3\n", "no readable PLY"),
            (b"1 2 3\n1 x 3\n1 2 3\n", "no readable PLY"),
        ],
        ids=["too few", "too many", "a column less", "a column more", "a word"],
    )
    def test_rows_that_do_not_fit_the_header(self, tmp_path, rows, said):
        fault(self.write(tmp_path / "a.ply", rows), said)

    def test_binary_rows_behind_those_of_the_header(self, tmp_path):
        rows = street(5)[:, :3].tobytes()
        path = self.write(tmp_path / "a.ply", rows, kind="binary_little_endian")
        fault(path, "promises 36 bytes of data, 60 are there")

    @pytest.mark.parametrize("kind", ["binary_little_endian", "binary_big_endian"])
    def test_less_than_a_binary_row_behind_those_of_the_header_is_no_point(self, tmp_path, kind):
        rows = street(3)[:, :3].astype(">f4" if kind == "binary_big_endian" else "<f4")
        for behind in (b"\n", bytes(11)):
            path = self.write(tmp_path / "a.ply", rows.tobytes() + behind, kind=kind)
            np.testing.assert_array_equal(read_points(path).points, street(3)[:, :3])
        fault(
            self.write(path, rows.tobytes() + bytes(12), kind=kind), "promises 36 bytes of data, 48 are there"
        )

    def test_an_element_without_properties_has_no_bytes(self, tmp_path):
        rows = street(3)[:, :3]
        path = self.write(tmp_path / "a.ply", rows.tobytes(), kind="binary_little_endian")
        path.write_bytes(path.read_bytes().replace(b"end_header", b"element extra 0\nend_header"))
        np.testing.assert_array_equal(read_points(path).points, rows)


class TestNumpy:
    def test_pickles(self, tmp_path):
        for name in ("a.npy", "a.npz"):
            (tmp_path / name).write_bytes(pickle.dumps({"points": [1, 2, 3]}))
            fault(tmp_path / name, "pickled objects are never loaded: save a plain array with np.save")
        np.savez(tmp_path / "b.npz", points=np.array([{1: 2}], dtype=object))
        fault(tmp_path / "b.npz", "pickled objects are never loaded")

    def test_two_arrays_in_one_file(self, tmp_path):
        with (tmp_path / "a.npy").open("wb") as file:
            np.save(file, street())
            np.save(file, street())
        fault(tmp_path / "a.npy", "bytes behind its array; save one array a file")

    def test_an_archive_with_other_things(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("readme.txt", "none")
        fault(tmp_path / "a.npz", r"holds arrays \[\]; none is named points")

    @pytest.mark.parametrize("shape", [(60, 2), (60,), (4, 60, 3)])
    def test_columns(self, tmp_path, shape):
        np.save(tmp_path / "a.npy", np.zeros(shape))
        fault(tmp_path / "a.npy", rf"has shape {re.escape(str(shape))}, points must be \(n, 3 or more\)")


def test_columns_that_feather_and_las_lack(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather

    feather.write_feather(pa.table({"x": [1.0], "y": [2.0], "name": ["a"]}), str(tmp_path / "a.feather"))
    fault(tmp_path / "a.feather", r"has the columns \['x', 'y'\]; x, y and z are needed")
    feather.write_feather(pa.table({"name": ["a"]}), str(tmp_path / "b.feather"))
    fault(tmp_path / "b.feather", r"has the columns \['name'\]; x, y and z are needed")


def test_laz_without_its_last_chunk(tmp_path):
    laspy = pytest.importorskip("laspy")
    path = written(tmp_path / "a.laz", 120_000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    fault(path, r"no readable LAS file .*truncated")
    # the header alone is no point either
    with laspy.open(written(tmp_path / "b.las")) as reader:
        offset = reader.header.offset_to_point_data
    (tmp_path / "b.las").write_bytes((tmp_path / "b.las").read_bytes()[:offset])
    fault(tmp_path / "b.las", "promises 60 points, 0 are there; the file is truncated")


class TestScales:
    """Intensity on 0-255 where 0-1 is expected, and numbers of another width."""

    @pytest.mark.parametrize("ending", ["bin", "npy", "npz", "pcd", "ply", "las", "feather", "e57", "csv"])
    def test_bytes_are_brought_to_one_and_said(self, tmp_path, ending):
        rows = street(60)
        rows[:, 3] = np.arange(60) * 4
        np.save(tmp_path / "in.npy", rows)
        path = tmp_path / f"a.{ending}"
        if ending == "bin":
            rows.tofile(path)
        elif ending != "npy":
            write_classes(path, tmp_path / "in.npy", classes_of())
        else:
            path = tmp_path / "in.npy"
        cloud = read_points(path)
        np.testing.assert_allclose(cloud.intensity, rows[:, 3] / 255, atol=1e-6)
        assert ending == "e57" or any("divided by 255" in note for note in cloud.notes)
        if ending != "e57":
            fault(path, r"reaches 236, full scale is 1 here; .*--intensity-scale", intensity_scale=1)

    def test_halves_and_doubles_read_as_singles(self, tmp_path):
        for dtype in ("float16", "float64"):
            street(600).astype(dtype).tofile(tmp_path / "a.bin")
            fault(tmp_path / "a.bin", f"give --dtype {dtype}")

    def test_negative_intensity_is_another_column(self, tmp_path):
        rows = street(60)
        rows[:, 3] = -1
        np.save(tmp_path / "a.npy", rows)
        fault(tmp_path / "a.npy", r"intensity lies in -1 \.\.\. -1, it cannot be negative; .*--columns")

    def test_not_finite(self, tmp_path):
        rows = street(60)
        rows[5] = np.inf
        np.save(tmp_path / "a.npy", rows)
        fault(
            tmp_path / "a.npy",
            r"1 of 60 points are NaN or infinite \(first: row 5\).*--invalid",
            invalid="raise",
        )


@pytest.mark.parametrize(
    ("ending", "module"),
    [("pcd", "pypcd4"), ("ply", "plyfile"), ("las", "laspy"), ("laz", "lazrs"), ("e57", "pye57")],
)
def test_a_missing_library_is_named_for_reading_and_writing(tmp_path, monkeypatch, ending, module):
    path = written(tmp_path / f"a.{ending}")
    np.save(tmp_path / "b.npy", street())
    real = importlib.import_module

    def refuse(name, *args):
        if name.split(".")[0] == module:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args)

    monkeypatch.setattr("importlib.import_module", refuse)
    if module == "lazrs":
        monkeypatch.setattr("laspy.LazBackend.detect_available", lambda: ())
    said = rf"needs the package '{module}' .*pip install 'pcsparse\[io\]'"
    with pytest.raises(UnsupportedError, match=said):
        read_points(path)
    with pytest.raises(UnsupportedError, match=said):
        write_classes(tmp_path / f"c.{ending}", tmp_path / "b.npy", classes_of())
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{ending}", "b.npy"]


def test_a_source_that_breaks_in_the_middle_of_writing(tmp_path):
    pytest.importorskip("laspy")
    path = written(tmp_path / "a.las", 500)
    path.write_bytes(path.read_bytes()[:-34])
    with pytest.raises(FormatError, match=r"a\.las: the header promises 500 points, 499 are there"):
        write_classes(tmp_path / "out.las", path, classes_of(500))
    assert [p.name for p in tmp_path.iterdir()] == ["a.las"]
