"""Tiles of large clouds: every point inside one of them, all neighbours in its margin, memory bounded."""

import subprocess
import sys

import numpy as np
import pytest

from pcsparse.data.files import read_points, write_points
from pcsparse.data.files_tiles import cloud_tiles, las_tiles
from pcsparse.errors import FormatError, RangeError
from tests.data.rows import street
from tests.data.test_files_write import UTM

SIZE, MARGIN = 25.0, 5.0


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """3,000 points on 140 x 80 m in UTM, as LAS."""
    pytest.importorskip("laspy")
    folder = tmp_path_factory.mktemp("town")
    rows = street(3000).astype(np.float64)
    rows[:, :3] += UTM
    rows[0, 3] = 1
    np.save(folder / "town.npy", rows)
    write_points(folder / "town.las", read_points(folder / "town.npy"))
    return folder / "town.las"


def check_tiles(tiles, world, intensity):
    times_inside = np.zeros(len(world), int)
    middles = []
    for tile in tiles:
        middles.append(tuple(tile.origin[:2]))
        xyz = tile.points + tile.origin
        np.testing.assert_allclose(xyz, world[tile.rows], rtol=0, atol=1e-4)
        np.testing.assert_allclose(tile.intensity, intensity[tile.rows], rtol=0, atol=1e-6)
        assert tile.points.dtype == np.float32
        assert (np.diff(tile.rows) > 0).all()
        times_inside[tile.rows[tile.inside]] += 1
        # all of the file within the margin, nothing else; half a margin of rounding is none
        away = np.abs(world[:, :2] - tile.origin[:2]).max(axis=1)
        assert set(np.flatnonzero(away < SIZE / 2 + MARGIN - 1e-6)) <= set(tile.rows)
        assert away[tile.rows].max() <= SIZE / 2 + MARGIN + 1e-6
        assert away[tile.rows[tile.inside]].max() <= SIZE / 2 + 1e-6
    assert middles == sorted(set(middles))
    assert len(middles) == tiles.n_tiles > 20
    return times_inside


@pytest.mark.parametrize("chunk", [700, 1_000_000])
def test_las_tiles_hold_every_point_once(town, chunk):
    cloud = read_points(town)
    with las_tiles(town, SIZE, MARGIN, chunk=chunk) as tiles:
        assert (tiles.n_points, tiles.known_scale) == (3000, 65535)
        assert (check_tiles(tiles, cloud.world(), cloud.intensity) == 1).all()


def test_a_black_las_is_on_no_scale(town, tmp_path):
    cloud = read_points(town)
    cloud.intensity[:] = 0
    write_points(tmp_path / "black.las", cloud)
    with las_tiles(tmp_path / "black.las", SIZE, MARGIN) as tiles:
        assert tiles.known_scale is None
    assert cloud_tiles(cloud, SIZE, MARGIN).known_scale is None


def test_cloud_tiles_are_the_same_and_leave_out_what_is_not_finite(town):
    cloud = read_points(town)
    assert (check_tiles(cloud_tiles(cloud, SIZE, MARGIN), cloud.world(), cloud.intensity) == 1).all()
    cloud.points[17] = np.nan
    inside = np.concatenate([t.rows[t.inside] for t in cloud_tiles(cloud, SIZE, MARGIN)])
    assert sorted(inside) == [row for row in range(3000) if row != 17]


def test_tiles_go_by_rows_of_the_file(tmp_path):
    rows = street(300)
    rows[:100, 0] = np.nan
    np.save(tmp_path / "a.npy", rows)
    with pytest.warns(UserWarning, match="dropped"):
        cloud = read_points(tmp_path / "a.npy")
    for tile in cloud_tiles(cloud, SIZE, 0.0):
        np.testing.assert_allclose(tile.points + tile.origin, rows[tile.rows, :3], atol=1e-5)


def test_faults_of_tiles(town, tmp_path):
    with pytest.raises(RangeError, match="from 0 to the size, got 5 and 6"), las_tiles(town, 5, 6):
        pass
    said = "reaches 65535, full scale is 10"
    with pytest.raises(FormatError, match=said), las_tiles(town, 50, 5, intensity_scale=10):
        pass
    cut = tmp_path / "cut.las"
    cut.write_bytes(town.read_bytes()[:-300])
    said = r"header promises 3000 points, 29\d\d are there"
    with pytest.raises(FormatError, match=said), las_tiles(cut, 50, 5):
        pass


MEASURED = """
import resource, sys, time
from pathlib import Path
import laspy, lazrs, numpy as np
from pcsparse.data.files import write_classes
from pcsparse.data.files_table import PointClasses
from pcsparse.data.files_tiles import las_tiles

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

big, out, n = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
header = laspy.LasHeader(point_format=3, version="1.2")
header.scales, header.offsets = np.full(3, 1e-3), np.array([637_000.0, 5_849_000.0, 0.0])
rng = np.random.default_rng(0)
with laspy.open(big, mode="w", header=header) as writer:
    for start in range(0, n, 500_000):
        record = laspy.ScaleAwarePointRecord.zeros(500_000, header=header)
        record.X, record.Y = rng.integers(0, 400_000, (2, 500_000))
        record.intensity = record.user_data = np.arange(500_000) % 256
        writer.write_points(record)
before, began = peak(), time.perf_counter()
inside = np.zeros(n, bool)
with las_tiles(big, 60.0, 10.0) as tiles:
    for tile in tiles:
        inside[tile.rows[tile.inside]] = True
assert inside.all()
tiled, tile_s = peak(), time.perf_counter() - began
began = time.perf_counter()
classes = PointClasses(np.arange(n).astype(np.uint16), np.full(n, 0.5, np.float32), np.full(n, 2, np.uint8))
write_classes(out, big, classes)
write_s = time.perf_counter() - began
print(f"{before:.0f} {tiled:.0f} {peak():.0f} MiB; tiles {tile_s:.1f} s, classes {write_s:.1f} s")
start = 0
with laspy.open(out) as reader:
    assert reader.header.point_count == n
    for record in reader.chunk_iterator(1_000_000):
        assert (record.pcsparse_class == classes.raw_ids[start : start + len(record)]).all()
        assert (record.user_data == np.arange(start, start + len(record)) % 500_000 % 256).all()
        start += len(record)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["las", "laz"])
def test_ten_million_points_pass_through_bounded_memory(tmp_path, ending):
    pytest.importorskip("laspy")
    n = 10_000_000
    arguments = [sys.executable, "-c", MEASURED, tmp_path / "big.las", tmp_path / f"out.{ending}", n]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    before, tiled, written = (float(word) for word in done.stdout.split(" MiB")[0].split())
    # a million points at a time with their margins; 10 million at once have 620 MiB in coordinates alone
    assert tiled - before < 350
    # the classes themselves are 67 MiB
    assert written - tiled < 250
