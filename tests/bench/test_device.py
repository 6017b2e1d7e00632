"""The benchmark of accelerators, rehearsed on the device under test: what it checks, counts and says."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from pcsparse.bench.clouds import small_cloud
from pcsparse.bench.device import clock, heads, layers, nets, steps
from pcsparse.bench.device.cases import HEADS, LAYERS, MAPS, NETS, SEARCHES, STEPS, DeviceLayer, DeviceNet
from pcsparse.bench.device.clock import Times, time_candidates
from pcsparse.bench.device.grid_conv import GridConv
from pcsparse.bench.device.maps import run_map, twin_table
from pcsparse.bench.device.outcome import DeviceOutcome, DeviceResult, attempt, verified_then_timed
from pcsparse.bench.device.peer_flex_gemm import _Neighbours
from pcsparse.bench.device.peers import device_peers
from pcsparse.bench.device.precision import BF16, FP16, FP32, TF32
from pcsparse.bench.device.report import DeviceReport, result_lines, short_line
from pcsparse.bench.device.scene import DeviceScene, cloud_of, cube, neighbours
from pcsparse.bench.ours import Ours
from pcsparse.bench.unet import LibraryUNet
from pcsparse.bench.verify import Check
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.fetch_on_demand import FetchOnDemand
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.kernels import cpu
from pcsparse.models import MinkUNet, MinkUNetSpec, SecondSpec
from pcsparse.nn import fuse, recorded, recorded_training
from pcsparse.programs import bench_device
from pcsparse.timing import Timing, environment
from tests.emulation import emulate

ROOT = Path(__file__).resolve().parents[2]
GRID = (40, 40, 24)
UNET, SECOND = MinkUNetSpec.minkunet14(width=0.125), SecondSpec.residual_voxel(5, GRID, 0.25)
ONCE = {"runs": 1, "seconds": 0.0}


def unet_scene(device: torch.device, batch: int = 1, n: int = 250) -> DeviceScene:
    return DeviceScene.of(small_cloud(n), device, batch=batch)


def second_scene(device: torch.device) -> DeviceScene:
    corner, voxel = (-6.0, -6.0, -3.0), (0.3, 0.3, 0.2)
    return DeviceScene.of(small_cloud(250), device, voxel=voxel, corner=corner, grid=GRID, channels=5)


class Wrong(Ours):
    """The package with one weight too many."""

    name = "wrong"

    def feats(self, x):
        return super().feats(x) * 1.01

    def allow_tf32(self, allowed):
        pass

    def tune(self, net, start, forward, *, warm):
        pass

    def grid_conv(self, conv, c_in, c_out):
        raise RuntimeError("no grids here")


@pytest.mark.parametrize(
    "conv",
    [
        GridConv((3, 3, 3), (2, 2, 2), (1, 1, 0), (7, 6, 9), ""),
        GridConv((1, 1, 3), (1, 1, 2), (0, 0, 0), (7, 6, 9), ""),
        GridConv((3, 3, 3), (1, 1, 1), (1, 1, 1), (7, 6, 9), "", submanifold=True),
    ],
    ids=["halving", "column", "submanifold"],
)
def test_the_maps_of_a_grid_are_those_of_dense_convolutions(rng, conv):
    occupied = torch.rand(2, *conv.grid, generator=rng) < 0.1
    coords = occupied.nonzero().int()
    feats = torch.randn(len(coords), 3, generator=rng).double()
    weight = torch.randn(*conv.kernel, 3, 2, generator=rng).double()
    out, pairs = conv.map(coords)
    found = torch.zeros(len(out), 2).double()
    for k, taps in enumerate(weight.flatten(0, 2)):
        here = slice(int(pairs.starts[k]), int(pairs.starts[k + 1]))
        found.index_add_(0, pairs.rows_out[here].long(), feats[pairs.rows_in[here].long()] @ taps)
    grid = torch.zeros(2, *conv.grid, 3).double()
    grid[tuple(coords.long().T)] = feats
    dense = functional.conv3d(
        grid.movedim(-1, 1), weight.permute(4, 3, 0, 1, 2), stride=conv.stride, padding=conv.padding
    ).movedim(1, -1)
    assert dense.shape[1:4] == conv.grid_out
    torch.testing.assert_close(found, dense[tuple(out.long().T)])
    if not conv.submanifold:
        left = dense.clone()
        left[tuple(out.long().T)] = 0.0
        assert not left.any()


@pytest.mark.parametrize("form", ["eager", "fused", "training"])
def test_networks_agree_with_their_twins_and_wrong_ones_get_no_time(device, form):
    case = DeviceNet("u", UNET, form, FP32)
    result = nets.run_net(case, unet_scene(device), [Wrong()], **ONCE)
    ours, wrong = result.outcomes
    assert ours.times is not None, ours
    assert len(ours.checks) == (1 if form != "training" else 2 + _convolutions(UNET))
    assert wrong.times is None
    assert wrong.failed, wrong.refusal
    assert wrong.failed[0].what == "output"
    assert result.ratio is None
    result = nets.run_net(DeviceNet("s", SECOND, form, FP32), second_scene(device), [Wrong()], **ONCE)
    assert result.ours.times is not None, result.ours
    assert "no grids here" in result.outcomes[1].refusal
    assert result.operations > 0


def test_a_recorded_network_is_checked_and_timed(device, monkeypatch):
    if device.type == "cpu":
        # maps as a GPU makes them; a replay runs the network again
        def record(run):
            out = run()
            return out, lambda: out.feats.copy_(run().feats)

        monkeypatch.setattr(cpu, "TABLES", True)
        monkeypatch.setattr(recorded, "check_device", lambda x: None)
        monkeypatch.setattr(recorded, "record", record)
    for spec, scene in ((UNET, unet_scene(device)), (SECOND, second_scene(device))):
        ours = nets.run_net(DeviceNet("n", spec, "recorded", FP32), scene, [], **ONCE).ours
        assert ours.times is not None, ours
        assert [check.what for check in ours.checks] == ["output"]


@pytest.mark.parametrize(
    ("kind", "precision"), [("unet", FP32), ("second", FP32), ("unet", BF16), ("second", TF32)]
)
def test_a_recorded_training_step_is_checked_and_timed(device, monkeypatch, kind, precision):
    if device.type == "cpu":

        def record(run):
            loss, grads = run()

            def replay():
                with torch.enable_grad():
                    again, others = run()
                for kept, new in zip((loss, *grads), (again, *others), strict=True):
                    kept.copy_(new)

            return (loss, grads), replay

        monkeypatch.setattr(cpu, "TABLES", True)
        monkeypatch.setattr(recorded_training, "check_device", lambda x: None)
        monkeypatch.setattr(recorded_training, "record", record)
    spec, scene = (UNET, unet_scene(device, 2, 400)) if kind == "unet" else (SECOND, second_scene(device))
    ours = nets.run_net(DeviceNet("n", spec, "recorded training", precision), scene, [], **ONCE).ours
    assert ours.times is not None, ours
    names = [check.what for check in ours.checks]
    assert names[0] == "loss"
    assert len(names) > 10
    monkeypatch.setattr(steps, "LOSS_SCALE", 512.0)
    ours = nets.run_net(DeviceNet("n", spec, "recorded training", precision), scene, [], **ONCE).ours
    assert ours.times is None, "gradients of half the size got a time"


def _convolutions(spec):
    return sum(p.dim() == 3 for p in MinkUNet(spec).parameters())


def test_a_training_step_in_sixteen_bits_is_checked(device):
    # enough voxels that the coarsest level has statistics
    scene = unet_scene(device, 2, 1000)
    result = nets.run_net(DeviceNet("u", UNET, "training", FP16, 2), scene, [], **ONCE)
    assert result.ours.times is not None, result.ours
    names = {check.what for check in result.ours.checks}
    assert names >= {"output", "loss", "scale of gradient of stem.0.weight"}


@pytest.mark.parametrize("kind", ["submanifold", "strided", "inverse", "generative"])
def test_layers_agree_with_their_twins_and_wrong_ones_get_no_time(device, kind):
    kernel, stride = (3, 1) if kind == "submanifold" else (2, 2)
    for backward, with_map in ((False, False), (False, True), (True, False)):
        case = DeviceLayer(kind, kind, kernel, stride, 8, FP32, backward, with_map)
        ours, wrong = layers.run_layer(case, unet_scene(device), [Wrong()], **ONCE).outcomes
        assert ours.times is not None, (backward, with_map, ours)
        assert len(ours.checks) == (3 if backward else 1)
        assert wrong.times is None
        assert wrong.failed[0].what == "out"


def test_a_dense_layer_stands_beside_a_product_that_is_no_peer(device):
    case = DeviceLayer("cube", "submanifold", 3, 1, 16, FP16)
    result = layers.run_layer(case, cube(4, device, 1), [], dense=True, **ONCE)
    assert [outcome.name for outcome in result.outcomes] == ["pcsparse", "torch.mm of the same shape"]
    assert result.ratio is None
    # 4^3 voxels: along an axis 4 + 2 * 3 of the 4 * 3 neighbours are there
    assert result.operations == 2 * 10**3 * 16 * 16
    assert neighbours(cube(4, device, 1).coords) == pytest.approx(10**3 / 4**3)


def test_a_dataflow_of_no_rule_stands_beside_the_layers_that_it_takes(device, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr(FetchOnDemand, "devices", ("cpu", "cuda"))
        emulate(monkeypatch)
    case = DeviceLayer("cube", "submanifold", 3, 1, 8, FP16)
    ours, other = layers.run_layer(case, cube(3, device, 1), [], **ONCE).outcomes
    assert (ours.name, other.name, other.reference) == (
        "pcsparse", "pcsparse by fetch_on_demand", True,
    )  # fmt: skip
    assert [check.what for check in other.checks] == ["out"]
    assert other.times is not None, other
    for refused in (replace(case, channels=64), replace(case, kind="generative", kernel=2, stride=2)):
        result = layers.run_layer(refused, cube(3, device, 1), [], **ONCE)
        assert [outcome.name for outcome in result.outcomes] == ["pcsparse"]


def test_maps_are_compared_entry_by_entry(device, monkeypatch):
    for case in MAPS:
        cold, warm = run_map(case, unet_scene(device), [], **ONCE)
        assert all(outcome.times is not None for outcome in cold.outcomes), cold
        assert cold.ours.name == "pcsparse with its row order"
        assert warm.ours.times is not None
        assert warm.case.startswith(case.name)
    from pcsparse.bench.device import maps

    monkeypatch.setattr(maps, "twin_table", lambda *_: torch.zeros(27, 1))
    cold, _ = run_map(MAPS[0], unet_scene(device), [], **ONCE)
    assert [outcome.times for outcome in cold.outcomes if outcome.name.startswith("pcsparse")][:2] == [
        None
    ] * 2


def test_every_way_to_a_map_is_a_candidate_and_no_peer(gpu_or_emulated, monkeypatch):
    (cold, warm) = run_map(MAPS[1], unet_scene(gpu_or_emulated, n=60), [], **ONCE)
    names = [
        "pcsparse",
        "pcsparse with its row order",
        *(f"pcsparse by {how}" for how in ("grid", "hash", "runs")),
    ]
    assert [outcome.name for outcome in cold.outcomes] == names
    assert [len(outcome.checks) for outcome in cold.outcomes] == [2, 3, 2, 2, 2]
    assert all(outcome.times is not None for outcome in cold.outcomes), cold
    assert [outcome.name for outcome in warm.outcomes] == names[:1]
    assert cold.ratio is None
    # one that is wrong has no time
    from pcsparse.kernels.gpu import lookup

    launch = lookup._launch
    monkeypatch.setattr(
        lookup, "_launch", lambda name, *args: None if name == "fill_grid" else launch(name, *args)
    )
    cold, _ = run_map(MAPS[1], unet_scene(gpu_or_emulated, n=60), [], **ONCE)
    assert [outcome.times is None for outcome in cold.outcomes] == [False, False, True, False, False]


def test_a_wrong_row_order_has_no_time_and_the_map_alone_keeps_its_own(gpu_or_emulated, monkeypatch):
    made = KernelMap.layout

    def wrong(self, splits, tile):
        rows, *rest = made(self, splits, tile)
        return [rows.roll(1, dims=1), *rest]

    monkeypatch.setattr(KernelMap, "layout", wrong)
    cold, _ = run_map(MAPS[1], unet_scene(gpu_or_emulated, n=60), [], **ONCE)
    assert [outcome.times is None for outcome in cold.outcomes] == [False, True, False, False, False]
    assert [check.what for check in cold.ours.failed] == ["convolution over its order"]


def test_the_maps_that_flex_gemm_is_fed_with(rng):
    # to be told apart by counting, not by what the kernel makes of them
    coords = torch.unique(torch.randint(0, 5, (60, 3), generator=rng).int(), dim=0)
    coords = torch.cat([torch.zeros(len(coords), 1, dtype=torch.int32), coords], dim=1)
    known = _Neighbours.of(coords, Relation.of(3))
    table = twin_table(coords, coords, Relation.of(3)).T
    assert torch.equal(known.table.long(), torch.where(table < 0, (1 << 32) - 1, table.long()))
    masks = [sum(1 << k for k in range(27) if row[k] >= 0) for row in table.tolist()]
    # neighbours in gray order differ by one bit where all masks occur; here the rank itself is checked
    ranks = [_gray_rank(masks[row]) for row in known.order.tolist()]
    assert ranks == sorted(ranks)
    for height in (4, 16):
        offsets, starts = known.tile(height)
        for tile, (start, stop) in enumerate(pairwise(starts.tolist())):
            rows = known.order[tile * height : (tile + 1) * height]
            wanted = (table[rows] >= 0).any(dim=0).nonzero()[:, 0]
            assert offsets[start:stop].tolist() == wanted.tolist()


def _gray_rank(mask: int) -> int:
    rank = 0
    while mask:
        rank ^= mask
        mask >>= 1
    return rank


def test_spconv_agrees_where_it_is_installed():
    found, absent = device_peers(["spconv"], torch.device("cpu"))
    if not found:
        pytest.skip(f"spconv is not installed: {absent}")
    case = DeviceNet("s", SECOND, "eager", FP32)
    for result in (
        nets.run_net(case, second_scene(torch.device("cpu")), found, **ONCE),
        nets.run_net(DeviceNet("u", UNET, "eager", FP32), unet_scene(torch.device("cpu")), found, **ONCE),
    ):
        assert result.ratio is not None, result


def test_a_folded_network_of_a_library_is_the_packages(rng):
    model = MinkUNet(UNET).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    library, scene = Ours(), unet_scene(torch.device("cpu"))
    net = LibraryUNet(UNET, library).load(model.state_dict()).eval()
    with torch.no_grad():
        plain = library.feats(net(library.tensor(scene.coords, scene.feats)))
        folded = library.feats(net.fold()(library.tensor(scene.coords, scene.feats)))
        fused = fuse(model)(scene.fresh()).feats
    assert not net.norms()
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded, fused, rtol=1e-4, atol=1e-5)


def test_candidates_take_turns_until_their_time_is_over(device):
    calls = []
    named = {name: partial(calls.append, name) for name in "abc"}
    found = time_candidates(named, device, runs=9, seconds=0.0)
    assert [times.wall.runs for times in found.values()] == [5, 5, 5]
    # every second round goes backwards, but for the last one, which would run twice in a row
    assert "".join(calls[-15:]) == "abcbacabcbacabc"
    assert found["a"].device is None
    assert time_candidates({"a": lambda: 0}, device, runs=2, events=True)["a"].best.runs == 2


def _result(ours: float, peer: float | None) -> DeviceResult:
    def timed(name, seconds, *, reference=False):
        timing = None if seconds is None else Timing(seconds, seconds, seconds, 5)
        times = None if timing is None else Times(timing, timing, timing)
        return DeviceOutcome(name, (), times, None if seconds else "broke", reference)

    outcomes = (timed("pcsparse", ours), timed("spconv", peer), timed("torch.mm", 0.5e-3, reference=True))
    return DeviceResult("case", "fp16", outcomes, 1e9)


def test_the_summary_is_of_the_best_peer_and_not_of_a_reference():
    report = DeviceReport(environment(), (), (), ())
    report.sections["layers"] = [_result(1e-3, 2e-3), _result(1e-3, 8e-3), _result(1e-3, None)]
    report.sections["dense"] = [_result(1e-3, None)]
    (mean,) = report.means()
    assert (mean.name, mean.cases, mean.without) == ("layers fp16", 2, 1)
    assert mean.value == pytest.approx(4.0)
    text = result_lines(report.sections["layers"], None)
    assert "not run  case fp16, spconv: broke" in text
    assert " 8.00 " in text
    line = short_line(report.sections["layers"][1])
    assert line == "case fp16: pcsparse 1.000 ms, spconv 8.000 ms, torch.mm 0.500 ms; ratio 8.00"
    assert "spconv not run" in short_line(report.sections["dense"][0])


def test_a_run_writes_what_it_has_and_names_what_broke(tmp_path, monkeypatch, capsys, device):
    out = tmp_path / "report.json"
    arguments = (
        f"--device {device.type} --quick --only 3^3 --runs 1 --peers spconv_triton --out {out}".split()
    )
    arguments += ["--sections", "maps", "launch"]

    def broken(*_, **__):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(bench_device, "run_layer", broken)
    monkeypatch.setattr(bench_device, "measure_device", lambda *_, **__: None)
    assert bench_device.main(arguments) == 1
    report = json.loads(out.read_text())
    assert {case for case, _ in report["broken"]} == {
        "launch: submanifold 3^3 C=32 fp16", "launch: submanifold 3^3 C=32 forward+backward fp16",
    }  # fmt: skip
    cases = [result["case"] for result in report["sections"]["maps"]]
    assert cases == ["map 3^3", "map 3^3 ready in the cache"]
    assert report["rehearsal"] == (device.type == "cpu")
    assert "BROKEN  launch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "broken"),
    [(RuntimeError("out of registers"), (True, True)), (RangeError("too many"), (True, False))],
    ids=["crash", "refusal"],
)
def test_what_of_the_package_cannot_run_is_counted_and_a_peer_is_not(error, broken):
    def fails():
        raise error

    names = ("pcsparse", "pcsparse by hash", "spconv")
    candidates = [attempt(name, fails) for name in names]
    result = verified_then_timed(
        "case", "", candidates, torch.device("cpu"), runs=1, seconds=0.1, events=False
    )
    found = [outcome.ours_is_broken(rehearsal=False) for outcome in result.outcomes]
    assert tuple(found) == (*broken, False)
    # a CPU refuses what only a GPU can do, and crashes are crashes there too
    found = [outcome.ours_is_broken(rehearsal=True) for outcome in result.outcomes]
    assert tuple(found) == (broken[1], broken[1], False)
    wrong = Check("out", 2.0, 1.0)
    outcomes = [DeviceOutcome(name, (wrong,), None) for name in names]
    assert [outcome.ours_is_broken(rehearsal=True) for outcome in outcomes] == [True, True, False]
    right = DeviceOutcome("pcsparse", (replace(wrong, error=0.5),), None)
    assert not right.ours_is_broken(rehearsal=False)


def test_a_run_whose_own_layers_crash_ends_with_a_status(tmp_path, monkeypatch, device):
    def crash(*_, **__):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(layers.Ours, "conv", crash)
    monkeypatch.setattr(bench_device, "measure_device", lambda *_, **__: None)
    out = tmp_path / "report.json"
    arguments = (
        f"--device {device.type} --quick --only 3^3 --runs 1 --peers spconv_triton --out {out}".split()
    )
    assert bench_device.main([*arguments, "--sections", "maps"]) == 0
    assert bench_device.main([*arguments, "--sections", "launch"]) == 1
    assert json.loads(out.read_text())["broken"] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU records")
def test_a_rehearsal_of_what_only_a_gpu_records_ends_well(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_device, "measure_device", lambda *_, **__: None)
    out = tmp_path / "report.json"
    arguments = f"--device cpu --quick --only recorded --runs 1 --peers spconv_triton --out {out}".split()
    assert bench_device.main([*arguments, "--sections", "nets"], sections=("nets",)) == 0
    assert json.loads(out.read_text())["sections"]["nets"]


def test_what_cannot_run_is_refused():
    with pytest.raises(RangeError, match="runs must be at least 1"):
        bench_device.main(["--device", "cpu", "--runs", "0"])
    with pytest.raises(RangeError, match=r"no case has 'nothing' in its name.* there are map 3\^3, "):
        bench_device.main(["--device", "cpu", "--sections", "maps", "--only", "nothing"])
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedError, match="--device cpu is a rehearsal"):
            bench_device.main(["--device", "cuda"])


def test_no_case_starts_once_the_budget_is_spent(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_device, "measure_device", lambda *_, **__: None)
    out = tmp_path / "report.json"
    given = ["--device", "cpu", "--quick", "--budget", "0", "--peers", "--out", str(out)]
    assert bench_device.main(given, sections=("nets",)) == bench_device.UNFINISHED
    assert all("not started" in why for _, why in json.loads(out.read_text())["broken"])


def test_clouds_of_files_keep_their_columns_and_batches_are_mirrored(tmp_path):
    import numpy as np

    path = tmp_path / "ten.npy"
    np.save(path, np.array([[1.01, 2.01, 0.51, 0.3, 0.1], [1.02, 2.01, 0.51, 0.9, 0.2]], dtype=np.float32))
    cloud = cloud_of(path, quick=True)
    scene = DeviceScene.of(cloud, torch.device("cpu"), batch=2, channels=5)
    assert scene.coords.tolist() == [[0, 20, 40, 10], [1, -21, 40, 10]]
    torch.testing.assert_close(scene.feats[:, 3:], torch.tensor([[0.3, 0.1], [0.3, 0.1]]))
    with pytest.raises(FormatError, match="no point file"):
        cloud_of(tmp_path / "none.npy", quick=True)


def test_cases_have_names_of_their_own():
    for cases in (LAYERS, NETS, STEPS):
        names = [(case.name, case.precision.name) for case in cases]
        assert len(set(names)) == len(names)
    assert all(case.trains for case in STEPS)
    assert replace(LAYERS[0], tags=()).name


@pytest.mark.slow
def test_the_script_runs_on_a_bare_machine(tmp_path):
    out = tmp_path / "report.json"
    arguments = f"bench_kernels.py --device cpu --quick --sections maps --runs 1 --out {out}".split()
    absent = ("hydra", "omegaconf", "open3d", "matplotlib", "laspy", "triton", "cupy")
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.argv = {[*arguments, '--only', 'stride 2']!r}\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'bench_kernels.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["sections"]["maps"][0]["case"] == "map 2^3 stride 2"


def _small_heads():
    eie = replace(HEADS[1].layer, n_in=1024, n_out=512)
    two_four = [case for case in HEADS if hasattr(case, "side") and case.n_items == 4]
    return replace(HEADS[1], layer=eie), replace(two_four[0], side=1024)


def test_every_product_of_a_head_is_checked_and_timed(device):
    head, two_four = _small_heads()
    eie = heads.run_head(head, device, **ONCE)
    names = {
        "pcsparse",
        "pcsparse by columns",
        "torch dense float32",
        "torch dense float16",
        "torch CSR int32",
    }
    assert {outcome.name for outcome in eie.outcomes if outcome.times is not None} == names
    assert all(outcome.checks and not outcome.failed for outcome in eie.outcomes)
    # by columns is the package, too, and no peer
    assert [outcome.name for outcome in eie.outcomes if outcome.reference] == ["pcsparse by columns"]
    sparse = heads.run_two_four(two_four, device, **ONCE)
    assert [(o.name, len(o.failed), o.times is None) for o in sparse.outcomes] == [
        ("pcsparse", 0, False), ("torch dense", 0, False),
    ]  # fmt: skip


def test_a_wrong_product_of_a_head_is_not_timed(device, monkeypatch):
    right = heads.eie_linear
    monkeypatch.setattr(
        heads, "eie_linear", lambda x, layout: right(x, layout) + (0.1 if layout.by_rows else 0)
    )
    found = {o.name: o for o in heads.run_head(_small_heads()[0], device, **ONCE).outcomes}
    assert found["pcsparse"].failed
    assert found["pcsparse"].times is None
    assert found["pcsparse by columns"].times is not None


@pytest.mark.parametrize("case", [replace(case, k=min(case.k, 64), n_queries=None) for case in SEARCHES])
def test_a_search_is_checked_against_its_twin(device, monkeypatch, case):
    points = small_cloud(400).points.float().contiguous().to(device)
    right = heads.run_search(case, points, **ONCE)
    assert not right.ours.failed
    assert right.ours.times is not None
    searches = heads._searches
    monkeypatch.setattr(heads, "_searches", lambda *given: lambda: searches(*given)() + 1)
    assert heads.run_search(case, points, **ONCE).ours.failed


def test_a_run_of_several_calls_is_reported_by_call(device, monkeypatch):
    monkeypatch.setattr(clock, "_once", lambda run, device: (0.8, 0.4))
    monkeypatch.setattr(clock, "_between_events", lambda run, device, calls: 0.1 * calls)
    found = time_candidates({"": lambda: None}, device, runs=1, events=True, calls=8)[""]
    assert [found.wall.median, found.host.median, found.device.median] == pytest.approx([0.1, 0.05, 0.1])
