"""The process's memory: let glibc keep what is freed, so that large pictures are not paged in again at every step."""
import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3      # the names of mallopt's settings in malloc.h
KEEP, DEFAULT = 1 << 30, 128 << 10           # bytes


def keep_freed_memory(keep: bool = True) -> str:
    """Let this process keep up to 1 GiB of freed memory for its next tensors, or (False) give it back; says what it did.

    glibc takes every large tensor from the system and gives it back when it is freed; the system then clears the pages again
    for the next one. Convolutions on large pictures on a CPU can spend half their time on that. The setting holds for the whole
    process, for all its libraries, and its memory as the system counts it grows (here by 6 to 30 %). ``keep_freed_memory(False)`` sets
    the usual limits again and returns free memory at once (``malloc_trim``). Elsewhere than on Linux with glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return "nothing changed: this is not Linux with glibc, whose allocator this is about"
    libc, limit = ctypes.CDLL(None), KEEP if keep else DEFAULT
    if not (libc.mallopt(MMAP_THRESHOLD, limit) and libc.mallopt(TRIM_THRESHOLD, limit)):
        return "nothing changed: the allocator of this process refused"
    if keep:
        return f"glibc now keeps freed memory, up to {KEEP >> 20} MiB at a time; undo with keep_freed_memory(False)"
    given = libc.malloc_trim(0)
    return f"glibc gives freed memory back again, as by default; {'some was' if given else 'none was there to be'} returned now"
