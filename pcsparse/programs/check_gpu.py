"""A new GPU machine in one command: checks, then times, each part in a process and a time of its own."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pcsparse.checks import usable_device
from pcsparse.errors import FormatError, RangeError
from pcsparse.kernels.gpu_libraries import check_libraries
from pcsparse.programs.bench_device import UNFINISHED
from pcsparse.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[2]
_OUT = Path("bench-out/check-gpu")
_SECONDS = 500.0
# of a part's output, where it failed
_LAST_LINES = 15
# a part that is not worth beginning with less
_LEAST_SECONDS = 5.0
# seconds for the case that is begun last, and their share of all
_LAST_CASE, _LAST_CASE_SHARE = 20.0, 0.2
# a killed process that waits for its device may not end at all
_PATIENCE = 10.0

Status = Literal["passed", "cut short", "failed", "out of time", "not started"]
_GOOD: tuple[Status, ...] = ("passed", "cut short")


@dataclass(frozen=True)
class CheckSettings:
    """What to check.

    Attributes:
        device: cuda, or cpu for a rehearsal.
        seconds: for everything.
        out: folder of the results.
        only: names of parts; all if empty.
        cloud: a 64-beam sweep; a simulated one, or off an accelerator a miniature, if None.
        sweeps: ten sweeps for CenterPoint; as for `cloud` if None.
    """

    device: str
    seconds: float
    out: Path
    only: tuple[str, ...]
    cloud: Path | None
    sweeps: Path | None


@dataclass(frozen=True)
class CheckPart:
    """One process.

    Attributes:
        name: of the part.
        share: of all seconds, that it may take at most.
        command: what runs, in the root of the checkout.
        budgeted: whether `command` is to be told its seconds, as what takes all the time that there is.
        kept: of all seconds, that the parts before it must leave for it, so that it begins and has enough; of
            a part that keeps none, what time is left decides.
    """

    name: str
    share: float
    command: tuple[str, ...]
    budgeted: bool = False
    kept: float = 0.0


@dataclass(frozen=True)
class PartResult:
    """What became of a part.

    Attributes:
        name: of the part.
        status: how it ended; cut short where no time was left for all of it: a benchmark that told so, or a
            part that keeps none and was ended before it had its share.
        seconds: that it took.
        code: its exit status, None where it was ended.
        command: what ran.
        last: the last lines that it printed.
        skipped: of its tests.
    """

    name: str
    status: Status
    seconds: float
    code: int | None
    command: str
    last: tuple[str, ...]
    skipped: int = 0


def parts_of(settings: CheckSettings) -> tuple[CheckPart, ...]:
    """Checks of what networks run, then times, those with a goal first; then what nothing runs by itself.

    Checks that take all they may leave the times with a goal what these keep, and each other, too.

    A rehearsal leaves out what only a GPU has several ways for, and of training all but the twins.
    """
    python, rehearsal = sys.executable, settings.device == "cpu"
    given = () if settings.cloud is None else ("--cloud", str(settings.cloud))
    sweeps = () if settings.sweeps is None else ("--sweeps", str(settings.sweeps))
    own = (python, "-m", "pcsparse.programs.check_gpu_parts", "--device", settings.device, *given)
    several = ("-n", "8", "--dist", "worksteal") if find_spec("xdist") and not rehearsal else ()
    # a few cases of each test: a look at a machine, not the suite
    tests = (python, "-m", "pytest", "-q", "-m", "not slow", "--device", settings.device, "--cases", "8")
    quick = ("--quick", "--runs", "1") if rehearsal else ("--runs", "10", "--seconds", "1")
    bench = ("--device", settings.device, *given, *quick)

    def pytest(*files: str) -> tuple[str, ...]:
        return *tests, *several, *(f"tests/{file}" for file in files)

    def timed(name: str, share: float, kept: float, script: str, *sections: str) -> CheckPart:
        out = settings.out.resolve() / f"{name.replace(' ', '-')}.json"
        line = (*bench, *(sweeps if script == "bench_models" else ()), "--sections", *sections)
        command = python, f"scripts/{script}.py", *line, "--out", str(out)
        return CheckPart(name, share, command, budgeted=True, kept=kept)

    launches = "kernels/gpu/test_direct_launch.py"
    # a process for each dtype, as compiling the kernels of one takes a minute; the next part finds them
    compiled = CheckPart("launches of a step", 0.25, (*pytest(launches), "-k", "training_step"), kept=0.16)
    # a CPU refuses to record, and steps in 16 bits that are not recorded take minutes there
    recorded = ("--only", "recorded") if rehearsal else ()
    text = "kernels/test_cuda_text.py", "kernels/gpu/test_launch.py"
    replayed = "nn/test_recorded.py", "nn/test_recorded_training.py"
    keys = (
        "kernels/test_keys.py",
        "kernels/test_tables.py",
        "kernels/test_rows.py",
        "kernels/test_importance.py",
        "ops/test_partial_conv.py",
    )
    every = (
        CheckPart("peaks", 0.08, (*own, "peaks")),
        compiled,
        # one process, as it looks for kernels that no launch reached
        CheckPart("launches", 0.25, (*tests, "-rP", f"tests/{launches}"), kept=0.13),
        CheckPart("cuda text", 0.1, pytest(*text), kept=0.06),
        CheckPart("keys, tables, rows", 0.15, pytest(*keys), kept=0.1),
        CheckPart("recorded", 0.2, pytest(*replayed), kept=0.09),
        CheckPart("host", 0.15, (*own, "host")),
        timed("kernels", 0.3, 0.08, "bench_kernels", "maps", "dense", "launch"),
        timed("models", 0.4, 0.12, "bench_models", "nets"),
        timed("training", 0.4, 0.12, "bench_models", "steps", *recorded),
        CheckPart("tuner", 0.15, (*own, "tuner"), budgeted=True, kept=0.06),
        timed("layers", 0.4, 0.0, "bench_kernels", "layers"),
        CheckPart("ways to a map", 0.15, pytest("kernels/test_map_ways.py")),
        CheckPart("rule of maps", 0.15, (*own, "maps")),
        CheckPart("fetch-on-demand", 0.15, pytest("kernels/test_fetch_on_demand.py")),
        timed("heads", 1.0, 0.0, "bench_kernels", "heads", "neighbours"),
    )
    left_out = {"launches of a step", "host", "rule of maps"} if rehearsal else set()
    return tuple(part for part in every if part.name not in left_out)


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and run it: 0, or 1 if a part did not pass and time was left for it."""
    parser = argparse.ArgumentParser(description="Check a GPU machine, then time: kernels, networks, peers.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a rehearsal")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help=f"for everything ({_SECONDS:g})")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="parts by name")
    parser.add_argument("--cloud", type=Path, help="a 64-beam sweep")
    parser.add_argument("--sweeps", type=Path, help="ten sweeps for CenterPoint")
    parser.add_argument("--out", type=Path, default=_OUT, help="folder of the results")
    given = parser.parse_args(arguments)
    cloud, sweeps = (None if path is None else path.resolve() for path in (given.cloud, given.sweeps))
    return run(CheckSettings(given.device, given.seconds, given.out, tuple(given.only), cloud, sweeps))


