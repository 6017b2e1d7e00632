"""`make_synthetic.py merged`: the file that the benchmarks on an accelerator read."""

import numpy as np
import pytest
import torch

from pcsparse.bench.clouds import Cloud
from pcsparse.bench.device.scene import cloud_of
from pcsparse.errors import RangeError
from pcsparse.programs import synth_merged
from pcsparse.programs.synth import main


def test_the_file_is_what_the_benchmarks_would_simulate(tmp_path, monkeypatch, rng, capsys):
    asked = []

    def simulated(n):
        asked.append(n)
        feats = torch.rand(40, 5, generator=rng)
        return Cloud(f"{n} simulated sweeps", feats[:, :3], feats)

    monkeypatch.setattr(synth_merged, "simulated_sweeps", simulated)
    out = tmp_path / "new" / "SWEEPS.npy"
    assert main(["merged", str(out)]) == 0
    assert asked == [10]
    assert capsys.readouterr().out == f"{out}: 10 simulated sweeps, 40 points\n"
    table = np.load(out)
    assert (table.shape, table.dtype) == ((40, 5), np.float32)
    read = cloud_of(out, quick=False, several=True)
    assert torch.equal(read.feats, torch.from_numpy(table))
    assert torch.equal(read.points, read.feats[:, :3])
    assert [path.name for path in out.parent.iterdir()] == ["SWEEPS.npy"]


@pytest.mark.parametrize(
    ("line", "said"), [(["--sweeps", "0"], "got 0 and"), (["--sweeps", "2"], "ends in .npy")]
)
def test_what_has_no_meaning_is_refused(tmp_path, line, said):
    with pytest.raises(RangeError, match=said):
        main(["merged", str(tmp_path / ("a.npy" if "0" in line else "a.bin")), *line])


@pytest.mark.slow
def test_columns_are_metres_intensity_and_seconds(tmp_path):
    assert main(["merged", str(tmp_path / "two.npy"), "--sweeps", "2"]) == 0
    table = np.load(tmp_path / "two.npy")
    assert len(table) > 20_000
    assert np.unique(table[:, 4]).tolist() == pytest.approx([0.0, 0.05])
    assert 0 <= table[:, 3].min() < table[:, 3].max() <= 1
    assert 20 < np.abs(table[:, :2]).max() < 200
