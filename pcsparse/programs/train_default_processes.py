"""The processes of `train_default`: started, watched, started again where they fail, ended."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = "pcsparse.programs.train_default"
# what a log's last line is cut to
_SHOWN = 300


@dataclass(frozen=True)
class Failure:
    """A process that failed for good.

    Attributes:
        verb: what it did.
        recipe: name of the model that it worked for.
        text: which one failed, how often, and where its log is.
    """

    verb: str
    recipe: str
    text: str


@dataclass
class _Running:
    verb: str
    recipe: str
    more: tuple[str, ...]
    process: subprocess.Popen[bytes]
    log: Path | None
    failures: int = 0
    given_up: bool = False

    @property
    def name(self) -> str:
        """For a message."""
        part = f" {self.more[0]}" if self.log is not None else ""
        return f"{self.verb}{part} of {self.recipe}"

    def told(self, status: int) -> str:
        """How it failed, and where to look."""
        text = f"{self.name} ended with status {status}"
        if self.log is None:
            return text
        return f"{text}; see {self.log}, which ends: {_last_line(self.log)}"


class Processes:
    """Processes of this program, by what they do; they end when the context is left.

    Args:
        arguments: the command line that all of them share.
        logs: folder for what those say that have a log.
        patience: seconds that they have to end.
    """

    def __init__(self, arguments: Sequence[str], logs: Path, patience: float) -> None:
        self.logs = logs
        self._arguments = list(arguments)
        self._patience = patience
        self._running: list[_Running] = []
        self._ended: set[str] = set()

    def start(self, verb: str, recipe: str, *more: str, log: str | None = None) -> None:
        """Start one that does `verb` for a recipe; what it says goes on in `log`, else to the console."""
        path = None if log is None else self.logs / f"{log}.log"
        process = self._open(verb, recipe, more, path)
        self._running.append(_Running(verb, recipe, more, process, path))

    def left(self, verb: str, recipe: str | None = None) -> bool:
        """Whether one of a recipe, or of all, runs, or has failed and will be started again."""
        for one in self._running:
            if one.verb == verb and recipe in (None, one.recipe):
                status = one.process.poll()
                if status is None or (status != 0 and not one.given_up and verb not in self._ended):
                    return True
        return False

    def restart_failed(self, verb: str, times: int, *changed: str) -> list[Failure]:
        """Start those of `verb` that failed again, each at most that many times.

        Args:
            verb: what they do; those that were asked to end are left alone.
            times: how often one is started again.
            changed: further arguments of the command line from then on.

        Returns:
            Those that failed once more after that, each once.
        """
        lost = []
        for one in self._running:
            status = one.process.poll()
            if one.verb != verb or verb in self._ended or status in (None, 0) or one.given_up:
                continue
            one.failures += 1
            if one.failures > times:
                one.given_up = True
                often = f", {one.failures} times in all" if one.failures > 1 else ""
                lost.append(Failure(one.verb, one.recipe, f"{one.told(int(status or 0))}{often}"))
                continue
            flags = f" with {' '.join(changed)}" if changed else ""
            print(f"{one.told(int(status or 0))}; once more{flags} ({one.failures} of {times})", flush=True)
            one.process = self._open(verb, one.recipe, one.more, one.log, *changed)
        return lost

    def end(self, verb: str) -> None:
        """Ask those of `verb` to end."""
        self._ended.add(verb)
        for one in self._running:
            if one.verb == verb and one.process.poll() is None:
                one.process.terminate()

    def _open(
        self, verb: str, recipe: str, more: tuple[str, ...], log: Path | None, *changed: str
    ) -> subprocess.Popen[bytes]:
        # one thread each: there are as many processes as cores
        env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        part = ["--part", verb, recipe, *more]
        command = [sys.executable, "-m", _PROGRAM, *self._arguments, *changed, *part]
        if log is None:
            return subprocess.Popen(command, env=env)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        for verb in dict.fromkeys(one.verb for one in self._running):
            # a training ends with a checkpoint, which takes a moment
            self.end(verb)
        ends = time.monotonic() + self._patience
        for one in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(max(ends - time.monotonic(), 0.1))
            one.process.kill()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip()[:_SHOWN] for line in reversed(lines) if line.strip()), "(nothing)")
