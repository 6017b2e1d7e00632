"""What recordings of a network as a CUDA graph share: capture, rooms, and clouds without coordinates."""

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.padded_maps import PaddedMaps
from pcsparse.errors import (
    DeviceError,
    DtypeError,
    PcsparseError,
    RangeError,
    ShapeError,
    UnsupportedError,
)
from pcsparse.lack_of_memory import lacks_memory
from pcsparse.sparse_tensor import SparseTensor

# rows of the largest tile of a kernel
_ROUND = 256
# one recording at a time: it synchronises the device, which would end another one, and switches the garbage
# collector and torch's mind about waits, of which the process has one each
_ALONE = threading.RLock()
Result = TypeVar("Result")
Network = Callable[[SparseTensor], SparseTensor]


@dataclass(frozen=True)
class Likeness:
    """What a cloud has in common with the one that was recorded.

    Attributes:
        shape: channels, stride and batch size.
        dtype, device: of the features.
        autocast: its dtype while the network runs; None where it is off.
    """

    shape: tuple[int, tuple[int, int, int], int]
    dtype: torch.dtype
    device: torch.device
    autocast: torch.dtype | None

    @staticmethod
    def of(x: SparseTensor) -> "Likeness":
        """That of a cloud, here and now."""
        kind = x.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return Likeness((x.feats.shape[1], x.stride, x.batch_size), x.feats.dtype, x.feats.device, autocast)

    def check(self, x: SparseTensor) -> None:
        """Raise ShapeError, DtypeError, DeviceError or UnsupportedError where a cloud differs."""
        have = Likeness.of(x)
        if have.device != self.device:
            raise DeviceError(f"recorded on {self.device}, got features on {have.device}")
        if have.dtype != self.dtype:
            raise DtypeError(f"recorded with {self.dtype}, got {have.dtype}; convert the features")
        if have.shape != self.shape:
            raise ShapeError(
                f"recorded with channels, stride and batch size {self.shape}, got {have.shape}; record "
                "another network for these"
            )
        if have.autocast != self.autocast:
            raise UnsupportedError(
                f"recorded with {_autocast_text(self.autocast)}, called with "
                f"{_autocast_text(have.autocast)}; call it as it was recorded, or record another network "
                "for this"
            )

    def casting(self) -> AbstractContextManager[object]:
        """Autocast as it was; casts that it keeps would be freed under the graph."""
        dtype = self.autocast
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


def _autocast_text(dtype: torch.dtype | None) -> str:
    return "autocast disabled" if dtype is None else f"autocast to {dtype}"


def check_room(room: float) -> None:
    """Raise RangeError where there would be less room than the example takes."""
    if room < 1:
        raise RangeError(f"room must be at least 1, the size of the example, got {room}")


def check_device(x: SparseTensor) -> None:
    """Raise DeviceError where no graph can be."""
    if x.device.type != "cuda":
        raise DeviceError(
            f"a CUDA graph needs a CUDA device, the features are on {x.device}; run the network itself"
        )


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make it the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def padded_maps(
    model: Network, example: SparseTensor, room: float, before: PaddedMaps | None
) -> tuple[PaddedMaps, object]:
    """Run a network once, which compiles its kernels, and make room for the maps that it asks for.

    Args:
        model: see `RecordedForward`.
        example: a cloud.
        room: rows to have room for, over those of the example.
        before: what clouds before had room in; the new one has at least as much.

    Returns:
        The maps, and what the network returned, whose cache is that of the plan.

    Raises:
        UnsupportedError: the network asks for more than tables, or reads several coordinate sets.
    """
    # a cache of its own: coordinates may be a level of another, which other networks may have asked, too
    cache = CoordCache()
    out = model(with_cache(example, example.feats, cache, example.coords))
    plan = cache.plan()
    if len(plan.given) != 1:
        raise UnsupportedError(
            f"the network reads {len(plan.given)} coordinate sets that it does not make itself, and only "
            "one is replaced when a cloud is replayed"
        )
    sets = plan.fill(cache, {plan.given[0]: example.coords})
    rooms = [_rounded(sets[token].shape[0] * room) for token in range(plan.n_sets)]
    if before is not None and before.plan == plan:
        # else two kinds of clouds, each larger at another level, would be recorded in turn
        rooms = [max(pair) for pair in zip(rooms, before.rooms, strict=True)]
    return PaddedMaps(plan, cache, rooms), out


