"""`scripts/check_gpu.py`: parts that end, fail, crash and hang; and its own parts with the GPU's kernels."""

import json
import re
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcsparse.bench.clouds import small_cloud
from pcsparse.bench.device import launch_ways
from pcsparse.bench.device.launch_ways import LaunchWays, eager_step, gpu_launch_ways, time_launch_ways
from pcsparse.bench.device.scene import DeviceScene
from pcsparse.engine import map_tuning
from pcsparse.errors import DeviceError, FormatError, RangeError, UnsupportedError
from pcsparse.kernels import gpu_libraries
from pcsparse.programs import bench_device, check_gpu, check_gpu_parts
from pcsparse.programs.bench_device import UNFINISHED
from pcsparse.programs.check_gpu import CheckPart, CheckSettings, parts_of, run, run_part

ROOT = Path(__file__).resolve().parents[2]
CHECKS = "launches of a step", "launches", "cuda text", "keys, tables, rows", "recorded"
GOALS = "kernels", "models", "training", "tuner"
FEW = {"kernels": (3,), "levels": 1, "runs": 1}


def part(name: str, program: str, share: float = 1.0, *, budgeted: bool = False) -> CheckPart:
    return CheckPart(name, share, (sys.executable, "-c", program), budgeted=budgeted)


@pytest.fixture
def settings(tmp_path) -> CheckSettings:
    return CheckSettings("cpu", 60.0, tmp_path / "out", (), None, None)


def test_parts_cost_each_other_nothing_and_are_told_apart(settings, capsys, monkeypatch):
    monkeypatch.setattr(check_gpu, "_LEAST_SECONDS", 0.5)
    ending = "import time; print('asleep', flush=True); time.sleep(60)"
    raising = "print('before'); raise ValueError('a reason')"
    parts = [
        part("good", "print('fine')"),
        part("bad", raising),
        part("crashing", "import os; os.abort()"),
        part("hanging", ending, 0.05),
        part("last", "print('done')"),
    ]
    begin = time.perf_counter()
    assert run(settings, parts) == 1
    assert time.perf_counter() - begin < 50

    facts = json.loads((settings.out / "check.json").read_text())
    assert [(one["name"], one["status"]) for one in facts["parts"]] == [
        ("good", "passed"), ("bad", "failed"), ("crashing", "failed"), ("hanging", "out of time"),
        ("last", "passed"),
    ]  # fmt: skip
    assert [one["code"] for one in facts["parts"]] == [0, 1, -6, None, 0]
    said = (settings.out / "check.txt").read_text()
    assert "  | ValueError: a reason\n" in said
    assert "  | asleep\n" in said
    # what passed is one line
    assert "fine" not in said
    assert (settings.out / "good.txt").read_text() == "fine\n"
    printed = capsys.readouterr().out
    assert "ValueError: a reason" in printed
    assert "2 of 5 parts passed\nnot passed: bad, crashing, hanging\n" in printed
    assert run(settings, parts[:1]) == 0


@pytest.mark.parametrize(
    ("last", "status", "skipped"),
    [
        ("3 passed, 2 skipped in 1.00s", "passed", 2),
        ("8 skipped in 1.00s", "failed", 8),
        ("2 passed in 1s", "passed", 0),
    ],
)
def test_a_part_whose_tests_were_all_skipped_has_not_passed(settings, capsys, last, status, skipped):
    # pytest itself ends with 0
    one = CheckPart("tests", 1.0, (sys.executable, "-c", f"print({last!r})", "pytest"))
    assert run(settings, [one]) == (status == "failed")
    facts = json.loads((settings.out / "check.json").read_text())["parts"][0]
    assert (facts["status"], facts["skipped"]) == (status, skipped)
    said = (settings.out / "check.txt").read_text()
    assert (f"{skipped} tests skipped" in said) == (skipped > 0)


