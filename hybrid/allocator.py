"""How glibc hands out memory to training on a CPU.

glibc serves large requests by mappings of their own, which go back to the system when they are freed. But every such
block that is freed raises the size from which that is done, up to 32 MiB. So after one update the chunks of logits
and the gradient of the output embedding come from the common heap, where small tensors that stay keep the space of
large ones that went from being used again: an update of SmolLM2-135M in float32 then held 200 MiB more.
"""

from __future__ import annotations

import ctypes
import os
import platform

MAPPED_FROM = 8 * 2**20  # bytes; below, the faults of fresh pages would cost more time than the space is worth
_M_MMAP_THRESHOLD = -3  # of <malloc.h>


def keep_large_blocks_apart() -> bool:
    """Fixes the size from which blocks are mapped, for the whole process; whether this system can.

    Who set the environment variable MALLOC_MMAP_THRESHOLD_ has decided otherwise.
    """
    if platform.libc_ver()[0] != "glibc" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM))
