"""Which device's kernels to use: the only module that imports `cpu` or `gpu`."""

import importlib
from functools import cache
from typing import cast

from torch import Tensor

# a fork is noticed from here on, before any kernel is loaded
import pcsparse.kernels.process  # noqa: F401
from pcsparse.errors import DeviceError
from pcsparse.kernels.protocol import Backend


def backend_of(*tensors: Tensor) -> Backend:
    """The kernels of the one device on which all `tensors` live.

    Raises:
        DeviceError: the tensors live on several devices, or on one that has no kernels.
        UnsupportedError: a library that the device's kernels need is not installed.
    """
    device = tensors[0].device if tensors else None
    # a loop: this stands before every kernel
    for tensor in tensors:
        if tensor.device != device:
            device = None
            break
    if device is None:
        listed = ", ".join(sorted({str(tensor.device) for tensor in tensors})) or "none"
        raise DeviceError(f"tensors must share one device, got {listed}; move them with .to()")
    return _load(device.type)


@cache
def _load(device_type: str) -> Backend:
    # by name, so that `import pcsparse` loads neither numba nor cupy and mypy still sees one contract
    match device_type:
        case "cpu":
            return cast(Backend, importlib.import_module("pcsparse.kernels.cpu"))
        case "cuda":
            return cast(Backend, importlib.import_module("pcsparse.kernels.gpu"))
        case other:
            raise DeviceError(f"no kernels for device type {other!r}; move the tensors with .cpu()")
