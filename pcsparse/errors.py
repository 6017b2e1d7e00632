"""Every error that pcsparse raises on purpose. Each message names the values and the next step."""

import torch


class PcsparseError(Exception):
    """Base of all errors raised by pcsparse."""


class ShapeError(PcsparseError, ValueError):
    """A tensor or array has the wrong number of dimensions, rows or columns."""


class DtypeError(PcsparseError, TypeError):
    """A tensor or array has a dtype that the operation does not take."""


class DeviceError(PcsparseError, RuntimeError):
    """Tensors live on different devices, or on one that has no kernels."""


class RangeError(PcsparseError, ValueError):
    """A value leaves the range that the operation can represent."""


class UnsupportedError(PcsparseError, NotImplementedError):
    """The request is understood but cannot be served: a refused dataflow, a missing extra."""


class FormatError(PcsparseError, ValueError):
    """A file or a checkpoint is not what it claims to be."""


class OutOfMemoryError(PcsparseError, torch.OutOfMemoryError):
    """The device's memory does not suffice; nothing was kept of what was begun.

    Attributes:
        layer: of the network that wanted the memory, as the text names it; empty where that is not known, as
            in a backward pass of a program that has called `gc.freeze`.
    """

    layer: str = ""
