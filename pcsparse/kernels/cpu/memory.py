"""Memory of kernel outputs and workspaces."""

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 64
# bytes from which NumPy asks for huge pages; below, torch's own allocation is aligned as well, and quicker
_LARGE = 1 << 22


def aligned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor whose first byte has an address divisible by 64.

    NumPy asks for huge pages for large arrays and torch does not; with pages of 4 KiB the first write of a
    layer's output costs more than the layer between cheap ones.
    """
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize < _LARGE:
        small = torch.empty(shape, dtype=dtype, device="cpu")
        # another allocator may have been built in, and kernels move whole vectors
        if small.data_ptr() % _ALIGNMENT == 0:
            return small
    raw = np.empty(count * dtype.itemsize + _ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % _ALIGNMENT
    storage = torch.from_numpy(raw[skip : skip + count * dtype.itemsize]).untyped_storage()
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    # on the storage itself: a view may not be changed in place after an operator returned it
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, shape, strides)
