"""How glibc hands out memory to training on a CPU.

glibc serves large requests by mappings of their own, which go back to the system when they are freed. But every such
block that is freed raises the size from which that is done, up to 32 MiB. So after one update the chunks of logits
and the gradient of the output embedding come from the common heap, where small tensors that stay keep the space of
large ones that went from being used again: an update of SmolLM2-135M in float32 then held 200 MiB more. And every
thread gets a heap of its own, in pieces of 64 MiB, where the same happens at the end of each piece. What is free there
stays with the process, and the next run's thread may get another heap: runs one after the other held 2 GB each.
"""

from __future__ import annotations

import ctypes
import os
import platform

MAPPED_FROM = 8 * 2**20  # bytes; below, the faults of fresh pages would cost more time than the space is worth
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of <malloc.h>


def keep_large_blocks_apart() -> bool:
    """Fixes the size from which blocks are mapped, and gives threads that come later the common heap: for the whole
    process. Whether this system can.

    Who set the environment variable MALLOC_MMAP_THRESHOLD_ has decided otherwise.
    """
    if platform.libc_ver()[0] != "glibc" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM) and libc.mallopt(_M_ARENA_MAX, 1))


def give_back() -> None:
    """Returns to the system what no heap needs now; some milliseconds, and fresh pages for what comes next."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
