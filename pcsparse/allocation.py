"""What happens to memory that a tensor on the CPU gives back.

By default glibc returns blocks of more than some megabytes to the system at once, and the next feature map of
that size is faulted in and zeroed page by page, which costs more than a batch norm. A program that makes maps
of the same sizes over and over had better keep them.
"""

import ctypes
import platform

# names and numbers of malloc.h; both values are ints, so 2 GiB less a byte is the most
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK, _MOST_KEPT = 1 << 30, (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let malloc keep freed blocks of up to 1 GiB for the next tensors, 2 GiB of them at the end of the heap.

    It holds for the whole process, other libraries' tensors included, so it is for programs to decide: the
    package's own programs call it first, `import pcsparse` does not.

    Returns:
        Whether it took effect: glibc takes it, other C libraries are left as they are.

    Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = (mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK), mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT))
    return all(taken)
