"""A training run on disk: one file, complete, written so that a kill at any moment leaves the old one or the new one."""
import os
import pickle
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from mmlib import distributed

FORMAT = 1
NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
HISTORY, LOCK = "history.jsonl", ".lock"


def save(folder: str | Path, state: dict[str, Any]) -> None:
    """Write ``state`` to checkpoint.pt in ``folder``, atomically. It may hold tensors, numbers, strings, lists, tuples and dicts.

    The one before it stays as checkpoint.previous.pt, in case this one is damaged later. Raises OSError, see ``write_atomically``.
    """
    folder, state = Path(folder), {"format": FORMAT, "torch": str(torch.__version__)} | state
    write_atomically(folder / NAME, lambda file: torch.save(state, file), keep=folder / PREVIOUS)


def write_atomically(path: Path, write: Callable[[BinaryIO], None], keep: Path | None = None) -> None:
    """Replace a file by what ``write`` puts into a temporary one beside it: flushed, on the disk, then renamed.

    Whoever reads the file, even after a power cut, finds the old content or the new. What an earlier kill left is removed.
    With ``keep`` the old content stays under that name. Raises OSError that says what to do where the disk is full, or the
    folder cannot be written to; nothing is left of the attempt then.
    """
    try:
        _write(path, write, keep)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__   # torch.save hides a full disk behind an error of its own
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, f"{path} cannot be written ({cause.strerror or cause}): make room, or allow writing there; "
                                   "what was saved before is as it was, and a run can go on from it") from error


def _write(path: Path, write: Callable[[BinaryIO], None], keep: Path | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*.tmp"):
        left.unlink(missing_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        if keep is not None and path.exists():
            keep.unlink(missing_ok=True)
            _give_second_name(path, keep)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if os.name == "posix":          # the rename itself must reach the disk; Windows has no such call
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _give_second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)         # no copy: the name ``path`` then goes to the new file, at no moment to none
    except OSError:                 # a file system without hard links
        shutil.copyfile(path, name)


@contextmanager
def locked(folder: str | Path | None) -> Iterator[None]:
    """While this block runs, another that asks for the same folder gets a ValueError. None: nothing is locked.

    The lock is the system's (flock): it ends with its process, however that ends. Windows has no such call: there nothing is locked.
    Raises OSError, saying what to do, where the folder cannot be made or written to: now, rather than after the first epoch.
    """
    if folder is None or os.name != "posix":
        yield
        return
    import fcntl
    path = Path(folder) / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    except OSError as error:
        raise OSError(error.errno, f"a run cannot be written into {folder} ({error.strerror}): allow it there, or give another folder "
                                   "(out=, --out)") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(f"another run is writing into {folder} now ({file.read().strip() or 'just begun'}): "
                             "wait for it, or give another folder (out=, --out)") from error
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise ValueError(f"another run in {folder} has ended just now: start this one again")
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def exists(folder: str | Path) -> bool:
    """Is there a checkpoint in this folder, or the one before it?"""
    return any((Path(folder) / name).is_file() for name in (NAME, PREVIOUS))


def clear(folder: str | Path) -> None:
    """Make the folder, and remove the checkpoints and the history of an earlier run from it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in (PREVIOUS, NAME, HISTORY):
        (Path(folder) / name).unlink(missing_ok=True)


def load(folder: str | Path) -> dict[str, Any]:
    """What ``save`` wrote, on the CPU. "best" holds the weights to use, "extra" what the caller of ``fit`` gave.

    Reads data only: no code in the file is ever run. Raises ValueError naming the file when it is missing, damaged,
    not one of mmlib's, or of a newer format, and says whether the checkpoint before it can be used instead.
    """
    path = Path(folder) / NAME
    if not exists(folder):
        raise ValueError(f"{path} does not exist: give the folder that a training run wrote (out=..., --out)")
    try:
        return _read(path)
    except ValueError as error:
        raise ValueError(f"{error}; {_instead(path.with_name(PREVIOUS))}") from error


def _instead(previous: Path) -> str:
    """What to do about a checkpoint that cannot be used."""
    try:
        step = _read(previous).get("step")
    except ValueError:
        return "take a copy of it, or train again" if not previous.exists() else f"nor can the one before it, {previous}: train again"
    return f"the one before it is whole (step {step}): to go on from there, rename {previous.name} to {NAME}"


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:   # torch.load does not compare checksums
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than plain data, so it is not read: mmlib writes no such file") from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged, or not a checkpoint ({error})") from error
    if damaged:
        raise ValueError(f"{path} is damaged (checksum of {damaged})")
    if not isinstance(state, dict) or "format" not in state:
        raise ValueError(f"{path} was not written by mmlib: it has no format number; expected a file of mmlib.checkpoint.save")
    if state["format"] != FORMAT:
        raise ValueError(f"{path} has format {state['format']}, this mmlib reads format {FORMAT}: use the mmlib that wrote it")
    return state


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of all weights and buffers, whole also after ``fully_shard``."""
    return {name: distributed.full(value).detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


@torch.no_grad()
def set_weights(model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Copy ``saved`` into the model, in place. Raises ValueError naming the first weight that does not fit."""
    own = model.state_dict()
    for name in sorted(own.keys() | saved.keys()):
        have, got = (tuple(w[name].shape) if name in w else "nothing" for w in (own, saved))
        if have != got:
            raise ValueError(f"the checkpoint is of another model: weight {name!r} is {got} there and {have} here; "
                             "build the model as it was, or start a new run in another folder")
    for name, value in own.items():
        value.copy_(distributed.like(saved[name], value))


def load_weights(model: nn.Module, folder: str | Path, best: bool = True) -> None:
    """Copy the weights of a run of ``fit`` (or of ``train``) into a model of your own, in place; its mode stays as it is.

    ``best``: those of the best epoch, else the last ones, where training would go on. Raises ValueError where ``folder`` holds no
    readable run, and where a weight of the model or of the run has no counterpart of its name and shape.
    """
    state = load(folder)
    try:
        set_weights(model, state["best" if best else "model"])
    except KeyError as error:
        raise ValueError(f"{Path(folder) / NAME} has no weights ({error}): it was not written by fit") from error


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state dict, whole also after ``fully_shard``."""
    state = optimizer.state_dict()
    moments = {i: {key: distributed.full(value) for key, value in one.items()} for i, one in state["state"].items()}
    return state | {"state": moments}


def set_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """The other way round."""
    optimizer.load_state_dict(saved)
    for parameter, one in optimizer.state.items():
        for key in one.keys() - {"step"}:
            if isinstance(one[key], Tensor):
                one[key] = distributed.like(one[key], parameter)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators of this process: CPU, and that of its GPU. mmlib draws from no other while it trains."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(device: torch.device, saved: dict[str, Tensor]) -> None:
    """The other way round; a kind of device that is not in ``saved`` goes on as it is."""
    torch.set_rng_state(saved["cpu"])
    if device.type in saved and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(saved[device.type])
