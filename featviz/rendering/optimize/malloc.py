"""Memory that stays: on Linux, the C library gives every large tensor's pages back to the system and asks for them anew.

An ascent allocates the same tensors at every step. glibc maps a block of more than a few MB on its own, so that each step
pays for thousands of page faults (a sixth of the time of a ResNet-50). Within `held_memory` freed blocks are kept for the next
step; at the end all of it goes back.
"""

import contextlib
import ctypes
import platform
from collections.abc import Iterator

# From malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
MOST_MAPPED = 65536  # glibc's default of M_MMAP_MAX
LARGE = 32 * 2**20  # where glibc's own adaptive thresholds end


@contextlib.contextmanager
def held_memory() -> Iterator[None]:
    """Keep freed memory for reuse while this is open; does nothing where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(MMAP_MAX, MOST_MAPPED)
        library.mallopt(MMAP_THRESHOLD, LARGE)
        library.mallopt(TRIM_THRESHOLD, 2 * LARGE)
        library.malloc_trim(0)
