"""What a person sees of a running training: a bar on a terminal, else a line now and then."""

import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Protocol, Self

from pcsparse.checks import require_extra

_WINDOW_STEPS = 50
_LINE_EVERY_S = 10.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Throughput:
    """Sweeps and voxels a second over the last steps, and the time to go.

    Args:
        n_steps: steps of the whole run.
    """

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=_WINDOW_STEPS)

    def update(self, seconds: float, n_sweeps: int, n_voxels: int) -> None:
        """Count one step that took `seconds`, waiting for data included."""
        self._recent.append((seconds, n_sweeps, n_voxels))

    def text(self, step: int) -> str:
        """For example `3.1 sweeps/s 190 k voxels/s, 4:10 to go`; `step` counts finished steps."""
        seconds = sum(row[0] for row in self._recent)
        if not seconds:
            return ""
        sweeps = sum(row[1] for row in self._recent) / seconds
        voxels = sum(row[2] for row in self._recent) / seconds
        left = seconds / len(self._recent) * (self.n_steps - step)
        return f"{sweeps:.2f} sweeps/s {voxels / 1e3:.0f} k voxels/s, {_duration(left)} to go"


class Progress(Protocol):
    """Where the loop reports to."""

    def step(self, step: int, epoch: int, loss: float, throughput: Throughput) -> None:
        """Report that `step` steps are done."""

    def note(self, text: str) -> None:
        """Show a line that stays: a validation, a checkpoint, a warning."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Silent:
    def step(self, step: int, epoch: int, loss: float, throughput: Throughput) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Lines(_Silent):
    def __init__(self) -> None:
        self._next = 0.0

    def step(self, step: int, epoch: int, loss: float, throughput: Throughput) -> None:
        now = time.monotonic()
        if now < self._next and step < throughput.n_steps:
            return
        self._next = now + _LINE_EVERY_S
        self.note(
            f"step {step}/{throughput.n_steps} epoch {epoch + 1} loss {loss:.4f} {throughput.text(step)}"
        )

    def note(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class _Bar(_Silent):
    def __init__(self) -> None:
        progress = require_extra("rich.progress", "train")
        self._bar: Any = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed}/{task.total} loss {task.fields[loss]} {task.fields[rate]}"),
        )
        self._task: Any = None

    def step(self, step: int, epoch: int, loss: float, throughput: Throughput) -> None:
        facts = {"epoch": epoch + 1, "loss": f"{loss:.4f}", "rate": throughput.text(step)}
        if self._task is None:
            self._task = self._bar.add_task("train", total=throughput.n_steps, **facts)
        self._bar.update(self._task, completed=step, **facts)

    def note(self, text: str) -> None:
        # markup is off: class names may hold brackets
        self._bar.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def open_progress(kind: str) -> Progress:
    """The way to report: auto (a bar where stdout is a terminal, else lines), rich, plain or none.

    Raises:
        UnsupportedError: a bar is wanted and rich is not installed.
    """
    if kind == "auto":
        kind = "rich" if sys.stdout.isatty() else "plain"
    match kind:
        case "rich":
            return _Bar()
        case "plain":
            return _Lines()
        case _:
            return _Silent()
