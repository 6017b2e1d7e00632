"""The programs with device=cuda, from a folder of sweeps on. Run by `tests/test_mock_cuda.py`."""

import csv

import pytest

from pcsparse.cli import main
from pcsparse.programs import bench_device
from tests.streets import write_root

pytest.importorskip("hydra")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("kitti"), {"00": 2, "08": 1, "11": 1}, points=300)


@pytest.fixture(scope="module")
def trained(device, root, tmp_path_factory):
    """The folder of a run of two epochs, whose steps were recorded."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        status = main(
            [
                "train", f"data.root={root}", "device=cuda", "record=always", "name=tiny", "model=minkunet14",
                "model.spec.width=0.125", "epochs=2", "batch_size=1", "voxels.voxel_size=1.0",
                "progress=plain", "precision=bfloat16", "ema_decay=0.5",
            ]
        )  # fmt: skip
    assert status == 0
    return folder / "runs/tiny"


def test_a_recorded_run_ends_and_goes_on(trained, root, monkeypatch):
    with (trained / "log.csv").open() as log:
        assert len(list(csv.DictReader(log))) == 4
    monkeypatch.chdir(trained.parents[1])
    assert main(
        [
            "train", f"data.root={root}", "device=cuda", "name=longer", "model=spvcnn", "epochs=1",
            "model.spec.width=0.125", "batch_size=1", "voxels.voxel_size=1.0", "progress=plain",
            "resident=true", "accumulate=2", "loss.lovasz=1", "resume=overwrite",
        ]
    ) == 0  # fmt: skip


def test_a_device_judges_as_the_cpu_does(trained, root, capsys):
    said = []
    for device in ("cuda", "cpu"):
        assert main(["evaluate", f"checkpoint={trained}", f"data.root={root}", f"device={device}"]) == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if "sweeps/s" not in line])
    assert said[0][-3:] == said[1][-3:]


def test_labels_of_a_sweep_are_those_of_the_cpu(trained, root, tmp_path):
    sweep = root / "sequences/11/velodyne"
    for device in ("cuda", "cpu"):
        out = ["--out", str(tmp_path / device), "--device", device, "--no-picture", "--no-page"]
        assert main(["infer", str(sweep), "--checkpoint", str(trained / "model.safetensors"), *out]) == 0
    one, other = [(tmp_path / device / "000000.label").read_bytes() for device in ("cuda", "cpu")]
    assert one == other


def test_convolutions_and_maps_are_tuned(trained, root, tmp_path, capsys):
    file, cloud = tmp_path / "tuned.json", root / "sequences/11/velodyne/000000.bin"
    given = ["--model", str(trained / "model.safetensors"), "--cloud", str(cloud), "--passes", "forward"]
    assert main(["tune", *given, "--device", "cuda", "--runs", "1", "--out", str(file)]) == 0
    assert "mocked CUDA device" in capsys.readouterr().out
    out = ["--out", str(tmp_path / "out"), "--no-picture", "--no-page", "--tuned", str(file)]
    assert main(["infer", str(cloud), "--checkpoint", given[1], "--device", "cuda", *out]) == 0


@pytest.mark.parametrize("compress", ["channels", "offsets"])
def test_a_model_is_made_smaller(trained, root, monkeypatch, compress):
    monkeypatch.chdir(trained.parents[1])
    assert main(
        [
            "compress", f"data.root={root}", f"checkpoint={trained / 'model.safetensors'}", "device=cuda",
            f"name={compress}", f"compress={compress}", "method=uniform_filled", "evaluations=1",
            "scan.run=false", "budget.share=0.7", "budget.of=macs", "cost.sweeps=1", "cost.runs=1",
            "tune=false", "reconstruct=true",
        ]
    ) == 0  # fmt: skip


@pytest.mark.parametrize("section", ["maps", "launch", "layers"])
def test_a_benchmark_checks_and_times(device, tmp_path, section):
    out = tmp_path / "kernels.json"
    given = ["--device", "cuda", "--quick", "--budget", "500", "--peers", "--runs", "1", "--out", str(out)]
    assert bench_device.main([*given, "--sections", section]) == 0
    assert out.exists()
