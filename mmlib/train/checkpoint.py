"""The checkpoint of a run, one file, written atomically: saved, read, checked and restored."""

import os
import pickle
import socket
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.files import write_atomically
from mmlib.train import distributed
from mmlib.train.content import FORM, misfit, plain, tensor, whole
from mmlib.train.older import renewed

FORMAT = 1
NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
HISTORY, LOCK = "history.jsonl", ".lock"
_held: set[tuple[str, int, int]] = set()  # folder, process and thread of each lock that is held


def save(folder: str | Path, state: dict[str, Any]) -> None:
    """Write ``state`` to checkpoint.pt in ``folder``, atomically.

    It may hold tensors, numbers, strings, lists, tuples and dicts. The checkpoint before it stays
    as checkpoint.previous.pt, in case this one is damaged later. Raises OSError, see
    ``write_atomically``.
    """
    folder, state = Path(folder), {"format": FORMAT, "torch": str(torch.__version__)} | state
    write_atomically(folder / NAME, lambda file: torch.save(state, file), keep=folder / PREVIOUS)


@contextmanager
def locked(folder: str | Path | None) -> Iterator[None]:
    """Lock the folder while this block runs: a second lock on it raises ValueError.

    The thread that holds the lock may take it again. ``folder`` None locks nothing. The lock is the
    system's (flock), so it ends with its process, however that ends. Windows has no such call;
    there nothing is locked. A folder that cannot be made or written to raises OSError, which says
    what to do, here rather than after the first epoch. A folder that was made here and is still
    empty at the end is removed.
    """
    mine = (os.path.realpath(folder or ""), os.getpid(), threading.get_ident())
    if folder is None or os.name != "posix" or mine in _held:
        yield
        return
    import fcntl

    path = Path(folder) / LOCK
    new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    except OSError as error:
        raise OSError(
            error.errno,
            f"a run cannot be written into {folder} ({error.strerror}): allow it there, or give "
            "another folder (out=, --out)",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "just begun"
            raise ValueError(
                f"another run is writing into {folder} now ({owner}): wait for it, or give another "
                "folder (out=, --out)"
            ) from error
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise ValueError(f"another run in {folder} has ended just now: start this one again")
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        _held.add(mine)
        try:
            yield
        finally:
            _held.discard(mine)
            path.unlink(missing_ok=True)
            if new and not any(path.parent.iterdir()):
                path.parent.rmdir()


def exists(folder: str | Path) -> bool:
    """Does this folder hold a checkpoint, or the one before it?"""
    return any((Path(folder) / name).is_file() for name in (NAME, PREVIOUS))


def strangers(folder: str | Path) -> list[str]:
    """The names of the files in the folder that no run has made.

    A folder with a checkpoint has none. Elsewhere all files count, apart from those that a run
    leaves if it is killed before its first checkpoint.
    """
    if exists(folder) or not Path(folder).is_dir():
        return []
    names = [path.name for path in Path(folder).iterdir()]
    left = [name for name in names if name.startswith(".") and name.endswith(".tmp")]
    return sorted({*names} - {*left, LOCK, "tensorboard"})


def check_free(folder: str | Path) -> None:
    """Raise ValueError if a new run must not begin here: over another run, or among other files."""
    if exists(folder):
        raise ValueError(
            f"{folder} already holds a run: resume it (resume=True, --resume), or "
            "choose another folder"
        )
    if found := strangers(folder):
        shown = ", ".join(found[:3] + ["..."] * (len(found) > 3))
        raise ValueError(
            f"{folder} holds files that no run has made ({shown}): "
            "choose a new or an empty folder (out=, --out)"
        )


def clear(folder: str | Path) -> None:
    """Make the folder, and remove the checkpoints and the history of an earlier run from it.

    Raises ValueError if there is a history without a checkpoint of its run.
    """
    if HISTORY in strangers(folder):
        raise ValueError(
            f"{Path(folder) / HISTORY} is there, and no checkpoint of its run: it would "
            "be overwritten; move it away, or choose another folder (out=, --out)"
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in (PREVIOUS, NAME, HISTORY):
        (Path(folder) / name).unlink(missing_ok=True)


def load(folder: str | Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """What ``save`` wrote, with all tensors on the CPU.

    "best" holds the weights to use, "extra" what the caller of ``fit`` gave. Only data is read: no
    code in the file is ever run. Raises ValueError, naming the file, if it is missing, damaged, not
    one of mmlib's, of another format, without a key that is ``needed``, or if it holds something
    that no run writes (a weight that is NaN is named). The message says whether the checkpoint
    before it can be used instead.
    """
    path = Path(folder) / NAME
    if not exists(folder):
        raise ValueError(
            f"{path} does not exist: give the folder that a training run wrote (out=..., --out)"
        )
    try:
        return _read(path, needed)
    except ValueError as error:
        raise ValueError(f"{error}; {_instead(path.with_name(PREVIOUS))}") from error


def _instead(previous: Path) -> str:
    """What to do about a checkpoint that cannot be used."""
    try:
        step = _read(previous).get("step")
    except ValueError:
        if previous.exists():
            return f"the one before it, {previous}, cannot be used either: train again"
        return "use a copy of it, or train again"
    return (
        f"the one before it is whole (step {step}): to go on from there, rename "
        f"{previous.name} to {NAME}"
    )


def _read(path: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """The content of this file, in today's words; ValueError if it is not what a run writes."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare checksums
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than plain data, so it is not read: mmlib writes no such file"
        ) from error
    except Exception as error:  # the errors of zip, zlib, lzma, pickle and torch share no class
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged, or not a checkpoint ({reason})") from error
    if damaged:
        raise ValueError(f"{path} is damaged (checksum of {damaged})")
    if not isinstance(state, dict) or "format" not in state:
        raise ValueError(
            f"{path} was not written by mmlib: it has no format number; expected a file of "
            "mmlib.checkpoint.save"
        )
    if not whole(state["format"]) or state["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {state['format']}, this mmlib reads format {FORMAT}: use the "
            "mmlib that wrote it"
        )
    wanted = {*state, *needed, str}
    found = misfit(state, {key: form for key, form in FORM.items() if key in wanted}, "it")
    if found:
        raise ValueError(f"{path} does not hold what a run writes: {found.removeprefix('it, ')}")
    return renewed(state)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of all weights and buffers; they are whole even after ``fully_shard``."""
    return {
        name: distributed.full(value).detach().to("cpu", copy=True)
        for name, value in model.state_dict().items()
    }


@torch.no_grad()
def set_weights(model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Copy ``saved`` into the model, in place.

    Raises ValueError naming the first weight that does not fit.
    """
    own = model.state_dict()
    for name in sorted(own.keys() | saved.keys()):
        have, got = (tuple(w[name].shape) if name in w else "nothing" for w in (own, saved))
        if have != got:
            raise ValueError(
                f"the checkpoint is of another model: weight {name!r} is {got} there and {have} "
                "here; build the model as it was, or start a new run in another folder"
            )
    for name, value in own.items():
        value.copy_(distributed.like(saved[name], value))


def load_weights(model: nn.Module, folder: str | Path, best: bool = True) -> None:
    """Copy the weights of a run of ``fit`` (or of ``train``) into a model of your own, in place.

    With ``best`` they are those of the best epoch, else the last ones, from which training would go
    on. The model's mode (train or eval) stays as it is. Raises ValueError if ``folder`` holds no
    readable run, or if a weight of the model or of the run has no counterpart of its name and
    shape.

    >>> load_weights(nn.Linear(2, 2), "no/such/folder")
    Traceback (most recent call last):
    ValueError: no/such/folder/checkpoint.pt does not exist: give the folder that a training run ...
    """
    state = load(folder)
    try:
        set_weights(model, state["best" if best else "model"])
    except KeyError as error:
        raise ValueError(
            f"{Path(folder) / NAME} has no weights ({error}): it was not written by fit"
        ) from error


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state dict; its tensors are whole even after ``fully_shard``."""
    state = optimizer.state_dict()
    moments = {
        i: {key: distributed.full(value) for key, value in one.items()}
        for i, one in state["state"].items()
    }
    return state | {"state": moments}


def set_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Give an optimizer the state that ``optimizer_state`` returned.

    Raises ValueError if it is the state of another optimizer, or of other weights.
    """
    _check_optimizer(optimizer, saved)
    optimizer.load_state_dict(saved)
    for parameter, one in optimizer.state.items():
        for key in one.keys() - {"step"}:
            if isinstance(one[key], Tensor):
                one[key] = distributed.like(one[key], parameter)


def _check_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Raise ValueError for a state that ``load_state_dict`` would take although it does not fit."""
    groups, own = saved["param_groups"], optimizer.state_dict()["param_groups"]
    if list(map(_settings, groups)) != list(map(_settings, own)):
        raise ValueError(
            "the checkpoint is of another optimizer: its groups of weights have other "
            "members or settings; build it as it was, or start a new run elsewhere"
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return  # what other optimizers keep for each weight is not known here
    for place, moments in saved["state"].items():
        shape = tuple(parameters[place].shape) if 0 <= place < len(parameters) else "unknown"
        fine = {key for key, one in moments.items() if tensor(one) and one.is_floating_point()}
        found = {key: tuple(moments[key].shape) if key in fine else None for key in moments}
        third = {"max_exp_avg_sq": shape} if own[0]["amsgrad"] else {}
        if found != {"step": (), "exp_avg": shape, "exp_avg_sq": shape} | third:
            raise ValueError(
                f"the checkpoint's optimizer does not fit weight {place}, of shape "
                f"{shape}: it is of another model"
            )


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in a group of weights.

    The learning rate changes with each step, so floats may differ. One that was given as a tensor
    is a float after the first step.
    """

    def compared(value: Any) -> Any:
        if isinstance(value, float | Tensor):
            return float
        return value if plain(value) else type(value)

    return {name: compared(value) for name, value in group.items()}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of this process's torch generators: that of the CPU, and that of its GPU.

    While it trains, mmlib draws from no other generator.
    """
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(device: torch.device, saved: dict[str, Tensor]) -> None:
    """Set torch's generators to what ``random_state`` returned.

    The generator of a device that is not in ``saved`` stays as it is. Raises ValueError if
    ``saved`` holds no usable state.
    """
    try:
        torch.set_rng_state(saved["cpu"])
        if device.type in saved and device.type != "cpu":
            torch.get_device_module(device).set_rng_state(saved[device.type])
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(
            f"the checkpoint has no usable state of torch's random generator ({error}): start a "
            "new run"
        ) from error
