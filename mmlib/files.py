"""Write a file whole or not at all: what is on the disk is the old file or the new one, never
half of one.
"""

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def as_json(value: Any, **style: Any) -> str:
    """JSON that every program reads: a number that is not finite becomes null."""

    def clean(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: clean(one) for key, one in part.items()}
        if isinstance(part, list | tuple):
            return [clean(one) for one in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(clean(value), allow_nan=False, **style)


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None
) -> None:
    """Replace a file by what ``write`` puts into a temporary one beside it: flushed, on the disk,
    then renamed.

    Whoever reads the file, even after a power cut, finds the old content or the new. What an
    earlier kill left is removed. With ``keep`` the old content stays under that name. Raises
    OSError that says what to do where the disk is full, or the folder cannot be written to; nothing
    is left of the attempt then.
    """
    try:
        _write(path, write, keep)
    except (OSError, RuntimeError) as error:
        cause = (
            error if isinstance(error, OSError) else error.__context__
        )  # torch.save hides a full disk behind an error of its own
        if not isinstance(cause, OSError):
            raise
        raise OSError(
            cause.errno,
            f"{path} cannot be written ({cause.strerror or cause}): make room, or allow writing "
            "there; "
            "what was saved before is as it was, and a run can go on from it",
        ) from error


def _write(path: Path, write: Callable[[BinaryIO], object], keep: Path | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*.tmp"):
        left.unlink(missing_ok=True)
    temporary = path.parent / f".{path.name}-{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:  # the umask says who may read it, as for any file
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            keep.unlink(missing_ok=True)
            _give_second_name(path, keep)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself must reach the disk; Windows has no such call
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _give_second_name(path: Path, name: Path) -> None:
    try:
        os.link(
            path, name
        )  # no copy: the name ``path`` then goes to the new file, at no moment to none
    except OSError:  # a file system without hard links
        shutil.copyfile(path, name)
