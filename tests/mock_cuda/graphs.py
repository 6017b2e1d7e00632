"""CUDA graphs: what is launched while one is recorded, and how it is launched again."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from tests.mock_cuda import waits

_LAUNCHES: list[Callable[[], None]] = []


def on_device(name: str, args: tuple[Any, ...], run: Callable[..., None]) -> None:
    """Launch a kernel, which takes tensors of the device alone."""
    from tests.mock_cuda.tensors import held, refuse_hosts

    refuse_hosts(name, args)
    memory = held(args)
    run(*memory)
    if waits.MIND.recording:
        _LAUNCHES.append(lambda: run(*memory))


def noted(func: Callable[..., Any], args: Any, kwargs: Any, *, there: bool, writes: bool = False) -> Any:
    """Run an operation; while launches are recorded, keep it with its memory."""
    out = func(*args, **kwargs)
    if not (waits.MIND.recording and there):
        return out
    before = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
    fresh = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
    if writes:
        _LAUNCHES.append(lambda: func(*args, **kwargs))
    elif any(_memory(leaf) not in before for leaf in fresh):

        def again() -> None:
            new = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
            for old, one in zip(fresh, new, strict=True):
                if _memory(old) not in before:
                    old.copy_(one)

        _LAUNCHES.append(again)
    return out


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Graph:
    """As `torch.cuda.CUDAGraph`."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._launches: list[Callable[[], None]] = []

    def replay(self) -> None:
        """Launch everything again, in order."""
        for launch in self._launches:
            launch()

    def keep(self) -> None:
        """What was launched since the recording began."""
        self._launches = list(_LAUNCHES)


class Recording:
    """As `torch.cuda.graph`."""

    def __init__(self, graph: Graph, **options: Any) -> None:
        self._graph = graph

    def __enter__(self) -> None:
        _LAUNCHES.clear()
        waits.MIND.recording = True

    def __exit__(self, *error: Any) -> None:
        waits.MIND.recording = False
        self._graph.keep()
        _LAUNCHES.clear()
