"""What happens to memory that a tensor on the CPU gives back.

By default glibc returns blocks of more than some megabytes to the system at once, and the next feature map of
that size is faulted in and zeroed page by page, which costs more than a batch norm. A program that makes maps
of the same sizes over and over had better keep them.
"""

import ctypes
import os
import platform

# names and numbers of malloc.h; both sizes are ints, so 2 GiB less a byte is the most
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGEST_BLOCK, _MOST_KEPT = 1 << 30, (1 << 31) - 1
_NO_LIMIT = -1


def keep_freed_memory(*, everything: bool = False) -> bool:
    """Let malloc keep freed blocks of up to 1 GiB for the next tensors, 2 GiB of them at the end of the heap.

    Torch is also told to ask for huge pages, as NumPy does for large arrays by itself: rows fetched in the
    order of a map then miss the processor's table of pages less often. That holds only where no tensor was
    made before the call, and where `THP_MEM_ALLOC_ENABLE` is not set in the environment, which wins.

    All of it holds for the whole process, other libraries' tensors included, so it is for programs to decide:
    the package's own programs call it first, `import pcsparse` does not.

    Args:
        everything: keep blocks of any size and never shrink the heap, for a process that makes the same
            tensors of more than 1 GiB over and over and leaves its memory to nobody.

    Returns:
        Whether malloc took it: glibc does, other C libraries are left as they are.

    Source: mallopt(3); huge pages: torch's c10/core/impl/alloc_cpu.cpp.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    if everything:
        taken = (mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NO_LIMIT))
    else:
        taken = (mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK), mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT))
    return all(taken)
