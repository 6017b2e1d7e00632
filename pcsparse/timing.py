"""The one clock: warm-up, synchronisation, median and quartiles, and a header that says where it ran.

Numbers of shared machines jump. So candidates that are compared run in turns, and what is reported is the
median and the quartiles, never the best.
"""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from pcsparse.errors import RangeError

_ROOT = Path(__file__).resolve().parent.parent
# beyond it, spinning threads of two programs on the same cores have slowed one tenfold and the other twofold
_BUSY = 0.15
_BUSY_SECONDS = 0.3
_PACKAGES = ("pcsparse", "torch", "numpy", "numba", "llvmlite", "triton", "cupy-cuda12x", "cupy-cuda13x")


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one run: median and quartiles over `runs` runs."""

    median: float
    q1: float
    q3: float
    runs: int

    @staticmethod
    def of(seconds: Sequence[float]) -> "Timing":
        """Summarise the seconds of single runs.

        Raises:
            RangeError: no runs.
        """
        if not seconds:
            raise RangeError("a timing needs at least one run, got none")
        q1, median, q3 = np.percentile(seconds, (25, 50, 75)).tolist()
        return Timing(median, q1, q3, len(seconds))


def time_in_turns(
    candidates: Mapping[str, Callable[[], object]],
    *,
    runs: int = 20,
    warmup: int = 2,
    settle: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Timing]:
    """Time several candidates in turns, so that a slow moment of the machine hits all of them.

    Every second round goes backwards, so that no candidate always finds the caches as the same other one left
    them. No candidate runs twice in a row, so each finds them as another one left them; with `settle` each
    finds them as it left them itself.

    Args:
        candidates: by name; each call is one run.
        runs: runs of each candidate, at least 1.
        warmup: unmeasured runs of each before.
        settle: unmeasured runs of the same candidate right before each measured one.
        device: synchronised before and after every measured run if it is a GPU.

    Returns:
        A Timing for each name.

    Raises:
        RangeError: `runs` is below 1, or `warmup` or `settle` below 0.
    """
    if runs < 1 or warmup < 0 or settle < 0:
        raise RangeError(
            f"need runs >= 1, warmup >= 0 and settle >= 0, got runs={runs}, warmup={warmup}, settle={settle}"
        )
    where = torch.device(device)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        for _ in range(warmup):
            run()
    names = list(candidates)
    # the last one stays the last: a plain reversal would run the candidate at each end twice in a row
    backwards = [*names[-2::-1], *names[-1:]]
    for turn in range(runs):
        for name in names if turn % 2 == 0 else backwards:
            for _ in range(settle):
                candidates[name]()
            seconds[name].append(_once(candidates[name], where))
    return {name: Timing.of(taken) for name, taken in seconds.items()}


def time_one(
    run: Callable[[], object], *, runs: int = 20, warmup: int = 2, device: str | torch.device = "cpu"
) -> Timing:
    """Time one candidate; see `time_in_turns`."""
    return time_in_turns({"": run}, runs=runs, warmup=warmup, device=device)[""]


def _once(run: Callable[[], object], device: torch.device) -> float:
    _synchronise(device)
    begin = time.perf_counter()
    result = run()
    _synchronise(device)
    taken = time.perf_counter() - begin
    # freeing a large result is not part of the run
    del result
    return taken


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Environment:
    """Where and with what a measurement was taken.

    Attributes:
        cpu: model name.
        cores: logical cores this process may use.
        threads: threads torch and the kernels use.
        others: share of all cores busy with other work just before, 0 to 1; None if unknown.
        gpu: name and driver-visible memory of the first CUDA device, or "none".
        system: operating system and Python.
        versions: (package, version), those installed.
        commit: of the checkout, "+changes" if files differ from it; "none" outside a checkout.
        date: UTC, ISO 8601.
    """

    cpu: str
    cores: int
    threads: int
    others: float | None
    gpu: str
    system: str
    versions: tuple[tuple[str, str], ...]
    commit: str
    date: str

    @property
    def busy(self) -> bool:
        """Whether other work keeps the cores so busy that no timing is worth quoting."""
        return self.others is not None and self.others > _BUSY

    def header(self) -> str:
        """A few lines of text for the top of a report."""
        others = "unknown" if self.others is None else f"{self.others:.0%}"
        packages = ", ".join(f"{name} {number}" for name, number in self.versions)
        return (
            f"{self.date}  commit {self.commit}\n"
            f"{self.cpu}, {self.cores} cores, {self.threads} threads, other work before the start {others}; "
            f"GPU: {self.gpu}\n"
            f"{self.system}; {packages}"
            + ("\nthe machine is BUSY with other work: do not quote the times below" if self.busy else "")
        )


def environment() -> Environment:
    """Look at the machine (for a third of a second), the installed packages and the checkout."""
    affinity = getattr(os, "sched_getaffinity", None)
    return Environment(
        cpu=_cpu_model(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        others=_busy_share(),
        gpu=_gpu(),
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        versions=tuple((name, found) for name in _PACKAGES if (found := _version(name)) is not None),
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _busy_share() -> float | None:
    # the load average still counts what ended a minute ago
    before = _cpu_ticks()
    if before is None:
        return None
    time.sleep(_BUSY_SECONDS)
    after = _cpu_ticks()
    if after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def _cpu_ticks() -> tuple[int, int] | None:
    """Busy ticks of all cores, and all their ticks; what a virtual machine was denied counts as busy."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return None
    user, nice, system, idle, waiting, irq, softirq, stolen = map(int, stat.read_text().split()[1:9])
    busy = user + nice + system + irq + softirq + stolen
    return busy, busy + idle + waiting


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    # an installed package may lie inside somebody else's checkout
    if not (_ROOT / ".git").exists():
        return "none"
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changed else head


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(_ROOT), *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
