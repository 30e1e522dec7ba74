"""This machine: cores, free memory, its allocator; and what to say when memory runs out."""

import ctypes
import os
import platform
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mmlib.core import Batch, modalities

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the names of mallopt's settings in malloc.h
KEPT = (1 << 30, 1 << 30)  # bytes: trim, mmap
# where glibc's own, moving limits end up in a process with large tensors
USUAL = (64 << 20, 32 << 20)
_kept = False


def keep_freed_memory(keep: bool = True) -> str:
    """Let this process keep up to 1 GiB of freed memory for its next tensors; False undoes it.

    glibc takes the pages of a large tensor from the system and returns them when it is freed; the
    system then clears pages again for the next tensor. A convolutional network on a CPU can spend
    a third of its time on that, or more. The setting holds for the whole process, all its libraries
    included, and the memory of the process as the system counts it grows (measured: by 8 % at
    64 x 64 pixels, by 26 % at 224 x 224). ``keep_freed_memory(False)`` also returns free memory at
    once (``malloc_trim``). On other systems than Linux with glibc nothing happens. The string that
    comes back says what was done. ``fit`` does this for as long as it runs on a CPU, unless
    ``TrainConfig(keep_freed_memory=False)``.

    >>> import mmlib
    >>> mmlib.keep_freed_memory()  # 'glibc now keeps freed memory, up to 1024 MiB of it; ...'
    '...'
    >>> mmlib.keep_freed_memory(False)  # 'glibc gives freed memory back again; ...'
    '...'
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


@contextmanager
def explaining_out_of_memory(batch: Batch) -> Iterator[None]:
    """Where memory runs out inside this block, the error names the batch's shapes and what to try.

    It is torch.OutOfMemoryError (a RuntimeError), also on a CPU. All other errors pass as they are.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        # a notebook keeps the error, and with it all tensors that the model had made
        traceback.clear_frames(error.__traceback__)
        raise torch.OutOfMemoryError(_out_of_memory_message(batch, error)) from error


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    words = ("out of memory", "allocate memory")
    return isinstance(error, MemoryError) or any(part in str(error) for part in words)


def _out_of_memory_message(batch: Batch, error: RuntimeError | MemoryError) -> str:
    shapes = ", ".join(f"{name} {tuple(batch[name].shape)}" for name in modalities(batch))
    smaller = "try a smaller batch (load_data(batch_size=...)"
    if torch.is_grad_enabled():
        smaller += (
            ", Recipe(batch_size=...), train --batch-size), with TrainConfig(accumulate=...) "
            "to make up for it, or TrainConfig(precision='bf16')"
        )
    else:
        smaller += "), or device='cpu'"
    cause = str(error).splitlines()[0] if str(error) else "MemoryError"
    return (
        f"out of memory with a batch of {len(next(iter(batch.values())))} samples ({shapes}): "
        f"{smaller}; where the data itself fills the memory, load_data(memory=False) ({cause})"
    )


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that this process may still take.

    That is what the machine has free, or its container, divided by the processes of a torchrun.
    """
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
