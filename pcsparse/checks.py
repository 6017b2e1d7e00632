"""Generic argument checks and their messages."""

import importlib
import operator
from types import ModuleType

import torch
from torch import Tensor

from pcsparse.errors import DeviceError, DtypeError, ShapeError, UnsupportedError


def require_extra(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Raises:
        UnsupportedError: the module is not installed; the text names `pip install 'pcsparse[extra]'`.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(
            f"this needs the package {module!r} ({error}); install it with: pip install 'pcsparse[{extra}]'"
        ) from error


def is_traced() -> bool:
    """Whether a compiler, an export or a mode of torch follows this call: sizes may then be symbols.

    What is remembered from call to call is left alone then.
    """
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def check_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise ShapeError unless `tensor` has `shape`; None stands for any size."""
    fits = tensor.dim() == len(shape)
    if fits:
        # a loop: this stands before every call
        for want, have in zip(shape, tensor.shape, strict=True):
            if want is not None and want != have:
                fits = False
                break
    if not fits:
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ShapeError(f"{name} must have shape ({wanted}), got {tuple(tensor.shape)}")


def check_dtype(name: str, tensor: Tensor, *allowed: object) -> None:
    """Raise DtypeError unless the dtype of `tensor` is one of `allowed`."""
    if tensor.dtype not in allowed:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        got = str(tensor.dtype).removeprefix("torch.")
        raise DtypeError(f"{name} must be {wanted}, got {got}; convert it with .to()")


def usable_device(device: torch.device | str) -> torch.device:
    """The device of that name, if torch has it here.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: no such name, or torch sees no such device; the text says which it sees.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device {device!r} is none: {error}; use cpu, cuda or cuda:N") from error
    if found.type == "cuda":
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not n:
            raise DeviceError(
                f"device {str(device)!r}: torch {torch.__version__} sees no CUDA device here; use cpu, or "
                "where there is a GPU a CUDA build of torch"
            )
        if (found.index or 0) >= n:
            raise DeviceError(f"device {str(device)!r}: torch sees {n}, cuda:0 to cuda:{n - 1}")
    return found


def check_same_device(**tensors: Tensor) -> None:
    """Raise DeviceError unless all named tensors live on one device."""
    devices = [tensor.device for tensor in tensors.values()]
    # by their names only where it goes wrong: operators ask at every call
    if any(device != devices[0] for device in devices[1:]):
        listed = ", ".join(f"{name} on {device}" for name, device in zip(tensors, devices, strict=True))
        raise DeviceError(f"tensors must share one device, got {listed}; move them with .to()")


def as_triple(name: str, value: int | tuple[int, ...] | list[int], minimum: int) -> tuple[int, int, int]:
    """Widen an int to three equal ints; check that three are given and that each is at least `minimum`."""
    given = value if isinstance(value, (tuple, list)) else (value,) * 3
    if any(isinstance(item, bool) or not hasattr(item, "__index__") for item in given):
        raise ShapeError(f"{name} must be one int or three (x, y, z), got {value!r}")
    triple = tuple(operator.index(item) for item in given)
    if len(triple) != 3:
        raise ShapeError(f"{name} must be one int or three (x, y, z), got {value!r}")
    if min(triple) < minimum:
        raise ShapeError(f"{name} must be at least {minimum} on each axis, got {triple}")
    return triple
