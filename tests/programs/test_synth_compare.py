"""`make_synthetic.py compare`: what it tells and writes, and the files it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pcsparse.data.files import read_points
from pcsparse.data.synthetic.band import Verdict
from pcsparse.data.synthetic.caster import resolve_caster
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.sweep import Sweep
from pcsparse.errors import FormatError, PcsparseError, RangeError, UnsupportedError
from pcsparse.programs import synth_compare_measure
from pcsparse.programs.synth import main
from pcsparse.programs.synth_compare_measure import CompareSettings, compare, town_sweep
from pcsparse.programs.synth_compare_table import comparison_text

OPTIONS = ["--sensor", "vlp16", "--sweeps", "1", "--seed", "3"]


@pytest.fixture(scope="module")
def simulated() -> Sweep:
    return town_sweep(3, sensor_named("vlp16"), resolve_caster("auto"))


@pytest.fixture
def rows(simulated: Sweep, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A sweep of town 3, (n, 4) float32, which is not simulated again in this process."""
    monkeypatch.setattr(synth_compare_measure, "town_sweep", lambda seed, sensor, caster: simulated)
    return np.concatenate([simulated.points, simulated.intensity[:, None]], 1).astype("<f4")


def test_a_sweep_against_itself_holds_and_is_written(
    rows: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, out = tmp_path / "real.bin", tmp_path / "out"
    name = "/".join(real.parts[-3:])
    rows.tofile(real)
    assert main(["compare", str(real), *OPTIONS, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 simulated vlp16 sweeps (towns 3 to 3" in printed
    assert name in printed
    assert "beams: 3 of 3 hold; the sweep: 27 of 27 hold; profiles: 29 of 29 hold" in printed
    assert (out / "compare.txt").read_text().strip() in printed
    for picture in ("compare.png", "compare_sweeps.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    record = json.loads((out / "compare.json").read_text())
    assert record["holds"] is True
    assert "ring angles of the real sweeps, their median, off the preset: 0.0" in printed
    assert [row["preset"] for row in record["rings"]] == list(sensor_named("vlp16").elevations)
    assert max(abs(row["real"] or 0.0) for row in record["rings"]) < 0.01
    points = next(row for row in record["figures"] if row["name"] == "points")
    assert points["mean"] == points["real"][0] == len(rows)
    assert points["band"] == pytest.approx([0.9 * len(rows), 1.1 * len(rows)])
    table = list(csv.reader((out / "compare.csv").read_text().splitlines()))
    assert [line[:2] for line in table[1:]] == [
        [name, "real"],
        ["town 3", "simulated"],
    ]
    assert float(table[1][table[0].index("points")]) == len(rows)


def test_what_does_not_hold_is_told_and_gives_one(
    rows: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "real.bin"
    # a darker twin
    (rows * np.array([1, 1, 1, 0.5], "<f4")).astype("<f4").tofile(real)
    assert main(["compare", str(real), *OPTIONS]) == 1
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("intensity, mean"))
    assert line.split()[-3:] == ["mean", "too", "high"]
    assert " 0% " in line
    assert next(line for line in printed.splitlines() if line.startswith("points ")).endswith("holds")


def test_intensity_on_another_scale_is_noted(rows: np.ndarray, tmp_path: Path) -> None:
    real = tmp_path / "bright.bin"
    (rows * np.array([1, 1, 1, 255], "<f4")).astype("<f4").tofile(real)
    found = compare(CompareSettings((real,), 1, 3, "vlp16"))
    text = comparison_text(found)
    assert "bright.bin: intensity " in text
    assert " divided by 255; if that is wrong, bring it to 0-1 first" in text


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (None, [], "does not exist"),
        (b"", [], "0 bytes"),
        (b"x" * 41, [], "no whole number of points.*--columns"),
        ("columns", [], "no sweep of float32|makes sense with"),
        ("dark", [], "no intensity, or 0 throughout.*leave it out"),
        ("crop", [], "degrees, no whole turn|beams, vlp16 has 16"),
        ("far", [], "world coordinates.*sensor's frame"),
        ("good", ["--sensor", "hdl64e"], "16 beams, hdl64e has 64.*--sensor"),
        ("good", ["--sweeps", "0"], "--sweeps 0"),
        ("good", ["--jobs", "0"], "--jobs 0"),
    ],
    ids=["missing", "empty", "odd", "columns", "dark", "crop", "far", "sensor", "sweeps", "jobs"],
)
def test_bad_input_names_the_file_and_the_next_step(
    rows: np.ndarray, tmp_path: Path, content: bytes | str | None, options: list[str], told: str
) -> None:
    real = tmp_path / "street.bin"
    match content:
        case None:
            pass
        case bytes():
            real.write_bytes(content)
        case "columns":
            np.ascontiguousarray(rows[: 4 * (len(rows) // 4), :3]).tofile(real)
        case "dark":
            (rows * np.array([1, 1, 1, 0], "<f4")).astype("<f4").tofile(real)
        case "crop":
            rows[rows[:, 0] > np.abs(rows[:, 1])].tofile(real)
        case "far":
            (rows + np.array([9000, 9000, 0, 0], "<f4")).astype("<f4").tofile(real)
        case _:
            rows.tofile(real)
    with pytest.raises(PcsparseError, match=told) as caught:
        main(["compare", str(real), *OPTIONS, *options])
    if not isinstance(caught.value, RangeError):
        assert isinstance(caught.value, FormatError)
        assert "street.bin" in str(caught.value)


def test_pictures_without_matplotlib_name_the_extra(
    rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    rows.tofile(tmp_path / "real.bin")
    with pytest.raises(UnsupportedError, match=r"pcsparse\[view\]"):
        main(["compare", str(tmp_path / "real.bin"), *OPTIONS, "--out", str(tmp_path / "out")])


@pytest.mark.slow
def test_simulated_sweeps_lie_among_real_ones(real_data: Path) -> None:
    real = (
        *(real_data / "kitti" / "training" / "velodyne" / f"{name}.bin" for name in ("000000", "000001")),
        real_data / "kitti_odometry" / "000049.bin",
        real_data / "semantickitti" / "dataset" / "sequences" / "00" / "velodyne" / "000000.bin",
    )
    found = compare(CompareSettings(real, sweeps=12))
    for verdict in found.verdicts:
        if verdict.figure.group == "beams":
            assert verdict.holds, verdict.figure.name
    # the means of a dozen towns stray from those of fifty: by a fifth of the band's width they may
    strayed = [
        (verdict.figure.name, verdict.mean, verdict.low, verdict.high)
        for verdict in found.verdicts
        if verdict.figure.group == "figures" and not _near(verdict)
    ]
    assert not strayed
    profiles = [verdict for verdict in found.verdicts if verdict.figure.group == "profiles"]
    assert np.mean([_near(verdict) for verdict in profiles]) > 0.85


def _near(verdict: Verdict) -> bool:
    slack = 0.2 * (verdict.high - verdict.low)
    return verdict.low - slack <= verdict.mean <= verdict.high + slack


@pytest.mark.slow
def test_simulated_sweeps_do_not_depend_on_the_number_of_processes(rows: np.ndarray, tmp_path: Path) -> None:
    rows.tofile(tmp_path / "real.bin")
    settings = CompareSettings((tmp_path / "real.bin",), 1, 3, "vlp16", jobs=2)
    found = compare(settings)
    np.testing.assert_array_equal(found.simulated[0].values, found.real[0].values)


def test_the_real_nuscenes_sweep_is_read_by_its_rings(real_data: Path) -> None:
    (path,) = (real_data / "nuscenes" / "samples" / "LIDAR_TOP").glob("*.pcd.bin")
    found = synth_compare_measure._measured_file(read_points(path), sensor_named("hdl32e"))
    values = {figure.name: value for figure, value in zip(found.figures, found.values, strict=True)}
    # 34,688 rows, of which 8,029 are the own roof and pulses that never came back
    assert values["points"] == 34_688 - 8_029
    assert values["rings"] == 32
    # 1,084 firings a turn
    assert values["azimuth step, median"] == pytest.approx(360 / 1084, abs=0.002)
    turn = found.turn
    assert turn is not None
    # the street runs ahead and behind in the car's frame, not across
    far = np.linalg.norm(turn.points, axis=1) > 30
    assert np.abs(turn.points[far, 0]).mean() > np.abs(turn.points[far, 1]).mean()
