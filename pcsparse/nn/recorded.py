"""A network whose launches are recorded once, as a CUDA graph, and replayed for every cloud."""

from collections.abc import Callable

import torch
from torch import nn

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.padded_maps import PaddedMaps
from pcsparse.errors import UnsupportedError
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
        check_room(room)
        check_device(example)
        self._model, self._room, self._check_cloud = model, room, check
        self._likeness = Likeness.of(example)
        self._maps: PaddedMaps | None = None
        with on_device(example.device):
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
        check_device(x)
        self._likeness.check(x)
        with on_device(x.device):
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
        # buffers of inference mode could not be written outside it
        with torch.inference_mode(False), torch.no_grad(), self._likeness.casting():
            maps, _ = padded_maps(self._model, example, self._room, self._maps)
            rows = maps.rooms[maps.plan.given[0]]
            like = with_cache(example, example.feats.new_empty(0, example.feats.shape[1]), CoordCache())
            feats = example.feats.new_zeros(rows, example.feats.shape[1])
            with explaining_waits():
                out, replay = record(lambda: run_padded(self._model, maps, like, feats))
        self._maps, self._feats, self._out, self._replay = maps, feats, out, replay
        self._out_set = set_of(out)
        return maps
