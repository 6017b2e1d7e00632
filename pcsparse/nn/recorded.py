"""A network whose launches are recorded once, as a CUDA graph, and replayed for every cloud."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

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
from pcsparse.sparse_tensor import SparseTensor

# rows of the largest tile of a kernel
_ROUND = 256


class RecordedForward:
    """Inference of a network without the host's work of launching its kernels one by one.

    The levels of a cloud are built, then all maps at once into tables of a fixed size (`CachePlan.fill` says
    when the host waits); the features are copied into a fixed buffer, and all launches of the network are
    replayed with one call. Rows beyond the cloud are computed too, from nothing, and dropped. A cloud that is
    larger than the room is recorded anew, with room for all before it too.

    The weights are read when the graph is replayed, so that they may change in place, but not be replaced.

    Args:
        model: takes and returns one SparseTensor, and looks at coordinates only through kernel maps, as
            convolutions, norms and activations do. In evaluation mode; best fused (`nn.fuse`).
        example: a cloud of usual size.
        room: rows to have room for, over those of the example, at least 1.
        check: called with every cloud, before it is replayed; for what the network checks of coordinates, as
            `SecondBackbone.check_inside` does.

    Raises:
        UnsupportedError: a module of `model` is in training mode; or it needs more of a cloud than tables, or
            makes the host wait for the device.
        DeviceError: `example` is not on a CUDA device.
        RangeError: `room` is below 1.

    Source: CUDA graphs, CUDA C++ Programming Guide, section "CUDA Graphs".
    """

    def __init__(
        self,
        model: nn.Module,
        example: SparseTensor,
        *,
        room: float = 1.25,
        check: Callable[[SparseTensor], None] | None = None,
    ) -> None:
        if room < 1:
            raise RangeError(f"room must be at least 1, the size of the example, got {room}")
        _check_device(example)
        self._model, self._room, self._check_cloud = model, room, check
        self._autocast = _autocast_dtype(example.device)
        self._maps: PaddedMaps | None = None
        with _on(example.device):
            # claims of its own cache, which is not asked for anything else
            example.cache.check_clouds(example.coords)
            self._record(example)

    @torch.no_grad()
    def __call__(self, x: SparseTensor) -> SparseTensor:
        """What `model(x)` returns.

        Args:
            x: channels, dtype, device, stride and batch size as the example's.

        Raises:
            ShapeError, DtypeError, DeviceError: `x` is not like the example.
            UnsupportedError: autocast is not as it was at recording; or as at recording, where `x` is larger
                than the room.
        """
        self._check(x)
        with _on(x.device):
            if self._check_cloud is not None:
                self._check_cloud(x)
            maps = self._maps
            assert maps is not None
            sets = maps.plan.fill_levels(x.cache, {maps.plan.given[0]: x.coords})
            if not maps.fits(sets):
                maps = self._record(x)
            maps.load(x.cache, sets)
            self._feats[: len(x)].copy_(x.feats)
            self._replay()
            coords = sets[self._out_set]
            return x.at(self._out.feats[: coords.shape[0]].clone(), coords, self._out.stride)

    def _record(self, example: SparseTensor) -> PaddedMaps:
        """Make room for clouds somewhat larger than the example, and record; nothing changes if it fails."""
        if any(module.training for module in self._model.modules()):
            raise UnsupportedError("only inference is recorded; call model.eval() before")
        # buffers of inference mode could not be written outside it; a cast that autocast keeps would be freed
        # under the graph
        dtype = self._autocast
        autocast = torch.autocast(
            example.device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False
        )
        with torch.inference_mode(False), torch.no_grad(), autocast:
            maps = self._padded_maps(example)
            given = maps.plan.given[0]
            like = _with_cache(example, example.feats.new_empty(0, example.feats.shape[1]), CoordCache())
            feats = example.feats.new_zeros(maps.rooms[given], example.feats.shape[1])
            try:
                out, replay = record(lambda: self._run(maps, like, feats))
            except RuntimeError as error:
                if isinstance(error, PcsparseError | torch.OutOfMemoryError):
                    raise
                raise UnsupportedError(
                    f"the launches of the network could not be recorded ({error}); a layer must not make the "
                    'host wait for the device, as dataflow="gather_scatter" does: give it another dataflow, '
                    "or record the part without it"
                ) from error
        self._maps, self._like, self._feats, self._out, self._replay = maps, like, feats, out, replay
        self._out_set = next(n for n in range(maps.plan.n_sets) if out.cache.set(n) is out.coords)
        return maps

    def _padded_maps(self, example: SparseTensor) -> PaddedMaps:
        # a cache of its own: coordinates may be a level of another, which other networks may have asked, too
        cache = CoordCache()
        # compiles kernels, and asks for every level and map
        self._model(_with_cache(example, example.feats, cache, example.coords))
        plan = cache.plan()
        if len(plan.given) != 1:
            raise UnsupportedError(
                f"the network reads {len(plan.given)} coordinate sets that it does not make itself, and only "
                "one is replaced when a cloud is replayed"
            )
        sets = plan.fill(cache, {plan.given[0]: example.coords})
        rooms = [_rounded(sets[token].shape[0] * self._room) for token in range(plan.n_sets)]
        if self._maps is not None and self._maps.plan == plan:
            # else two kinds of clouds, each larger at another level, would be recorded in turn
            rooms = [max(pair) for pair in zip(rooms, self._maps.rooms, strict=True)]
        return PaddedMaps(plan, cache, rooms)

    def _run(self, maps: PaddedMaps, like: SparseTensor, feats: Tensor) -> SparseTensor:
        cache = maps.cache()
        # the number of the only set that is given
        x = _with_cache(like, feats, cache, cache.set(maps.plan.given[0]))
        try:
            out = self._model(x)
        except (DeviceError, NotImplementedError) as error:
            raise UnsupportedError(
                f"a layer reads the coordinates, and a recorded network has none ({error}); record "
                "the part before it"
            ) from error
        if not isinstance(out, SparseTensor) or out.cache is not cache:
            raise UnsupportedError(f"a recorded network returns one SparseTensor, not {type(out).__name__}")
        return out

    def _check(self, x: SparseTensor) -> None:
        _check_device(x)
        if x.feats.device != self._feats.device:
            raise DeviceError(f"recorded on {self._feats.device}, got features on {x.feats.device}")
        if x.feats.dtype != self._feats.dtype:
            raise DtypeError(f"recorded with {self._feats.dtype}, got {x.feats.dtype}; convert the features")
        want = (self._feats.shape[1], self._like.stride, self._like.batch_size)
        have = (x.feats.shape[1], x.stride, x.batch_size)
        if have != want:
            raise ShapeError(
                f"recorded with channels, stride and batch size {want}, got {have}; record another network "
                "for these"
            )
        dtype = _autocast_dtype(x.device)
        if dtype != self._autocast:
            raise UnsupportedError(
                f"recorded with {_autocast_text(self._autocast)}, called with {_autocast_text(dtype)}; call "
                "it as it was recorded, or record another network for this"
            )


def record(run: Callable[[], SparseTensor]) -> tuple[SparseTensor, Callable[[], None]]:
    """Record what `run` launches on the current device.

    Returns:
        What `run` returned, and a function that replays the launches, so that it holds their new results.

    Raises:
        RuntimeError: `run` does what cannot be recorded.
    """
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
        with torch.cuda.graph(graph, stream=stream):
            out = run()
    finally:
        # where ending the recording fails, torch does not leave its stream
        torch.cuda.set_stream(before)
    return out, graph.replay


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


def _on(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _autocast_text(dtype: torch.dtype | None) -> str:
    return "autocast disabled" if dtype is None else f"autocast to {dtype}"


def _with_cache(
    like: SparseTensor, feats: Tensor, cache: CoordCache, coords: Tensor | None = None
) -> SparseTensor:
    """Features with the stride and batch size of another tensor, and nothing else of it."""
    if coords is None:
        coords = like.coords.new_empty(feats.shape[0], 4)
    x = like.at(feats, coords, like.stride)
    x.cache = cache
    return x


def _check_device(x: SparseTensor) -> None:
    if x.device.type != "cuda":
        raise DeviceError(
            f"a CUDA graph needs a CUDA device, the features are on {x.device}; run the network itself"
        )


def _rounded(rows: float) -> int:
    return -(-max(int(rows), 1) // _ROUND) * _ROUND
