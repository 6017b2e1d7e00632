"""Counts how often the host would wait for a device, whose place the CPU takes."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
# results whose values or sizes the host needs
_WAITING = {
    _aten._local_scalar_dense, _aten.is_nonzero, _aten.equal, _aten.nonzero, _aten.masked_select,
    _aten._unique2, _aten.unique_dim, _aten.unique_consecutive, _aten.bincount, _aten.allclose,
}  # fmt: skip
_OF_NUMBERS = {_aten.lift_fresh, _aten.scalar_tensor}
_COPIES = {_aten.copy_, _aten._to_copy}
# what stands for the device's own doings: they read and write memory that the host would not see
_INSIDE = ("triton", "cuda_shim", "triton_bfloat16")


class _Hosts:
    """Tensors that the host knows: made of its numbers, or copied to it. All others are the device's."""

    def __init__(self) -> None:
        self._known: WeakSet[Any] = WeakSet()

    def add(self, tensor: Tensor) -> Tensor:
        tensor.host_waits_key = key = _Key()  # type: ignore[attr-defined]
        self._known.add(key)
        return tensor

    def remove(self, tensor: Tensor) -> None:
        self._known.discard(getattr(tensor, "host_waits_key", None))

    def __contains__(self, tensor: Tensor) -> bool:
        return getattr(tensor, "host_waits_key", None) in self._known


class _Key:
    """As long as its tensor lives."""


class HostWaits(TorchDispatchMode):
    """Where the host waited, and where its tensors met those of the device, as `file:line` of the package.

    Attributes:
        places: one a wait.
        mixed: operations that a real device would refuse.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.mixed: list[str] = []
        self.hosts = _Hosts()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [tensor in self.hosts for tensor in given]
        # what is made of nothing is the host's where no device is named
        on_host = all(known) if given else kwargs.get("device") is None
        if func.namespace == "pcsparse":
            if any(tensor.is_meta for tensor in given):
                return func(*args, **kwargs)
            # a map's header stays on the host; what our operators do is looked at one by one
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        if not on_host and waits_for(packet, args, kwargs):
            self.note(packet.__name__, self.places)
        # one number may travel with a launch
        strangers = [t for t, host in zip(given, known, strict=True) if host and t.dim()]
        if strangers and not all(known) and packet not in _COPIES:
            self.note(packet.__name__, self.mixed)
        result = func(*args, **kwargs)
        # numbers of the host become a tensor of the host; what is made of such stays one
        if on_host or packet in _OF_NUMBERS:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.hosts.add(leaf)
        return result

    def device_copy(self, tensor: Tensor) -> Tensor:
        """What the host sent to the device."""
        sent = tensor.clone()
        self.hosts.remove(sent)
        return sent

    def note(self, what: str, where: list[str]) -> None:
        """Something happens here, unless this stands for the device."""
        frame, place = sys._getframe(1), ""
        while frame is not None:
            file = frame.f_code.co_filename
            if any(f"/{name}/" in file or file.endswith(f"/{name}.py") for name in _INSIDE):
                return
            if not place and "/pcsparse/" in file and "/tests/" not in file:
                place = f"{file.rpartition('/pcsparse/')[2]}:{frame.f_lineno} {what}"
            frame = frame.f_back  # type: ignore[assignment]
        where.append(place or f"elsewhere {what}")


def waits_for(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the host needs values or a size that an operation finds."""
    return packet in _WAITING or _by_mask(packet, args) or _sums_up(packet, kwargs)


def _by_mask(packet: Any, args: tuple[Any, ...]) -> bool:
    if packet not in (_aten.index, _aten.index_put, _aten.index_put_):
        return False
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _sums_up(packet: Any, kwargs: dict[str, Any]) -> bool:
    return packet is _aten.repeat_interleave and kwargs.get("output_size") is None


@contextmanager
def host_waits(device: torch.device) -> Iterator[HostWaits]:
    """Count within this context: on a CPU in the place of a device, or on a GPU as torch counts."""
    if device.type == "cuda":
        with _as_torch_counts() as waits, _letters(waits):
            yield waits
        return
    waits, tensor = HostWaits(), torch.tensor
    plain = {name: getattr(Tensor, name) for name in ("tolist", "cpu", "to", "new_tensor")}

    def tolist(self: Tensor) -> Any:
        if self not in waits.hosts:
            waits.note("tolist", waits.places)
        return plain["tolist"](self)

    def cpu(self: Tensor) -> Tensor:
        if self in waits.hosts:
            return self
        waits.note("cpu", waits.places)
        # a copy, as `self` stays on the device
        return waits.hosts.add(self.clone())

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        moved = plain["to"](self, *args, **kwargs)
        if self not in waits.hosts or not any(isinstance(arg, str | torch.device) for arg in args):
            return moved
        if not kwargs.get("non_blocking"):
            waits.note("to", waits.places)
        return waits.device_copy(moved)

    def new_tensor(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self in waits.hosts:
            return plain["new_tensor"](self, *args, **kwargs)
        waits.note("new_tensor", waits.places)
        return waits.device_copy(plain["new_tensor"](self, *args, **kwargs))

    def of_numbers(*args: Any, **kwargs: Any) -> Tensor:
        # by its name it is the host, whatever else the CPU stands for here
        if kwargs.get("device") in (None, "cpu"):
            return tensor(*args, **kwargs)
        waits.note("tensor", waits.places)
        return waits.device_copy(tensor(*args, **kwargs))

    for name, method in (("tolist", tolist), ("cpu", cpu), ("to", to), ("new_tensor", new_tensor)):
        setattr(Tensor, name, method)
    torch.tensor = of_numbers
    try:
        with waits, _letters(waits):
            yield waits
    finally:
        torch.tensor = tensor
        for name, method in plain.items():
            setattr(Tensor, name, method)


@contextmanager
def _letters(waits: HostWaits) -> Iterator[None]:
    """Count those that read what a kernel wrote into memory of the host, of which torch knows nothing."""
    module = sys.modules.get("pcsparse.kernels.gpu.mailbox")
    if module is None:
        # nobody has asked for a kernel of a GPU
        yield
        return
    box, read = module.Mailbox, module.Mailbox.read

    def counted(self: Any, words: int) -> list[int]:
        waits.note("read", waits.places)
        n = len(waits.places)
        found = read(self, words)
        # a letter that is long in coming is waited for through torch in the end, which counts, too
        del waits.places[n:]
        return found

    box.read = counted
    try:
        yield
    finally:
        box.read = read


@contextmanager
def _as_torch_counts() -> Iterator[HostWaits]:
    waits, before = HostWaits(), torch.cuda.get_sync_debug_mode()

    def note(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        # the first switch of a process says of itself that it does not detect all synchronizing operations
        if "called a synchronizing" in str(message):
            waits.places.append(f"{filename.rpartition('/pcsparse/')[2]}:{lineno}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
