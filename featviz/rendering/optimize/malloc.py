"""Memory that stays: on Linux, the C library gives every large tensor's pages back to the system and asks for them anew.

An ascent allocates the same tensors at every step. glibc maps a block of more than a few MB on its own, so that each step
pays for thousands of page faults (a sixth of the time of a ResNet-50). Within `keep_freed_memory` freed blocks are kept for the
next step; when the last of overlapping ascents ends, all of it goes back.
"""

import ctypes
import platform
from collections.abc import Callable

from featviz.isolation import ProcessSetting

# From malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
MOST_MAPPED = 65536  # glibc's default of M_MMAP_MAX
LARGE = 32 * 2**20  # where glibc's own adaptive thresholds end


def _keep() -> Callable[[], None]:
    if platform.libc_ver()[0] != "glibc":
        return lambda: None
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, 2**31 - 1)

    def give_back() -> None:
        library.mallopt(MMAP_MAX, MOST_MAPPED)
        library.mallopt(MMAP_THRESHOLD, LARGE)
        library.mallopt(TRIM_THRESHOLD, 2 * LARGE)
        library.malloc_trim(0)

    return give_back


keep_freed_memory = ProcessSetting(_keep)
"""Context: freed memory is kept for reuse; does nothing where there is no glibc."""
