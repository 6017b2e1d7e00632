"""Which device's kernels to use: the only module that imports `cpu` or `gpu`."""

import importlib
from typing import cast

from torch import Tensor

# a fork is noticed from here on, before any kernel is loaded
import pcsparse.kernels.process  # noqa: F401
from pcsparse.errors import DeviceError, UnsupportedError
from pcsparse.kernels.protocol import Backend


def backend_of(*tensors: Tensor) -> Backend:
    """The kernels of the one device on which all `tensors` live.

    Raises:
        DeviceError: the tensors live on several devices, or on one that has no kernels.
        UnsupportedError: the device's kernels are not part of this version.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        listed = ", ".join(sorted(map(str, devices))) or "none"
        raise DeviceError(f"tensors must share one device, got {listed}; move them with .to()")
    match devices.pop().type:
        case "cpu":
            # by name, so that `import pcsparse` does not load numba and mypy still sees one contract
            return cast(Backend, importlib.import_module("pcsparse.kernels.cpu"))
        case "cuda":
            raise UnsupportedError(
                "this version of pcsparse has no CUDA kernels; move the tensors with .cpu()"
            )
        case other:
            raise DeviceError(f"no kernels for device type {other!r}; move the tensors with .cpu()")
