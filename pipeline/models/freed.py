"""Memory that was freed stays with the process for the tensors that come next.

The C library gives large pieces back to the system as soon as they are free, and the next tensor of that size is made
of pages that the system must clear first: on a CPU that costs more than most of what is computed element by element.
Knows the allocator of glibc, and leaves any other, and whoever has set it, alone. Does not know tensors.
"""

import ctypes
import os
import platform

# So much of what is free at most is held back, and pieces up to this size are taken from it: glibc allows no larger.
_HELD, _PIECE = 2**30, 2**25
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Has the allocator hold back up to 1 GiB of what is freed, for the rest of the process; whether it does."""
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SET_BY_USER):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(set_option(_TRIM_THRESHOLD, _HELD)) and bool(set_option(_MMAP_THRESHOLD, _PIECE))
