"""TensorBoard event files of a run; the package is loaded only where they are asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pcsparse.checks import require_extra


class EventLog:
    """Scalars by step, or nothing at all.

    Args:
        writer: a `SummaryWriter`, or None to write nothing.
    """

    def __init__(self, writer: Any | None) -> None:
        self._writer = writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each named curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def open_event_log(folder: Path, wanted: bool, resume_step: int | None) -> EventLog:
    """The event log of a run, in `folder/tensorboard`.

    Args:
        folder: of the run.
        wanted: False gives a log that writes nothing.
        resume_step: curves are cut behind this step; None for a new run.

    Raises:
        UnsupportedError: wanted, and tensorboard is not installed.
    """
    if not wanted:
        return EventLog(None)
    require_extra("tensorboard", "train")
    writer = require_extra("torch.utils.tensorboard", "train").SummaryWriter
    purge = None if resume_step is None else resume_step + 1
    return EventLog(writer(str(folder / "tensorboard"), purge_step=purge))
