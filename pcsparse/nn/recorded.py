"""A network whose launches are recorded once, as a CUDA graph, and replayed for every cloud."""

from collections.abc import Callable

import torch
from torch import nn

from pcsparse.coords.padded_maps import PaddedMaps
from pcsparse.errors import DeviceError, DtypeError, RangeError, ShapeError, UnsupportedError
from pcsparse.sparse_tensor import SparseTensor

_WARM_UPS = 2
# rows of the largest tile of a kernel
_ROUND = 256


class RecordedForward:
    """Inference of a network without the host's work of launching its kernels one by one.

    The levels of a cloud are built, then all maps at once into tables of a fixed size (`CachePlan.fill` says
    when the host waits); the features are copied into a fixed buffer, and all launches of the network are
    replayed with one call. Rows beyond the cloud are computed too, from nothing, and dropped. A cloud that is
    larger than the room is recorded anew.

    The weights are read when the graph is replayed, so that they may change in place, but not be replaced.

    Args:
        model: takes and returns one SparseTensor, and looks at coordinates only through kernel maps, as
            convolutions, norms and activations do. In evaluation mode; best fused (`nn.fuse`).
        example: a cloud of usual size.
        room: rows to have room for, over those of the example, at least 1.
        check: called with every cloud, before it is replayed; for what the network checks of coordinates, as
            `SecondBackbone.check_inside` does.

    Raises:
        UnsupportedError: `model` is in training mode, or needs more of a cloud than tables.
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
        if model.training:
            raise UnsupportedError("only inference is recorded; call model.eval() before")
        _check_device(example)
        self._model, self._room, self._check_cloud = model, room, check
        self._record(example)

    @torch.no_grad()
    def __call__(self, x: SparseTensor) -> SparseTensor:
        """What `model(x)` returns.

        Args:
            x: channels, dtype, device, stride and batch size as the example's.

        Raises:
            ShapeError, DtypeError, DeviceError: `x` is not like the example.
        """
        self._check(x)
        if self._check_cloud is not None:
            self._check_cloud(x)
        sets = self._maps.plan.fill_levels(x.cache, {self._maps.plan.given[0]: x.coords})
        if not self._maps.fits(sets):
            self._record(x)
        self._maps.load(x.cache, sets)
        self._feats[: len(x)].copy_(x.feats)
        self._replay()
        coords = sets[self._out_set]
        return x.at(self._out.feats[: coords.shape[0]].clone(), coords, self._out.stride)

    @torch.no_grad()
    def _record(self, example: SparseTensor) -> None:
        """Make room for clouds somewhat larger than the example, and record."""
        # compiles kernels, and asks for every level and map
        self._model(example)
        plan = example.cache.plan()
        if len(plan.given) != 1:
            raise UnsupportedError(
                f"the network reads {len(plan.given)} coordinate sets that it does not make itself, and only "
                "one is replaced when a cloud is replayed"
            )
        sets = plan.fill(example.cache, {plan.given[0]: example.coords})
        rooms = [_rounded(sets[token].shape[0] * self._room) for token in range(plan.n_sets)]
        self._maps = PaddedMaps(plan, example.cache, rooms)
        self._like = example.at(example.feats[:0], example.coords[:0], example.stride)
        self._feats = example.feats.new_zeros(rooms[plan.given[0]], example.feats.shape[1])
        self._out, self._replay = record(self._run)
        self._out_set = self._number_of(self._out)

    def _run(self) -> SparseTensor:
        cache = self._maps.cache()
        # the number of the only set that is given
        coords = cache.set(self._maps.plan.given[0])
        x = self._like.at(self._feats, coords, self._like.stride)
        x.cache = cache
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

    def _number_of(self, out: SparseTensor) -> int:
        return next(n for n in range(self._maps.plan.n_sets) if out.cache.set(n) is out.coords)

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


def record(run: Callable[[], SparseTensor]) -> tuple[SparseTensor, Callable[[], None]]:
    """Record what `run` launches.

    Returns:
        What `run` returned, and a function that replays the launches, so that it holds their new results.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return out, graph.replay


def _check_device(x: SparseTensor) -> None:
    if x.device.type != "cuda":
        raise DeviceError(
            f"a CUDA graph needs a CUDA device, the features are on {x.device}; run the network itself"
        )


def _rounded(rows: float) -> int:
    return -(-max(int(rows), 1) // _ROUND) * _ROUND
