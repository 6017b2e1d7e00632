"""Stores states of a run while it goes on: a training on a GPU waits for a copy only, not for the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from pcsparse.train.checkpoint import TrainState, save_state


class StateWriter:
    """Writes one file again and again; to be closed, best by `with`.

    Args:
        path: of the file.
        beside: write in a thread, from a copy on the host; else `offer` returns when the file is there.
    """

    def __init__(self, path: Path, *, beside: bool) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1) if beside else None
        self._under_way: Future[None] | None = None
        self._due = False
        self._room: dict[tuple[str, ...], Tensor] = {}

    def offer(self, make: Callable[[], TrainState], *, due: bool, ends: bool) -> None:
        """Store the state of a step where that is due and nothing is being written, else at a later step.

        Args:
            make: the state; its tensors may change when this returns.
            due: whether one is to be stored.
            ends: whether no later step comes, so that it cannot wait.

        Raises:
            OSError: the disk refused this state or, unless this is the last one, which is written anyway, the
                one before.
        """
        self._due = self._due or due
        free = self._under_way is None or self._under_way.done()
        if not (ends or (self._due and free)):
            if free:
                self.wait()
            return
        self._due = False
        if self._pool is None:
            save_state(self._path, make())
            return
        if not ends:
            self.wait()
        elif self._under_way is not None:
            # whatever became of the one before, its room is free then
            self._under_way.exception()
        self._under_way = self._pool.submit(save_state, self._path, self._copied(make()))

    def wait(self) -> None:
        """Until what is under way is on the disk.

        Raises:
            OSError: it is not.
        """
        if self._under_way is not None:
            self._under_way.result()

    def _copied(self, state: TrainState) -> TrainState:
        """On the host; the memory is that of the last copy, which was written."""
        devices = set[torch.device]()
        copies = {f.name: self._copy(getattr(state, f.name), (f.name,), devices) for f in fields(state)}
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return replace(state, **copies)

    def _copy(self, value: Any, place: tuple[str, ...], devices: set[torch.device]) -> Any:
        if isinstance(value, dict):
            return {name: self._copy(part, (*place, str(name)), devices) for name, part in value.items()}
        if isinstance(value, list):
            return [self._copy(part, (*place, str(i)), devices) for i, part in enumerate(value)]
        if not isinstance(value, Tensor):
            return value
        room = self._room.get(place)
        if room is None or room.shape != value.shape or room.dtype != value.dtype:
            # pinned memory is what a GPU copies to at its full rate
            room = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda, device="cpu")
            self._room[place] = room
        if value.is_cuda:
            devices.add(value.device)
        return room.copy_(value, non_blocking=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        self._pool.shutdown()
        if value is None:
            self.wait()
            return
        refused = None if self._under_way is None else self._under_way.exception()
        if refused is not None and refused is not value:
            value.add_note(
                f"the state that was under way to {self._path} was not written: "
                f"{type(refused).__name__}: {refused}"
            )