def _runs(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for a process in /proc")
@pytest.mark.parametrize("rest", ["", "; import time; time.sleep(300)"], ids=["ending", "hanging"])
def test_what_a_part_has_started_ends_with_it(tmp_path, rest, monkeypatch):
    monkeypatch.setattr(check_gpu, "_LEAST_SECONDS", 0.5)
    child = "[sys.executable, '-c', 'import time; time.sleep(300)']"
    started = f"import subprocess, sys; print(subprocess.Popen({child}).pid, flush=True)"
    result = run_part(part("one", started + rest), 30.0 if not rest else 4.0, tmp_path)
    assert result.status == ("out of time" if rest else "passed")
    process, until = int(result.last[0]), time.perf_counter() + 20
    while _runs(process) and time.perf_counter() < until:
        time.sleep(0.05)
    assert not _runs(process)


@pytest.fixture
def given(monkeypatch):
    """The name and the seconds of each part that is begun; all of them pass."""
    given = []

    def note(one, seconds, out):
        given.append((one.name, seconds))
        return check_gpu.PartResult(one.name, "passed", 0.0, 0, "", ())

    monkeypatch.setattr(check_gpu, "run_part", note)
    return given


def test_a_part_gets_its_share_and_what_is_left(settings, given, monkeypatch):
    now = iter([0.0, 1.0, 50.0, 58.0, 59.0])
    monkeypatch.setattr(check_gpu.time, "perf_counter", lambda: next(now))
    assert run(settings, [part("a", "", 0.5), part("b", "", 0.5), part("c", "", 0.1)]) == 0
    assert given == [("a", 30.0), ("b", 10.0), ("c", 2.0)]


def test_a_part_without_time_is_not_begun_and_one_with_a_budget_knows_it(settings, tmp_path):
    late = run_part(part("late", "print('never')"), 1.0, tmp_path)
    assert (late.status, late.code) == ("not started", None)
    assert not (tmp_path / "late.txt").exists()
    told = run_part(part("told", "import sys; print(sys.argv[1:])", budgeted=True), 50.0, tmp_path)
    assert told.last == ("['--budget', '30']",)
    told = run_part(part("told", "import sys; print(sys.argv[1:])", budgeted=True), 300.0, tmp_path)
    assert told.last == ("['--budget', '240']",)
    for budgeted, status in ((True, "cut short"), (False, "failed")):
        short = part("short", f"raise SystemExit({UNFINISHED})", budgeted=budgeted)
        assert run_part(short, 50.0, tmp_path).status == status
        assert run(settings, [short]) == int(not budgeted)


def test_unknown_parts_and_missing_clouds_are_refused(settings, tmp_path):
    with pytest.raises(RangeError, match="parts of one; got 60 and two"):
        run(replace(settings, only=("two",)), [part("one", "")])
    with pytest.raises(RangeError, match="--seconds above 0"):
        run(replace(settings, seconds=0.0), [part("one", "")])
    with pytest.raises(FormatError, match="no point file at"):
        run(replace(settings, sweeps=tmp_path / "none.npy"), [part("one", "")])


def test_a_gpu_without_its_libraries_is_refused_before_any_part(settings, monkeypatch):
    settings = replace(settings, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="sees no CUDA device here"):
            run(settings, [part("one", "")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for missing in ("triton", "cupy"):
        there = {"cupy": sys, "triton": sys, missing: None}
        monkeypatch.setattr(gpu_libraries, "find_spec", there.get)
        with pytest.raises(UnsupportedError, match=rf"need {missing}, .* 'pcsparse\[gpu13\]'"):
            run(settings, [part("one", "")])
    assert not settings.out.exists()


def test_every_part_names_what_is_there(settings, tmp_path):
    cloud = tmp_path / "sweep.bin"
    for one in parts_of(replace(settings, cloud=cloud, device="cuda")):
        named = [word for word in one.command if word.startswith(("tests/", "scripts/"))]
        assert all((ROOT / word).is_file() for word in named), one
        assert "cuda" in one.command
        if "pytest" not in one.command:
            assert one.command[one.command.index("--cloud") + 1] == str(cloud)
    assert {"host", "rule of maps", "launches of a step"}.isdisjoint(one.name for one in parts_of(settings))
    names = [one.name for one in parts_of(replace(settings, device="cuda"))]
    # checks before times
    assert names.index("launches of a step") < names.index("launches")
    assert names.index("recorded") < names.index("host") < names.index("kernels") < names.index("models")
    # all sections, those with a goal before the others
    commands = [one.command for one in parts_of(replace(settings, device="cuda"))]
    given = [command[command.index("--sections") + 1 : -2] for command in commands if "--sections" in command]
    sections = [section for some in given for section in some]
    assert sections == list(bench_device.SECTIONS)
    places = [names.index(name) for name in GOALS]
    assert places == sorted(places)
    assert places[-1] < min(map(names.index, ("layers", "ways to a map", "rule of maps", "heads")))
    # two benchmarks do not write into one file
    outs = [command[command.index("--out") + 1] for command in commands if "--out" in command]
    assert len(set(outs)) == len(outs) == 5
    # and what comes before leaves time for each of them
    kept = {one.name: one.kept for one in parts_of(replace(settings, device="cuda"))}
    assert all(kept[name] > 0 for name in (*CHECKS, *GOALS))
    assert sum(kept[name] for name in GOALS) <= 0.4
    # the first part has all that it may take
    assert sum(kept.values()) == pytest.approx(1 - parts_of(replace(settings, device="cuda"))[0].share)


class _Machine:
    """A clock, and parts that take `slowness` of the share that they may; those with a budget take all."""

    def __init__(self, monkeypatch, slowness: float) -> None:
        self.now, self.slowness, self.given = 0.0, slowness, {}
        monkeypatch.setattr(check_gpu, "run_part", self)
        monkeypatch.setattr(check_gpu.time, "perf_counter", lambda: self.now)

    def __call__(self, one, seconds, out):
        if seconds < check_gpu._LEAST_SECONDS:
            return check_gpu.PartResult(one.name, "not started", 0.0, None, "", ())
        self.given[one.name] = self.now, seconds
        wanted = seconds if one.budgeted else self.slowness * one.share * 500.0
        self.now += min(wanted, seconds)
        status = "out of time" if wanted > seconds else "cut short" if one.budgeted else "passed"
        return check_gpu.PartResult(one.name, status, seconds, 0, "", ())


@pytest.fixture
def on_a_gpu(settings, monkeypatch) -> CheckSettings:
    monkeypatch.setattr(check_gpu, "usable_device", lambda device: None)
    monkeypatch.setattr(check_gpu, "check_libraries", lambda: None)
    return replace(settings, device="cuda", seconds=500.0)


@pytest.mark.parametrize("slowness", [0.2, 0.5, 1.0, 3.0])
def test_neither_checks_nor_times_with_a_goal_starve(on_a_gpu, monkeypatch, capsys, slowness):
    machine = _Machine(monkeypatch, slowness)
    code = run(on_a_gpu)
    begun, kept = machine.given, {one.name: one.kept * 500 for one in parts_of(on_a_gpu)}
    for name in (*CHECKS, *GOALS):
        assert begun[name][1] > kept[name] - 1e-6
    # however long they take, checks have so much, and times with a goal what is left of it
    assert sum(begun[name][1] for name in CHECKS) >= 270 - 1e-6
    assert sum(begun[name][1] for name in GOALS) >= 190 - 1e-6
    if slowness >= 1:
        assert begun["kernels"][0] >= 300
    last = capsys.readouterr().out.splitlines()[-1]
    if slowness <= 0.5:
        # a busy run: the last parts have no time left, which is no failure
        assert code == 0
        assert last.startswith("cut short, as no time was left: kernels, models, training, tuner")
        assert last.endswith(", heads")
    if slowness == 3.0:
        # what had its time and did not end
        assert code == 1


def test_what_no_time_was_left_for_is_named_last_and_is_no_failure(settings, monkeypatch, capsys):
    monkeypatch.setattr(check_gpu, "_LEAST_SECONDS", 0.5)
    slow = "import time; time.sleep(60)"

    def verdict(*parts, seconds):
        capsys.readouterr()
        code = run(replace(settings, seconds=seconds), parts)
        facts = json.loads((settings.out / "check.json").read_text())["parts"]
        return code, [one["status"] for one in facts], capsys.readouterr().out

    code, statuses, said = verdict(part("good", "print('fine')"), part("ended", slow), seconds=3.0)
    assert (code, statuses) == (0, ["passed", "cut short"])
    assert said.endswith("1 of 2 parts passed\ncut short, as no time was left: ended\n")
    assert "not passed" not in said
    code, statuses, said = verdict(part("never", slow, 0.4), part("late", slow, 0.1), seconds=2.0)
    assert (code, statuses) == (1, ["out of time", "not started"])
    assert said.endswith("not passed: never\ncut short, as no time was left: late\n")
    # what keeps time had enough, or all of it was too short: nothing that was not begun is told as right
    keeping = [replace(part(name, slow), kept=0.2) for name in ("one", "two")]
    code, statuses, said = verdict(*keeping, seconds=2.0)
    assert (code, statuses) == (1, ["out of time", "not started"])
    assert said.endswith("not passed: one, two\n")


def test_the_guide_says_what_each_part_keeps(on_a_gpu):
    rows = re.findall(r"^\| (`.+`) \| ([\d–]+) \| ", (ROOT / "docs" / "guides" / "gpu.md").read_text(), re.M)
    told = {name: number for names, number in rows for name in re.findall(r"`([^`]+)`", names)}
    found = {one.name: f"{500 * one.kept:.0f}" if one.kept else "–" for one in parts_of(on_a_gpu)}
    assert list(told.items()) == list(found.items())


def test_parts_leave_the_time_that_later_ones_keep(settings, given, monkeypatch):
    now = iter([0.0, 1.0, 50.0, 58.0, 59.0, 0.0, 1.0, 2.0])
    monkeypatch.setattr(check_gpu.time, "perf_counter", lambda: next(now))
    parts = [part("a", ""), replace(part("b", ""), kept=0.25), replace(part("c", "", 0.5), kept=0.125)]
    assert run(settings, parts) == 0
    assert given == [("a", 60 * 0.625 - 1), ("b", 60 * 0.875 - 50), ("c", 2.0)]
    # nobody keeps time for a part that is not asked for
    assert run(replace(settings, only=("a",)), parts) == 0
    assert given[-1] == ("a", 59.0)


def test_the_script_hands_its_line_on(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(check_gpu, "run", lambda settings: seen.append(settings) or 3)
    line = ["--seconds", "90", "--only", "host", "cuda text", "--cloud", "a.bin", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["check_gpu.py", *line])
    with pytest.raises(SystemExit, match=r"^3$"):
        runpy.run_path(str(ROOT / "scripts" / "check_gpu.py"), run_name="__main__")
    assert seen == [
        CheckSettings("cuda", 90.0, tmp_path, ("host", "cuda text"), Path("a.bin").resolve(), None)
    ]


def test_the_machine_and_its_peers_are_named(capsys):
    assert check_gpu_parts.main(["peaks", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "limits: " in said
    assert "no peer: spconv_triton: " in said
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedError, match="sees no CUDA device"):
            check_gpu_parts.main(["peaks"])


def test_ways_to_a_map_are_checked_and_the_rule_is_shown(gpu_or_emulated, capsys, monkeypatch):
    monkeypatch.setattr(check_gpu_parts, "tune_maps", lambda coords: map_tuning.tune_maps(coords, **FEW))
    scene = DeviceScene.of(small_cloud(150), gpu_or_emulated)
    assert check_gpu_parts.maps(scene) == 0
    said = capsys.readouterr().out
    assert "rule: MapRule(seconds={'search': " in said
    made = map_tuning._made

    def wrong(wanted, way):
        table = made(wanted, way)
        return table if way != "runs" else table.roll(1)

    monkeypatch.setattr(map_tuning, "_made", wrong)
    assert check_gpu_parts.maps(scene) == 1
    assert "WRONG: level 0, 3^3 by runs\n" in capsys.readouterr().out


class _Launch:
    """A module of launchers."""

    def is_direct(self, *_):
        return True


class _Launcher:
    def __init__(self):
        self._forms = {}


def test_launches_go_the_way_that_is_asked_for_and_forms_are_kept():
    launch, one = _Launch(), _Launcher()
    first, asked = one._forms, launch.is_direct
    ways = LaunchWays(launch, [one])
    seen = []
    for _ in range(2):
        for way in ("driver", "Triton's launcher"):
            with ways.taken(way):
                seen.append((launch.is_direct(), one._forms.setdefault("form", len(seen))))
    assert seen == [(True, 0), (False, 1), (True, 0), (False, 1)]
    assert one._forms is first
    assert launch.is_direct == asked


def test_launchers_of_all_kernels_are_found(gpu_or_emulated):
    found = {one._kernel.__name__ for one in gpu_launch_ways()._launchers}
    assert {"_multiply", "_spread", "_scale_shift", "_norm_by_moments", "_segment_sum"} <= found


def test_a_step_is_timed_both_ways(gpu_or_emulated, monkeypatch):
    scene = DeviceScene.of(small_cloud(60), gpu_or_emulated)
    run = eager_step(scene, gpu_or_emulated, 0.125)
    assert torch.equal(run(), run())
    calls = []
    ways = LaunchWays(_Launch(), [])

    def step():
        calls.append(launch_ways._never is ways._launch.is_direct)
        return torch.tensor(1.0)

    times = time_launch_ways(ways, step, gpu_or_emulated, runs=2, seconds=0.0)
    assert list(times) == ["driver", "Triton's launcher"]
    assert calls.count(True) == calls.count(False) > 2
    losses = map(torch.tensor, (1.0, 2.0))
    with pytest.raises(UnsupportedError, match="loss of a step depends on how kernels are started"):
        time_launch_ways(ways, lambda: next(losses), gpu_or_emulated, runs=1, seconds=0.0)