def run(settings: CheckSettings, parts: Sequence[CheckPart] | None = None) -> int:
    """Run the parts one after the other and write what became of them after each.

    A part for which no time was left is no failure, but for one that keeps time: all of it was too short.

    Args:
        settings: what to check.
        parts: instead of `parts_of`.

    Raises:
        RangeError: a name of `only` is none, or there is no time.
        FormatError: this is no checkout, or a cloud is missing.
        DeviceError: torch sees no CUDA device.
        UnsupportedError: cupy or triton is missing; the text names the extra.
    """
    every = parts_of(settings) if parts is None else parts
    names = [part.name for part in every]
    unknown = set(settings.only) - set(names)
    if unknown or settings.seconds <= 0:
        raise RangeError(
            f"need --seconds above 0 and parts of {', '.join(names)}; got {settings.seconds:g} and "
            f"{', '.join(sorted(unknown)) or 'known ones'}"
        )
    for path in (settings.cloud, settings.sweeps):
        if path is not None and not path.is_file():
            raise FormatError(f"no point file at {path}")
    if not (ROOT / "tests").is_dir():
        raise FormatError(f"{ROOT} has no tests, which this runs; start it in a checkout")
    if settings.device == "cuda":
        # each part would fail of it, and most without a hint
        usable_device(settings.device)
        check_libraries()
    settings.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    found: list[PartResult] = []
    chosen = [part for part in every if not settings.only or part.name in settings.only]
    for number, part in enumerate(chosen, 1):
        kept = sum(later.kept for later in chosen[number:])
        left = (1 - kept) * settings.seconds - (time.perf_counter() - begin)
        share = part.share * settings.seconds
        result = run_part(part, min(left, share), settings.out)
        if result.status == "out of time" and not part.kept and left < share:
            result = replace(result, status="cut short")
        found.append(result)
        print("\n".join(_said(result)), flush=True)
        _write(found, settings)
    print(f"written: {settings.out}, {time.perf_counter() - begin:.0f} s")
    return _told(chosen, found)


