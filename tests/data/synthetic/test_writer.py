"""The SemanticKITTI layout on disk: exact, repeatable, resumable, and with sane figures."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pcsparse.data.synthetic.camera import camera_poses
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.stats import GROUPS, read_sweep, sweep_stats
from pcsparse.data.synthetic.writer import RECORD, write_towns
from pcsparse.errors import FormatError, RangeError
from pcsparse.programs.synth import main

ROOT = Path(__file__).resolve().parents[3]


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towns") / "root"
    return write_towns(folder, {"00": 5, "08": 6}, 2, sensor_named("hdl64e"), "bvh")


def test_the_layout_is_semantickittis(root: Path) -> None:
    for name in ("00", "08"):
        folder = root / "sequences" / name
        assert sorted(path.name for path in folder.iterdir()) == [
            "calib.txt", "labels", "poses.txt", "times.txt", "velodyne",
        ]  # fmt: skip
        for index in range(2):
            points = np.fromfile(folder / "velodyne" / f"{index:06d}.bin", "<f4").reshape(-1, 4)
            labels = np.fromfile(folder / "labels" / f"{index:06d}.label", "<u4")
            assert len(points) == len(labels)
            assert np.isfinite(points).all()
            assert points[:, 3].min() >= 0
            assert points[:, 3].max() <= 1
            assert set(np.unique(labels & 0xFFFF).tolist()) <= {raw for ids in GROUPS.values() for raw in ids}
            things = np.isin(labels & 0xFFFF, [10, 18, 30, 252, 254])
            assert ((labels >> 16)[things] > 0).all()
        poses = np.loadtxt(folder / "poses.txt")
        assert poses.shape == (2, 12)
        np.testing.assert_allclose(poses[0].reshape(3, 4), np.eye(4)[:3], atol=1e-9)
        # camera 0 looks ahead along z
        assert 8.0 < poses[1].reshape(3, 4)[2, 3] < 11.0
        assert np.loadtxt(folder / "times.txt").shape == (2,)
        calib = dict(line.split(": ") for line in (folder / "calib.txt").read_text().splitlines())
        assert list(calib) == ["P0", "P1", "P2", "P3", "Tr"]
        assert all(len(row.split()) == 12 for row in calib.values())
    record = json.loads((root / RECORD).read_text())
    assert record["caster"] == "bvh"
    assert record["sensor"] == "hdl64e"
    assert record["sequences"] == {"00": 5, "08": 6}
    assert record["complete"] is True
    assert not list(root.rglob("*.part"))


def test_a_sweep_looks_like_a_real_one(root: Path) -> None:
    for path in sorted(root.glob("sequences/*/velodyne/*.bin")):
        points, intensity, semantic = read_sweep(path)
        stats = sweep_stats(points, intensity, semantic)
        assert stats.rings == 64
        assert 95_000 < stats.points < 130_000
        assert 60_000 < stats.voxels[0] < 105_000
        assert 2.8 < stats.neighbours < 6.0
        assert 0.15 < stats.intensity[0] < 0.45
        ground = points[np.isin(semantic, GROUPS["road"]) & (np.linalg.norm(points, axis=1) < 8)]
        assert abs(np.median(ground[:, 2]) + 1.73) < 0.15
        assert stats.shares["road"] > 0.08
        # rings leave the sensor on their cones: the tilt of the beam is that of the preset
        steepest = np.degrees(np.arcsin(points[-500:, 2] / np.linalg.norm(points[-500:], axis=1)))
        assert np.median(steepest) == pytest.approx(-23.75, abs=0.6)


def test_still_things_stay_in_place_between_sweeps(root: Path) -> None:
    folder = root / "sequences" / "00"
    transform = np.array(
        [[float(v) for v in line.split()[1:]] for line in (folder / "calib.txt").read_text().splitlines()][4]
    )
    tr = np.vstack([transform.reshape(3, 4), [0, 0, 0, 1]])
    clouds = []
    for index, row in enumerate(np.loadtxt(folder / "poses.txt")):
        pose = np.linalg.inv(tr) @ np.vstack([row.reshape(3, 4), [0, 0, 0, 1]]) @ tr
        points, _, semantic = read_sweep(folder / "velodyne" / f"{index:06d}.bin")
        still = points[np.isin(semantic, (50, 51, 80))]
        clouds.append(still @ pose[:3, :3].T + pose[:3, 3])
    cells = [np.unique(np.floor(cloud / 0.3).astype(int), axis=0) for cloud in clouds]
    shared = len(np.unique(np.concatenate(cells), axis=0))
    overlap = 1 - (shared - len(cells[0])) / len(cells[1])
    # without their poses the same clouds share under a tenth
    assert overlap > 0.2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_at_any_number_of_threads(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pcsparse.data.synthetic.writer import write_towns;"
        "from pcsparse.data.synthetic.sensor import sensor_named;"
        "write_towns(sys.argv[1], {'00': 5}, 2, sensor_named('hdl64e'), 'bvh')"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "one")],
        check=True,
        cwd=ROOT,
        env={
            "NUMBA_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
        },
    )
    ours = {key: value for key, value in digest(root).items() if key.startswith("sequences/00")}
    theirs = {key: value for key, value in digest(tmp_path / "one").items() if key.startswith("sequences")}
    assert ours == theirs


def test_an_interrupted_root_resumes_to_the_same_bytes(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "again"
    write_towns(folder, {"00": 5}, 2, sensor_named("hdl64e"), "bvh")
    whole = digest(folder)
    (folder / "sequences" / "00" / "velodyne" / "000001.bin").unlink()
    write_towns(folder, {"00": 5}, 2, sensor_named("hdl64e"), "bvh", existing="resume", report=said.append)
    assert digest(folder) == whole
    assert any("1 sweeps were there already" in line for line in said)
    with pytest.raises(FormatError, match="other settings: sequences"):
        write_towns(folder, {"00": 9}, 2, sensor_named("hdl64e"), "bvh", existing="resume")


def test_a_folder_that_is_not_empty_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not empty"):
        write_towns(root, {"00": 1}, 1, sensor_named("hdl64e"), "bvh")
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(FormatError, match="not ours"):
        write_towns(tmp_path, {"00": 1}, 1, sensor_named("hdl64e"), "bvh", existing="replace")
    assert (tmp_path / "letter.txt").read_text() == "mine"
    with pytest.raises(RangeError, match="0 sweeps"):
        write_towns(tmp_path / "x", {"00": 1}, 0, sensor_named("hdl64e"), "bvh")


def test_camera_poses_undo_to_sensor_poses() -> None:
    rng = np.random.default_rng(0)
    poses = []
    for _ in range(3):
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = q * np.sign(np.linalg.det(q)), rng.normal(size=3)
        poses.append(pose)
    back = camera_poses(poses)
    tr = np.array([[0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(
        np.linalg.inv(tr) @ back[2] @ tr, np.linalg.inv(poses[0]) @ poses[2], atol=1e-12
    )


def test_the_command_writes_and_prints_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--sequences", "08", "--sweeps", "1", "--sensor", "vlp16", "--caster", "bvh"]
    assert main([str(out), *arguments]) == 0
    assert "ray caster: bvh" in capsys.readouterr().out
    assert main(["stats", str(out), "--sensor", "vlp16"]) == 0
    printed = capsys.readouterr().out
    assert "08/velodyne/000000.bin" in printed
    assert "vegetation" in printed
    assert main([str(out), *arguments, "--force"]) == 0
    with pytest.raises(RangeError, match="3 towns"):
        main([str(out), "--towns", "3", "--sequences", "00"])


def test_figures_of_a_known_cloud() -> None:
    # a row of 10 cells along x at 5 cm, two points a cell; the middle ones have two neighbours
    x = np.repeat(np.arange(10) * 0.05 + 0.01, 2)
    points = np.stack([x, 0 * x + 0.01, 0 * x + 0.01], 1).astype(np.float32)
    stats = sweep_stats(points, np.full(20, 0.5, np.float32), np.repeat([40, 70], 10))
    assert stats.voxels == (10, 5, 3)
    assert stats.neighbours == pytest.approx((8 * 3 + 2 * 2) / 10)
    assert stats.shares["road"] == stats.shares["vegetation"] == 0.5
    with pytest.raises(FormatError, match="without points"):
        sweep_stats(points[:0], points[:0, 0])


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "velodyne").mkdir()
    (tmp_path / "labels").mkdir()
    bin_file = tmp_path / "velodyne" / "000000.bin"
    bin_file.write_bytes(b"x" * 33)
    with pytest.raises(FormatError, match="33 bytes"):
        read_sweep(bin_file)
    bin_file.write_bytes(np.zeros((2, 4), "<f4").tobytes())
    (tmp_path / "labels" / "000000.label").write_bytes(np.zeros(3, "<u4").tobytes())
    with pytest.raises(FormatError, match="3 labels for 2 points"):
        read_sweep(bin_file)
    with pytest.raises(FormatError, match="no sweep"):
        main(["stats", str(tmp_path / "nothing")])


def test_neighbours_are_those_of_a_dense_grid() -> None:
    index = np.random.default_rng(0).integers(0, 5, (60, 3))
    dense = np.zeros((7, 7, 7), int)
    dense[tuple((index + 1).T)] = 1
    around = sum(
        np.roll(dense, (x, y, z), (0, 1, 2)) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)
    )
    stats = sweep_stats((index * 0.05 + 0.02).astype(np.float32), np.zeros(60, np.float32))
    assert stats.neighbours == pytest.approx(around[dense == 1].mean())