def set_of(out: object) -> int:
    """The number, in its cache, of the coordinates that a network returned.

    Raises:
        UnsupportedError: it returned no SparseTensor.
    """
    if not isinstance(out, SparseTensor):
        raise UnsupportedError(f"a recorded network returns one SparseTensor, not {type(out).__name__}")
    return next(n for n in range(out.cache.plan().n_sets) if out.cache.set(n) is out.coords)


def run_padded(model: Network, maps: PaddedMaps, like: SparseTensor, feats: Tensor) -> SparseTensor:
    """A network on padded maps, with nothing derived from them before.

    Raises:
        UnsupportedError: a layer reads coordinates, or the result is no SparseTensor of this cloud.
    """
    cache = maps.cache()
    # the number of the only set that is given
    x = with_cache(like, feats, cache, cache.set(maps.plan.given[0]))
    try:
        out = model(x)
    except (DeviceError, NotImplementedError) as error:
        raise UnsupportedError(
            f"a layer reads the coordinates, and a recorded network has none ({error}); record "
            "the part before it"
        ) from error
    if not isinstance(out, SparseTensor) or out.cache is not cache:
        raise UnsupportedError(f"a recorded network returns one SparseTensor, not {type(out).__name__}")
    return out


def with_cache(
    like: SparseTensor, feats: Tensor, cache: CoordCache, coords: Tensor | None = None
) -> SparseTensor:
    """Features with the stride and batch size of another tensor, and nothing else of it."""
    if coords is None:
        coords = like.coords.new_empty(feats.shape[0], 4)
    x = like.at(feats, coords, like.stride)
    x.cache = cache
    return x


@contextmanager
def explaining_waits() -> Iterator[None]:
    """Say of what cannot be recorded what to do about it."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, PcsparseError) or lacks_memory(error):
            raise
        raise UnsupportedError(
            f"the launches of the network could not be recorded ({error}); a layer must not make the "
            'host wait for the device, as dataflow="gather_scatter" does: give it another dataflow, '
            "or record the part without it"
        ) from error


def record(run: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Record what `run` launches on the current device.

    Other threads may use the device meanwhile, as those do that pin memory for a data loader, but not wait
    for it: a wait raises RuntimeError there, and one for the whole device ends the recording. Two threads
    record one after the other.

    Returns:
        What `run` returned, and a function that replays the launches, so that it holds their new results.

    Raises:
        RuntimeError: `run` does what cannot be recorded.
    """
    with _ALONE:
        return _record(run)


def _record(run: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    before = torch.cuda.current_stream()
    # torch's own stream for this is one of the device that first recorded
    stream = torch.cuda.Stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        run()
        # a wait that ends a recording leaves allocator and generators in it; so it is met before
        with _refusing_waits():
            run()
    before.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # not "global", where memory that any other thread takes or pins ends the recording, and that thread
        recording = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
        with _nothing_collected(), recording:
            out = run()
    finally:
        # where ending the recording fails, torch does not leave its stream
        torch.cuda.set_stream(before)
    return out, graph.replay


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Collect garbage now, not within: an older graph that is freed while another is recorded spoils it."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _refusing_waits() -> Iterator[None]:
    """Make operations of torch raise RuntimeError where the host would wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode("error")
    try:
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        # that it does not detect everything: the recording itself does
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


def _rounded(rows: float) -> int:
    return -(-max(int(rows), 1) // _ROUND) * _ROUND
