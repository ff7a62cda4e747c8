"""How this process gets its memory from the system."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """Keep the memory of one image for the next (glibc): to give it back and to get it again, page by page, costs more.

    It took a tenth of the time of loading a training view in one thread, and in many threads, which wait for each other
    there, three quarters of the processor time of decoding and resizing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest there is
        mallopt(M_TRIM_THRESHOLD, 2**30)
