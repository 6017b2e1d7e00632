"""Scales of intensity that jump within a drive are told."""

import numpy as np
import pytest

from pcsparse.cli import main
from pcsparse.data.files import read_points
from pcsparse.infer.scale_watch import ScaleWatch
from tests.data.rows import street


def sweep(path, high, seed=0):
    rows = street(500, seed=seed)
    rows[:, 3] *= high / rows[:, 3].max()
    np.save(path, rows)
    return read_points(path)


def said_of(watch, cloud):
    return watch.warning(cloud.source, cloud.known_scale)


def test_only_a_scale_that_differs_is_told(tmp_path):
    watch = ScaleWatch()
    bright, dark, black, other = (
        sweep(tmp_path / f"{name}.npy", high) for name, high in (("a", 200), ("b", 1), ("c", 0), ("d", 120))
    )
    assert said_of(watch, bright) is None
    said = said_of(watch, dark)
    assert said is not None
    assert f"intensity 1.0 is 1 here and 255 in {tmp_path / 'a.npy'}" in said
    assert "--intensity-scale 255" in said
    # once is enough for a drive
    assert said_of(watch, dark) is None
    assert said_of(watch, black) is None
    assert said_of(watch, other) is None


def test_formats_have_scales_of_their_own(tmp_path):
    watch = ScaleWatch()
    assert said_of(watch, sweep(tmp_path / "a.npy", 200)) is None
    street(500, seed=1).astype("<f4").tofile(tmp_path / "b.bin")
    assert said_of(watch, read_points(tmp_path / "b.bin")) is None


@pytest.mark.parametrize("program", ["infer", "tiles", "view"])
def test_programs_tell_it_unless_the_scale_is_given(tmp_path, monkeypatch, capsys, program):
    monkeypatch.chdir(tmp_path)
    sweep(tmp_path / "a.npy", 200)
    sweep(tmp_path / "b.npy", 1, seed=1)
    infer = ["infer", "a.npy", "b.npy", "--out", "out", "--no-picture"]
    command = {
        "infer": infer,
        "tiles": [*infer, "--tile", "80"],
        "view": ["view", "a.npy", "b.npy", "--out", "out.html"],
    }[program]
    assert main(command) == 0
    assert capsys.readouterr().out.count("warning: intensity 1.0 is 1 here and 255 in a.npy") == 1
    assert main([*command, "--intensity-scale", "255"]) == 0
    assert "warning: intensity 1.0" not in capsys.readouterr().out
