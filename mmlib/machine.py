"""What this machine has: cores, free memory, its allocator; and what to say when memory runs
out.
"""

import ctypes
import os
import platform
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from mmlib.core import Batch, modalities

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the names of mallopt's settings in malloc.h
KEPT = (1 << 30, 1 << 30)  # bytes: trim, mmap
USUAL = (
    64 << 20,
    32 << 20,
)  # where glibc's own, moving limits end up in a process with large tensors
_kept = False


def keep_freed_memory(keep: bool = True) -> str:
    """Let this process keep up to 1 GiB of freed memory for its next tensors, or (False) give it
    back; says what it did.

    glibc takes a large tensor's pages from the system and returns them when it is freed; the system
    then clears pages again for the next one. A convolution net on a CPU can spend a third of its
    time on that, and more. The setting holds for the whole process, all its libraries included, and
    its memory as the system counts it grows (measured: by 8 % at 64 x 64 pixels, by 26 % at 224 x
    224). ``keep_freed_memory(False)`` undoes it and returns free memory at once (``malloc_trim``).
    Elsewhere than on Linux with glibc nothing happens. ``fit`` does it for as long as it runs on a
    CPU, unless ``TrainConfig(keep_freed_memory=False)``.
    """
    global _kept
    if platform.libc_ver()[0] != "glibc":
        return "nothing changed: this is not Linux with glibc, whose allocator this is about"
    libc, (trim, mmap) = ctypes.CDLL(None), KEPT if keep else USUAL
    if not (libc.mallopt(MMAP_THRESHOLD, mmap) and libc.mallopt(TRIM_THRESHOLD, trim)):
        return "nothing changed: the allocator of this process refused"
    _kept = keep
    if keep:
        return (
            f"glibc now keeps freed memory, up to {trim >> 20} MiB of it; undo with "
            "keep_freed_memory(False)"
        )
    given = libc.malloc_trim(0)
    return f"glibc gives freed memory back again; {'some' if given else 'none'} was returned now"


@contextmanager
def keeping_freed_memory(wanted: bool) -> Iterator[None]:
    """Inside this block freed memory is kept, if ``wanted``; afterwards it is as before."""
    change = wanted and not _kept
    if change:
        keep_freed_memory()
    try:
        yield
    finally:
        if change:
            keep_freed_memory(False)


class enough_for(AbstractContextManager):
    """Where memory runs out inside ``with enough_for(batch):``, torch.OutOfMemoryError (a
    RuntimeError) tells its shapes and what to try.
    """

    def __init__(self, batch: Batch):
        self.batch = batch

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        lacking = (
            isinstance(error, MemoryError)
            or isinstance(error, RuntimeError)
            and any(words in str(error) for words in ("out of memory", "allocate memory"))
        )
        if not lacking:
            return
        traceback.clear_frames(
            error.__traceback__
        )  # a notebook keeps the error, and with it all tensors that the model had made
        shapes = ", ".join(
            f"{name} {tuple(self.batch[name].shape)}" for name in modalities(self.batch)
        )
        smaller = "try a smaller batch (load_data(batch_size=...)"
        if torch.is_grad_enabled():
            smaller += (
                ", Recipe(batch_size=...), train --batch-size), with TrainConfig(accumulate=...) "
                "to make up for it, "
                "or TrainConfig(precision='bf16')"
            )
        else:
            smaller += "), or device='cpu'"
        raise torch.OutOfMemoryError(
            f"out of memory with a batch of {len(next(iter(self.batch.values())))} samples "
            f"({shapes}): {smaller}; where the data itself "
            "fills the memory, load_data(memory=False) "
            f"({str(error).splitlines()[0] if str(error) else 'MemoryError'})"
        ) from error


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes this process may still take: what the machine has free, or its container, shared
    with the processes of a torchrun.
    """
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
