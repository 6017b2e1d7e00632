"""A training pass whose launches are recorded once, as a CUDA graph, and replayed for every cloud."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from pcsparse.checks import check_shape
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.padded_maps import PaddedMaps
from pcsparse.errors import DeviceError, DtypeError, UnsupportedError
from pcsparse.nn.norm import BatchNorm
from pcsparse.nn.recording import (
    Likeness,
    check_device,
    check_room,
    explaining_waits,
    on_device,
    padded_maps,
    record,
    run_padded,
    set_of,
    with_cache,
)
from pcsparse.sparse_tensor import SparseTensor

Loss = Callable[[SparseTensor, Tensor], Tensor]
"""What the network returned, and targets of its rows, to a scalar."""


class RecordedTraining:
    """Forward pass, loss and gradients of a network, without the host's work of launching them one by one.

    As `RecordedForward`, with the backward pass in the same graph: the maps of a cloud are searched into
    tables of a fixed size, features and targets are copied into fixed buffers, and everything up to the
    gradients of the parameters is replayed with one call. Rows beyond the cloud hold zeros and do not count
    in batch norms; their targets are `ignore`, and the loss must leave those rows out.

    The pass is that of the network itself, up to the order of sums where they depend on the number of rows.
    A cloud with a level of fewer than two voxels, which no batch norm can train on, is passed through the
    network itself.

    Gradients are replaced by every call, not added to. Parameters may change in place, as optimisers do, but
    not be replaced, nor may those that want gradients change. Hooks run while it is recorded only; so
    DistributedDataParallel is refused.

    Args:
        model: takes and returns one SparseTensor, and looks at coordinates only through kernel maps. In the
            modes (training or not) that its modules are to have.
        loss: of what the network returns and the targets; rows whose targets are `ignore` must not count, and
            the host must not wait for the device in it.
        example: a cloud of usual size.
        targets: (n, ...) of the rows that the network returns for the example.
        ignore: the target of rows beyond a cloud.
        room: rows to have room for, over those of the example, at least 1.
        check: called with every cloud, before it is replayed; see `RecordedForward`.

    Raises:
        UnsupportedError: the network needs more of a cloud than tables, makes the host wait, or has a batch
            norm that would count rows beyond the cloud.
        DeviceError: `example` or `targets` are not on one CUDA device.
        ShapeError: `targets` are not those of the rows that the network returns.
        RangeError: `room` is below 1.

    Source: CUDA graphs, CUDA C++ Programming Guide, section "CUDA Graphs".
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        example: SparseTensor,
        targets: Tensor,
        *,
        ignore: float = -1,
        room: float = 1.25,
        check: Callable[[SparseTensor], None] | None = None,
    ) -> None:
        check_room(room)
        check_device(example)
        _check_modules(model)
        self._model, self._loss, self._ignore, self._room = model, loss, ignore, room
        self._check_cloud, self._likeness = check, Likeness.of(example)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._maps: PaddedMaps | None = None
        with on_device(example.device):
            example.cache.check_clouds(example.coords)
            self._record(example, targets)

    def __call__(self, x: SparseTensor, targets: Tensor) -> Tensor:
        """The loss, () of its own; the gradients of it are in `.grad` of the parameters.

        Args:
            x: channels, dtype, device, stride and batch size as the example's.
            targets: (n, ...) of the rows that the network returns for it, as the example's.

        Raises:
            ShapeError, DtypeError, DeviceError: `x` or `targets` are not like the example's.
            UnsupportedError: autocast is not as it was at recording; or as at recording, where `x` is larger
                than the room.
        """
        check_device(x)
        self._likeness.check(x)
        with on_device(x.device), torch.no_grad():
            if self._check_cloud is not None:
                self._check_cloud(x)
            maps = self._maps
            assert maps is not None
            sets = maps.plan.fill_levels(x.cache, {maps.plan.given[0]: x.coords})
            if min(coords.shape[0] for coords in sets.values()) < 2:
                return self._unrecorded(x, targets)
            self._check_targets(targets, sets[self._out_set].shape[0])
            if not maps.fits(sets):
                maps = self._record(x, targets)
            maps.load(x.cache, sets)
            _fill(self._feats, x.feats, 0)
            _fill(self._targets, targets, self._ignore)
            self._replay()
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient
            # who keeps what is made of statistics sees that they changed
            increment_version(list(self._model.buffers()))
            return self._result.clone()

    def _unrecorded(self, x: SparseTensor, targets: Tensor) -> Tensor:
        with torch.enable_grad(), self._likeness.casting():
            self._clear()
            result = self._loss(self._model(x), targets)
            result.backward()  # type: ignore[no-untyped-call]
        return result.detach()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _check_targets(self, targets: Tensor, rows: int) -> None:
        like = self._targets
        check_shape("targets", targets, (rows, *like.shape[1:]))
        if targets.dtype != like.dtype:
            raise DtypeError(f"recorded with {like.dtype} targets, got {targets.dtype}; convert them")
        if targets.device != like.device:
            raise DeviceError(f"recorded with targets on {like.device}, got them on {targets.device}")

    def _record(self, example: SparseTensor, targets: Tensor) -> PaddedMaps:
        """Make room for clouds somewhat larger than the example, and record; nothing changes if it fails."""
        with torch.inference_mode(False), torch.enable_grad(), self._likeness.casting(), self._unchanged():
            with torch.no_grad():
                maps, out = padded_maps(self._model, example, self._room, self._maps)
                out_set = set_of(out)
            given = maps.rooms[maps.plan.given[0]]
            like = with_cache(example, example.feats.new_empty(0, example.feats.shape[1]), CoordCache())
            feats = example.feats.new_zeros(given, example.feats.shape[1])
            wanted = targets.new_full((maps.rooms[out_set], *targets.shape[1:]), self._ignore)
            # with nothing real in them the passes before the recording would be of no rows at all
            sets = maps.plan.fill_levels(example.cache, {maps.plan.given[0]: example.coords})
            check_shape("targets", targets, (sets[out_set].shape[0], *targets.shape[1:]))
            maps.load(example.cache, sets)
            _fill(feats, example.feats, 0)
            _fill(wanted, targets, self._ignore)

            def run() -> tuple[Tensor, list[Tensor | None]]:
                # made anew each time, so that those of the graph lie in its memory
                self._clear()
                result = self._loss(run_padded(self._model, maps, like, feats), wanted)
                result.backward()  # type: ignore[no-untyped-call]
                return result.detach(), [parameter.grad for parameter in self._parameters]

            with explaining_waits():
                (result, gradients), replay = record(run)
        self._maps, self._feats, self._targets, self._out_set = maps, feats, wanted, out_set
        self._result, self._gradients, self._replay = result, gradients, replay
        return maps

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Leave statistics and gradients as they were: what is recorded is run a few times before."""
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        gradients = [parameter.grad for parameter in self._parameters]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient


def _fill(room: Tensor, rows: Tensor, beyond: float) -> None:
    room[: len(rows)].copy_(rows, non_blocking=True)
    room[len(rows) :].fill_(beyond)


def _check_modules(model: nn.Module) -> None:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise UnsupportedError(
            "a recorded pass runs no hooks, and DistributedDataParallel exchanges gradients in them; record "
            "the module inside it and exchange the gradients after each call"
        )
    for name, module in model.named_modules():
        known = isinstance(module, BatchNorm) or not isinstance(module, nn.modules.batchnorm._BatchNorm)
        if not known and module.training:
            raise UnsupportedError(
                f"{name} is a {type(module).__name__}, which would count the rows beyond a cloud; use "
                "pcsparse.nn.BatchNorm, or call its eval()"
            )
