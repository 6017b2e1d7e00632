"""A lack of memory: how it is told from other errors, and what is said of it: layer, sizes, what to lower.

All of it happens where memory has lacked. Layers are found then, on the stack or by their parameters, so that
no call has to carry its name.
"""

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import graph
from torch.fx import GraphModule

from pcsparse.errors import OutOfMemoryError

# what errors say that have no class of their own: torch's allocator on a CPU; torch and cupy, whose own pools
# have classes, of a device; Triton and NVRTC of a kernel that is loaded or built; libraries of workspaces
_SIGNS = (
    "DefaultCPUAllocator: ",
    "CUDA error: out of memory",
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "Triton Error [CUDA]: out of memory",
    "NVRTC_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)

# how code that torch.compile has rewritten calls its graphs
_COMPILED = "__compiled_fn_"


def lacks_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or a CPU: by its class, or by its text where it has no class."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


class NamesSizes:
    """A context in which a lack of memory says what the memory was for.

    Args:
        of: what is done, with its sizes; asked only where memory lacks.
    """

    __slots__ = ("_of",)

    def __init__(self, of: Callable[[], str]) -> None:
        self._of = of

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise OutOfMemoryError in place of an error that knows no sizes."""
        if isinstance(error, Exception) and lacks_memory(error):
            # the frames of the first error hold the buffers that were made so far
            del trace
            try:
                raise_with_sizes(error, self._of)
            finally:
                del error


def raise_with_sizes(error: Exception, of: Callable[[], str]) -> NoReturn:
    """What `NamesSizes` does, for those who would rather not enter a context at every call.

    Args:
        error: that was caught.
        of: what was done, with its sizes.

    Raises:
        OutOfMemoryError: memory lacked, see `lacks_memory`; `error` itself if it has sizes, or is another.
    """
    if isinstance(error, OutOfMemoryError) or not lacks_memory(error):
        try:
            raise error
        finally:
            # an error knows this frame: it would keep itself, and the tensors of all others that it knows
            del error
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    found = OutOfMemoryError(
        f"no memory for {of()}; make the batch smaller, the voxels larger or the layers narrower, "
        f"or compute in 16 bits ({said})"
    )
    _name(found, _called_layer)
    try:
        raise found from error.with_traceback(None)
    finally:
        del error, found


def raise_of_owner(error: Exception, of: Callable[[], str], node: Any, place: int | None) -> NoReturn:
    """As `raise_with_sizes` in a backward pass, where no module is called: with the layer of a parameter.

    Args:
        error: that was caught.
        of: what was done, with its sizes; for errors that have none yet.
        node: of autograd, whose backward pass it was.
        place: which of its inputs is a parameter, among those that are tensors; None if none is.

    Raises:
        OutOfMemoryError: memory lacked, see `lacks_memory`; `error` itself if it is another.
    """
    try:
        raise_with_sizes(error, of)
    except OutOfMemoryError as known:
        # a checkpoint runs other layers again within a backward pass
        if place is not None and not known.layer:
            _name(known, lambda: _owner(node.next_functions[place][0]))
        raise
    finally:
        del error


def _name(error: OutOfMemoryError, find: Callable[[], str]) -> None:
    layer = ""
    # modules are asked by methods that anybody may write, and what they raise is not what has happened
    with suppress(Exception):
        layer = find()
    if layer:
        error.layer, error.args = layer, (f"layer {layer}: {error}",)


def rows_of(values: Tensor) -> str:
    """The sizes of feature rows (n, c), for a message."""
    dtype = str(values.dtype).removeprefix("torch.")
    if values.dim() != 2:
        # of who has not come to the check of shapes
        return f"{tuple(values.shape)} {dtype}"
    n, c = values.shape
    return f"{n} rows of {c} {dtype} channels ({n * c * values.element_size() / 2**20:.0f} MiB)"


def _called_layer() -> str:
    """The innermost module that is being called, as the outermost one names it; none where a graph runs."""
    inner: nn.Module | None = None
    outer: nn.Module | None = None
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not graph._engine_run_backward.__code__:
        if frame.f_code is nn.Module._call_impl.__code__:
            outer = frame.f_locals["self"]
            inner = outer if inner is None else inner
        elif inner is None and any(name.startswith(_COMPILED) for name in frame.f_code.co_names):
            # what torch.compile made of some code calls the operators of layers, and not the layers
            return ""
        frame = frame.f_back  # type: ignore[assignment]
    if inner is None or outer is None or isinstance(inner, GraphModule):
        return ""
    return _text(inner, next((name for name, part in outer.named_modules() if part is inner), ""))


def _owner(node: Any) -> str:
    """The module of the parameter that a graph of autograd begins with, as the largest one names it."""
    while node is not None and not hasattr(node, "variable"):
        node = node.next_functions[0][0] if node.next_functions else None
    if node is None:
        return ""
    found: list[tuple[str, nn.Module]] = []
    for module in gc.get_objects():
        if issubclass(type(module), nn.Module):
            # all of the process: one that somebody is about to make has no parameters yet, others may raise
            # what they like
            with suppress(Exception):
                parts = module.named_parameters()
                names = [name.rpartition(".")[0] for name, part in parts if part is node.variable]
                found += [(name, module.get_submodule(name)) for name in names]
    # a graph that was made of a network holds its parameters, too
    found = [(name, layer) for name, layer in found if not isinstance(layer, GraphModule)]
    if not found:
        return ""
    name, layer = max(found, key=lambda one: one[0].count(".") + bool(one[0]))
    return _text(layer, name)


def _text(layer: nn.Module, name: str) -> str:
    named = f"{name!r}, " if name else ""
    return f"{named}{type(layer).__name__}({layer.extra_repr()})"