def _told(parts: Sequence[CheckPart], found: Sequence[PartResult]) -> int:
    """Say what passed, what did not and, last, what no time was left for; 1 if a part did not pass."""
    cut = [
        result.name
        for part, result in zip(parts, found, strict=True)
        if result.status == "cut short" or (result.status == "not started" and not part.kept)
    ]
    passed = [result.name for result in found if result.status == "passed"]
    bad = [result.name for result in found if result.name not in (*passed, *cut)]
    print(f"{len(passed)} of {len(found)} parts passed")
    if bad:
        print(f"not passed: {', '.join(bad)}")
    if cut:
        print(f"cut short, as no time was left: {', '.join(cut)}")
    return int(bool(bad))


def run_part(part: CheckPart, seconds: float, out: Path) -> PartResult:
    """Run a part in a process group of its own, and end the group when its time is over.

    What it prints goes to a file of its name in `out`.
    """
    command = part.command
    if part.budgeted:
        # so that it ends by itself, with what it has
        last_case = max(_LAST_CASE, _LAST_CASE_SHARE * seconds)
        command += ("--budget", f"{max(seconds - last_case, _LEAST_SECONDS):.0f}")
    line = " ".join(command)
    if seconds < _LEAST_SECONDS:
        return PartResult(part.name, "not started", 0.0, None, line, ())
    log, begin = out / f"{part.name.replace(' ', '-')}.txt", time.perf_counter()
    print(f"{part.name}: at most {seconds:.0f} s", flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = _ended(child, seconds)
    status: Status = "out of time" if code is None else "failed" if code else "passed"
    if part.budgeted and code == UNFINISHED:
        status = "cut short"
    lines = log.read_text(errors="replace").rstrip().splitlines()
    tests = _tests(part.command, lines)
    if status == "passed" and tests.get("passed") == 0:
        # pytest is content when it skips all
        status = "failed"
    seconds, last = time.perf_counter() - begin, tuple(lines[-_LAST_LINES:])
    return PartResult(part.name, status, seconds, code, line, last, tests.get("skipped", 0))


def _tests(command: Sequence[str], lines: Sequence[str]) -> dict[str, int]:
    """How many tests passed and were skipped, by pytest's last line; nothing where it did not run."""
    if "pytest" not in command or not lines:
        return {}
    counts = {word: re.search(rf"(\d+) {word}", lines[-1]) for word in ("passed", "skipped")}
    return {word: int(found[1]) if found else 0 for word, found in counts.items()}


def _ended(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Its exit status, or None where its time was over."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # what it has started may outlive it
        try:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(_PATIENCE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass


def _said(result: PartResult) -> list[str]:
    head = f"{result.name}: {result.status}, {result.seconds:.0f} s"
    head += f", {result.skipped} tests skipped" if result.skipped else ""
    if result.status in _GOOD:
        return [head]
    return [head, f"  {result.command}", *(f"  | {line}" for line in result.last)]


def _write(found: Sequence[PartResult], settings: CheckSettings) -> None:
    facts = {"device": settings.device, "seconds": settings.seconds, "parts": [asdict(one) for one in found]}
    write_whole(settings.out / "check.json", json.dumps(facts, indent=1).encode())
    lines = [line for one in found for line in _said(one)]
    write_whole(settings.out / "check.txt", ("\n".join(lines) + "\n").encode())
