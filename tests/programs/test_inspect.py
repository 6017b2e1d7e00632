"""What `pcsparse inspect` says of clouds with a known fault; with the flags that it names, they are fine."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from pcsparse.cli import main
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.infer.diagnosis import diagnose
from pcsparse.programs.infer import placement_of
from pcsparse.programs.infer_tiled import tile_size
from pcsparse.train.model_file import ModelCard
from tests.infer.sweeps import HEIGHT, walled_street, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def inspected(model, capsys):
    """Run inspect on a file; gives the exit status and the JSON of the file."""

    def run(path, *flags):
        status = main(["inspect", str(path), "--checkpoint", model, "--json", *flags])
        return status, json.loads(capsys.readouterr().out)[0]

    return run


def _moved(**values):
    """Rows that the placement of `values` would bring back to where they belong, but for a shift in z."""
    rows = walled_street()
    back = rows[:, :3].astype(np.float64) @ Placement(up=values.get("up", "z")).rotation()
    rows = np.column_stack([back / values.get("scale", 1.0), rows[:, 3]])
    return rows.astype(np.float32)


def _raised():
    rows = walled_street()
    rows[:, 2] += HEIGHT + 1
    return rows


def _far():
    rows = walled_street()
    rows[:, :2] += (512.0, -340.0)
    return rows


def _with_zeros():
    rows = walled_street()
    rows[::9] = 0
    return rows


def _with_strays():
    rows = walled_street()
    rows[5:8, 0] = 4e5
    return rows


def _with_one_wild_point():
    rows = walled_street()
    rows[5, 0] = 1e7
    return rows


def _intensity(factor, dtype=np.float32):
    rows = walled_street().astype(np.float64)
    rows[:, 3] = np.round(rows[:, 3] * factor)
    return rows.astype(dtype)


def _saturated():
    rows = _intensity(100)
    rows[:20, 3] = 100
    return rows


def _dim():
    return _intensity(4095)[20:]


def _as_bin(rows, dtype="<f4"):
    return ".bin", rows.astype(dtype).tobytes()


def _five(rows):
    return np.column_stack([rows, np.linspace(0, 0.1, len(rows))]).astype(np.float32)


def _map():
    # walls behind walls
    return np.concatenate([walled_street(seed=i) + np.float32([0, 25 * i - 25, 0, 0]) for i in range(3)])


UTM = np.array([4.1e5, 5.4e6, 0.0, 0.0])


FAULTY = {
    "millimetres": (lambda: _moved(scale=0.001), {"unit": "--scale 0.001"}),
    "centimetres": (lambda: _moved(scale=0.01), {"unit": "--scale 0.01"}),
    "camera axes": (lambda: _moved(up="-y"), {"axis": "--up=-y"}),
    "graphics axes": (lambda: _moved(up="y"), {"axis": "--up=y"}),
    "upside down": (lambda: _moved(up="-z"), {"axis": "--up=-z"}),
    "camera, millimetres": (
        lambda: _moved(up="-y", scale=0.001),
        {"unit": "--scale 0.001", "axis": "--up=-y"},
    ),
    "tilted": (lambda: _moved(up="0.2,-0.05,0.98"), {"tilt": "--up=0.200,-0.050,0.979"}),
    "ground at 1 m": (_raised, {"ground": "--z-offset -2.70"}),
    "another origin": (_far, {"origin": "--origin=512,-340,0"}),
    "zeros for no return": (_with_zeros, {"zeros": "--min-range 0.5"}),
    "strays": (_with_strays, {"stray": "--max-range 300"}),
    "percent": (_saturated, {"intensity": "--intensity-scale 100"}),
    "12 bits": (lambda: _intensity(4095), {"intensity": "--intensity-scale 4095"}),
    "12 bits, nothing bright": (_dim, {"intensity": "--intensity-scale 4095"}),
    "beyond 16 bits": (lambda: _intensity(2**20 - 1), {"reading": "--intensity-scale 1.04858e+06"}),
    "a map": (_map, {"map": "--tile 60"}),
    "a map in the world": (lambda: _map().astype(np.float64) + UTM + (0, 0, 300, 0), {"map": "--tile 60"}),
    "half floats": (lambda: _as_bin(walled_street(), "<f2"), {"reading": "--dtype float16"}),
    "doubles": (lambda: _as_bin(walled_street(), "<f8"), {"reading": "--dtype float64"}),
    "three columns more": (
        lambda: _as_bin(np.pad(walled_street(), ((0, 0), (0, 3)))),
        {"reading": "--columns 7"},
    ),
    "five columns without rings": (lambda: _as_bin(_five(walled_street())), {"reading": "--columns 5"}),
    "one point nowhere without a header": (
        lambda: _as_bin(_with_one_wild_point()),
        {"reading": "--columns 4 --dtype float32", "stray": "--max-range 300"},
    ),
    "millimetres without a header": (
        lambda: _as_bin(_moved(scale=0.001)),
        {"reading": "--columns 4 --dtype float32", "unit": "--scale 0.001"},
    ),
}


def _written(path, content):
    if isinstance(content, tuple):
        ending, data = content
        path.with_suffix(ending).write_bytes(data)
        return path.with_suffix(ending)
    np.save(path.with_suffix(".npy"), content)
    return path.with_suffix(".npy")


def test_the_origin_that_it_names_lies_in_the_world(model):
    rows, at = _far(), UTM[:3]
    n = len(rows)
    cloud = PointCloud(rows[:, :3], at, rows[:, 3], None, np.arange(n), n, Path("a.npy"))
    card = ModelCard.read(Path(model) / "model.json")
    found = diagnose(cloud, card.input_spec, card.voxels)
    assert found.placement == Placement(origin=(410512.0, 5399660.0, 0.0))
    assert diagnose(cloud, card.input_spec, card.voxels, found.placement).faults == ()


@pytest.mark.parametrize("name", FAULTY)
def test_the_flags_that_it_names_mend_the_fault(tmp_path, inspected, monkeypatch, model, name):
    make, expected = FAULTY[name]
    path = _written(tmp_path / "cloud", make())
    status, found = inspected(path)
    assert status == 1
    flags = {fault["kind"]: fault["flag"] for fault in found["faults"] if fault["grave"]}
    assert flags == expected
    assert sorted(" ".join(found["flags"]).split()) == sorted(" ".join(expected.values()).split())
    given = [word for flag in found["flags"] for word in flag.split(" ")]
    status, found = inspected(path, *given)
    assert [fault for fault in found["faults"] if fault["grave"]] == []
    assert status == 0
    if "map" not in expected:
        assert found["report"]["facts"]["ground_height"] == pytest.approx(-HEIGHT, abs=0.1)
    _accepted(monkeypatch, path, model, given)


TILED = {
    "as it is": (walled_street, ""),
    "strays": (_with_strays, ""),
    "zeros for no return": (_with_zeros, ""),
    "camera, millimetres": (lambda: _moved(up="-y", scale=0.001), "--scale 0.001 --up=-y --tile 0"),
    "tilted": (lambda: _moved(up="0.2,-0.05,0.98"), "--up=0.200,-0.050,0.979 --tile 0"),
    "12 bits": (lambda: _intensity(4095), "--intensity-scale 4095"),
}


@pytest.mark.parametrize("name", TILED)
def test_what_it_names_for_tiles_is_accepted(tmp_path, inspected, monkeypatch, model, name):
    make, expected = TILED[name]
    path = _written(tmp_path / "cloud", make())
    status, found = inspected(path, "--tile", "60")
    said = " ".join(found["flags"])
    assert said == (expected if "--tile" in expected else f"{expected} --tile 60".strip())
    assert status == (1 if expected else 0)
    _accepted(monkeypatch, path, model, found["flags"])


def _accepted(monkeypatch, path, model, flags):
    """Take a command line through the checks of infer itself, up to the network."""
    given = []
    monkeypatch.setattr("pcsparse.programs.infer.run", lambda settings: given.append(settings) or 0)
    words = [word for flag in flags for word in flag.split(" ")]
    assert main(["infer", str(path), "--checkpoint", model, *words]) == 0
    (settings,) = given
    placement_of(settings)
    tile_size(path, settings)
    return settings


def test_a_map_in_place_of_a_sweep_with_an_origin_goes_without_it(tmp_path, inspected, monkeypatch, model):
    path = _written(tmp_path / "cloud", _map())
    status, found = inspected(path, "--origin=1,0,0")
    assert (status, found["flags"]) == (1, ["--tile 60"])
    _accepted(monkeypatch, path, model, found["flags"])


def test_a_sweep_that_the_model_knows_is_fine(tmp_path, inspected, model, capsys):
    path = _written(tmp_path / "cloud", _as_bin(walled_street()))
    status, found = inspected(path)
    assert (status, found["flags"], found["fine"]) == (0, [], True)
    report = found["report"]
    assert report["rings"]["count"] == 64
    assert report["rings"]["step"] == pytest.approx(360 / 300, abs=0.01)
    assert (report["rings"]["low"], report["rings"]["high"]) == pytest.approx((-24, 2), abs=0.1)
    assert report["frame"]["ground"]["height"] == pytest.approx(-HEIGHT, abs=0.02)
    assert report["intensity"]["high"] == pytest.approx(0.99)
    assert sum(report["bands"]) == report["n_file"] == 19_200
    assert report["behind"] < 0.02
    assert main(["inspect", str(path), "--checkpoint", model]) == 0
    said = capsys.readouterr().out
    for part in (
        "64 lasers from -24.0 to 2.0 degrees",
        "z up, metres",
        "nothing that the model does not know",
    ):
        assert part in said


def test_the_command_that_it_names_can_be_pasted(tmp_path, model, capsys):
    path = _written(tmp_path / "my street", _raised())
    assert main(["inspect", str(path), "--checkpoint", model]) == 1
    said = capsys.readouterr().out
    command = next(line for line in said.splitlines() if line.strip().startswith("try"))
    words = shlex.split(command)
    assert words[1:4] == ["pcsparse", "infer", str(path)]
    assert "beyond m" not in said


def test_lasers_of_a_cropped_view_are_counted(tmp_path, inspected):
    rows = walled_street()
    rows = rows[np.abs(np.degrees(np.arctan2(rows[:, 1], rows[:, 0]))) < 40]
    status, found = inspected(_written(tmp_path / "cloud", rows))
    # fewer points, but no fewer in a direction
    assert (status, found["faults"]) == (0, [])
    assert found["report"]["coverage"] == pytest.approx(8 / 36)
    rings = found["report"]["rings"]
    assert (rings["count"], rings["source"]) == (64, "order")
    assert (rings["low"], rings["high"]) == pytest.approx((-24, 2), abs=0.1)


def test_shuffled_lasers_are_counted_by_their_elevations(tmp_path, inspected):
    rows = np.random.default_rng(0).permutation(walled_street())
    rings = inspected(_written(tmp_path / "cloud", rows))[1]["report"]["rings"]
    assert rings["source"] == "elevations"
    assert rings["count"] == pytest.approx(64, abs=16)


def _thinned():
    # laser by laser, as a sensor with eight of them would see it
    return walled_street().reshape(64, 300, 4)[::8].reshape(-1, 4)


def _at_random():
    rows = walled_street()
    return rows[np.random.default_rng(0).permutation(len(rows))[::10]]


HOPELESS = {
    "no intensity": (lambda: walled_street()[:, :3], "intensity"),
    "dark": (lambda: walled_street() * np.float32([1, 1, 1, 0]), "intensity"),
    "one brightness": (
        lambda: walled_street() * np.float32([1, 1, 1, 0]) + np.float32([0, 0, 0, 0.4]),
        "intensity",
    ),
    "fewer lasers": (_thinned, "lasers alone"),
    "thinned at random": (_at_random, "lasers density"),
    "in UTM, as doubles": (lambda: walled_street().astype(np.float64) + UTM, None),
    "stored as float32 in UTM": (
        lambda: (walled_street().astype(np.float64) + UTM).astype(np.float32),
        "resolution",
    ),
    "a box": (lambda: walled_street() * np.float32([0.05, 0.05, 0.05, 1]), "small"),
    "few": (lambda: walled_street()[:50], "few"),
    "all invalid": (lambda: walled_street() * np.float32(np.nan), "empty"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_what_no_flag_mends_is_named(tmp_path, inspected, name):
    make, kind = HOPELESS[name]
    status, found = inspected(_written(tmp_path / "cloud", make()))
    grave = [fault["kind"] for fault in found["faults"] if fault["grave"]]
    assert grave == ([] if kind is None else kind.split())
    assert status == (0 if kind is None else 1)
    assert all(fault["flag"] is None for fault in found["faults"])


def test_what_is_only_worth_knowing_does_not_change_the_status(tmp_path, inspected):
    rows = walled_street()
    rows[100:400] = (1.0, 0.5, -0.3, 0.2)
    rows[::50, 0] = np.nan
    rows[1:4] = 0
    status, found = inspected(_written(tmp_path / "cloud", rows))
    kinds = {fault["kind"]: fault["text"] for fault in found["faults"]}
    assert status == 0
    assert set(kinds) == {"own", "repeated", "invalid", "zeros"}
    assert "384 of 19200 points are NaN" in kinds["invalid"]
    assert kinds["repeated"].startswith("293 points repeat")


def test_a_brought_model_that_knows_the_sensor_is_named(tmp_path, inspected, monkeypatch):
    write_model(tmp_path / "sixty-four")
    write_model(tmp_path / "eight", _thinned())
    (tmp_path / "brought").mkdir()
    for name in ("sixty-four", "eight"):
        for ending in ("json", "safetensors"):
            path = tmp_path / "brought" / f"{name}.{ending}"
            path.write_bytes((tmp_path / name / f"model.{ending}").read_bytes())
    monkeypatch.setattr("pcsparse.resources.weights_dir", lambda: tmp_path / "brought")
    status, found = inspected(_written(tmp_path / "cloud", _thinned()))
    flag = "--model eight"
    assert (status, found["faults"][0]["kind"], found["faults"][0]["flag"]) == (1, "lasers", flag)
    assert found["flags"] == [flag]


def test_a_file_that_can_be_read_and_is_no_street_is_read_as_asked(tmp_path, inspected):
    rows = np.random.default_rng(0).random((5000, 4), dtype=np.float32) * 30
    rows[:, 3] /= 30
    status, found = inspected(_written(tmp_path / "cloud", _as_bin(rows)))
    assert status == 1
    assert "reading" not in {fault["kind"] for fault in found["faults"]}


def test_voxels_of_another_size_are_named(tmp_path, inspected):
    path = _written(tmp_path / "cloud", walled_street())
    status, found = inspected(path, "--voxel-size", "0.3")
    assert (status, found["faults"][0]["flag"]) == (1, "--voxel-size 0.1")


def test_a_file_that_cannot_be_read_gives_status_2_and_the_others_are_inspected(tmp_path, model, capsys):
    (tmp_path / "a.bin").touch()
    (tmp_path / "b.bin").write_bytes(b"not a sweep, and no multiple of any number of points, by one byte.")
    np.save(tmp_path / "c.npy", walled_street())
    negative = walled_street() - np.float32([0, 0, 0, 3])
    np.save(tmp_path / "d.npy", negative)
    assert main(["inspect", str(tmp_path), "--checkpoint", model, "--json"]) == 2
    listed = json.loads(capsys.readouterr().out)
    assert [found.get("fine") for found in listed] == [None, None, True, None]
    assert "0 bytes" in listed[0]["error"]
    assert "cannot be negative" in listed[3]["error"]
    assert main(["inspect", str(tmp_path / "a.bin"), "--checkpoint", model]) == 2
    assert "error: " in capsys.readouterr().out


def test_the_empty_cloud_is_nothing_to_worry_about(tmp_path, inspected):
    status, found = inspected(_written(tmp_path / "cloud", np.zeros((0, 4), np.float32)))
    assert (status, [fault["kind"] for fault in found["faults"]]) == (0, ["empty"])


REAL = {
    "semantickitti/**/000000.bin": (0, ["64 lasers", "z up, metres"]),
    "kitti/training/velodyne/000001.bin": (0, ["64 lasers", "intensity  0 ... 0.99"]),
    "kitti_odometry/000049.bin": (0, ["64 lasers"]),
    "nuscenes/**/*.pcd.bin": (0, ["32 lasers", "(by column)", "minkunet-32beam", "the own vehicle"]),
    "av2/**/315966265259836000.feather": (1, ["--z-offset -1.", "lasers", "0 ... 255"]),
    "benchmark-pc.npz": (1, ["a map or joined sweeps", "no intensity"]),
    "las/autzen_trim.laz": (1, ["world coordinates: origin (194011, 258815, 0)", "a map or joined sweeps"]),
    "pcd/open3d_ml_fragment.pcd": (1, ["an object or a room"]),
    "pcd/ascii.pcd": (1, ["an object or a room"]),
    "pcd/ascii_empty.pcd": (2, ["0 bytes"]),
    "e57/*.e57": (1, ["too few"]),
}


@pytest.mark.parametrize("pattern", REAL)
def test_real_files(real_data, capsys, pattern):
    paths = sorted(real_data.glob(pattern))
    if not paths:
        pytest.skip(f"no {pattern} among the real samples")
    status, parts = REAL[pattern]
    assert main(["inspect", *map(str, paths)]) == status
    said = capsys.readouterr().out
    for part in parts:
        assert part in said
