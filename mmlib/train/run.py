"""How far a run has come: how that is saved, resumed, and compared with another run."""

import json
import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.train import checkpoint, distributed
from mmlib.train.history import History

# settings that a resumed run may change
FREE = ("progress", "tensorboard", "checkpoint_every", "device", "keep_freed_memory")
WORDS = "preprocessing, target, why"  # an explanation for readers, which may change as well
POSITION = ("epoch", "batch", "step", "loss", "count", "best_value", "best_epoch")
# what a checkpoint must hold so that a run can go on from it
NEEDED = (
    *POSITION,
    "extra",
    "config",
    "batches",
    "processes",
    "model",
    "best",
    "optimizer",
    "random",
    "history",
    "seconds",
)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in ``fit``: the message says where the run was and how to go on.

    ``history`` has the epochs that are done.
    """

    def __init__(self, message: str, history: History):
        super().__init__(message)
        self.history = history

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message in place of a long traceback."""
        return [str(self)]


@dataclass(eq=False)
class Progress:
    """How far a call of ``fit`` has come, and the folder where that is kept.

    ``Progress.begin`` starts a run or resumes one. Under torchrun all processes read ``out``, and
    the first one writes. ``with Progress.begin(...) as run`` leaves a model that can be used,
    however the block ends.
    """

    out: str | Path | None = None  # the folder; None: nothing is written
    # what must be as it was when the run is resumed
    identity: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0  # epochs that are done
    batch: int = 0  # batches of the next epoch that are done, of all processes together
    step: int = 0  # optimizer steps that are done; the learning rate follows from them
    loss: float = 0.0  # the sum of loss * count over the epoch so far
    count: float = 0.0  # the sum of count over the epoch so far
    best_value: float | None = None  # the best score so far, the higher the better
    best_epoch: int = 0  # the epoch that had it; 0: there is no score yet
    stopped: bool = False  # ``after_epoch`` has ended the training
    history: History = field(default_factory=History)
    # weights on the CPU, all of them finite: those of the best epoch, and the last ones that were
    # checked; empty as long as there are none
    best: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0  # of this epoch, before the run was stopped
    began: float = field(default_factory=time.perf_counter)  # when this epoch began, or went on
    # the states of torch's generators, if the checkpoint was made within an epoch
    random: dict[str, Tensor] | None = None
    # the checkpoint, until all of it is restored; empty if there is none
    saved: dict[str, Any] = field(default_factory=dict)
    # the highest learning rate of each parameter group
    rates: list[float] = field(default_factory=list)
    # set by ``restore_weights``
    model: nn.Module = field(init=False, repr=False)
    # set by ``restore_optimizer``
    optimizer: torch.optim.Optimizer = field(init=False, repr=False)
    device: torch.device = field(init=False, repr=False)

    @classmethod
    def begin(
        cls,
        out: str | Path | None,
        resume: bool,
        config: Any,
        extra: dict[str, Any] | None,
        train: Any,
        val: Any,
    ) -> "Progress":
        """A new run, or with ``resume`` that of the checkpoint in ``out``, if there is one.

        Raises ValueError if the checkpoint is of another run.
        """
        if resume and out is None:
            raise ValueError("resume=True needs the folder of the run: fit(..., out=FOLDER)")
        if out is None:
            return cls()
        settings = {name: value for name, value in asdict(config).items() if name not in FREE}
        identity = {
            "extra": _plain(extra),
            "config": settings,
            "batches": len(train),
            "processes": distributed.world(),
            "data": {"train": _content(train), "val": _content(val)},
        }
        run = cls(out, identity)
        if resume and checkpoint.exists(out):
            run.saved = checkpoint.load(out, NEEDED)
            run._check_same(run.identity)
            run._take(run.saved)
        elif distributed.rank() == 0:
            checkpoint.clear(out)
        return run

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        """Leave the model with its best weights so far, in eval mode.

        An interrupt (Ctrl-C) becomes an ``Interrupted``, with the history and how to go on.
        """
        # before the weights are restored there is no model here; after an error the other processes
        # do not take part, so the pieces of a sharded model cannot be put together
        if hasattr(self, "model") and (kind is None or not distributed.is_sharded(self.model)):
            self.restore_best()
            self.model.eval()
        if kind is KeyboardInterrupt:
            raise Interrupted(self._stopped(), self.history) from None
        # torch raises this error at any place in the program
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            error.args = (
                f"{str(error).strip()} It read the files; often memory has run out: use fewer "
                "workers, load_data(workers=...)",
            )

    def _stopped(self) -> str:
        weights = f"the best, those of epoch {self.best_epoch}" if self.best_epoch else "the last"
        again = ""
        if self.out is not None:
            again = (
                f"; fit(..., out={str(self.out)!r}, resume=True) goes on from the last checkpoint"
            )
        return (
            f"fit was interrupted in epoch {self.epoch + 1}, at step {self.step}: the model "
            f"has weights to use, {weights}{again}"
        )

    def _check_same(self, parts: dict[str, Any]) -> None:
        """Raise ValueError for the first setting that is not as it was; warn of unknown parts."""
        for part, now in parts.items():
            if part not in self.saved:
                warnings.warn(
                    f"the checkpoint in {self.out} was written by an older mmlib, which did not "
                    f"note the {part}: it cannot be checked that they are as they were",
                    stacklevel=4,
                )
                continue
            for name, was, given in _differences(part, self.saved[part], now):
                raise ValueError(
                    f"cannot resume the run in {self.out}: {name} was {_brief(was)} and is now "
                    f"{_brief(given)}; give what it was, or another folder"
                )

    def _take(self, saved: dict[str, Any]) -> None:
        """Stand where the checkpoint ``saved`` was made."""
        for name in POSITION:
            setattr(self, name, saved[name])
        self.stopped = saved.get("stopped", False)  # a checkpoint of an older mmlib does not say
        self.history, self.best = History(saved["history"]), saved["best"]
        self.seconds = saved["seconds"]
        if len(saved["random"]) != saved["processes"]:
            raise ValueError(
                f"cannot resume the run in {self.out}: it has {len(saved['random'])} "
                "states of torch's generators, expected one for each process "
                f"({saved['processes']})"
            )
        self.random = saved["random"][distributed.rank()] if self.batch else None

    def restore_weights(self, model: nn.Module) -> None:
        """Give the model the weights of the checkpoint, if there is one.

        It is called before the model is wrapped for several processes.
        """
        if self.saved:
            checkpoint.set_weights(model, self.saved["model"])
        self.model = model
        self.keep()

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        """Give the optimizer its state from the checkpoint, if there is one.

        From here on the run is where it was stopped, and so is its history on disk.
        """
        self.optimizer, self.device = optimizer, device
        self.model.zero_grad()  # an interrupted backward pass may have left gradients
        # read before the checkpoint is restored, whose rates are those of its step
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.identity["optimizer settings"] = _settings(optimizer)
        if self.out is not None and self.saved:
            self._check_same({"optimizer settings": self.identity["optimizer settings"]})
            checkpoint.set_optimizer_state(optimizer, self.saved["optimizer"])
            if distributed.rank() == 0:
                self.history.write(self.out)
        self.saved = {}

    def keep(self) -> None:
        """Keep a copy of the weights, to save them or to go back to them.

        Raises ValueError, naming the first weight that is not finite; then the copy before stays.
        """
        weights = checkpoint.weights(self.model)
        trained = [name for name, p in self.model.named_parameters() if p.requires_grad]
        for name in trained:
            if name in weights and not weights[name].isfinite().all():
                when = (
                    f"after step {self.step}: the step was too long; lower lr"
                    if self.step
                    else "before the first step: load it again"
                )
                raise ValueError(f"weight {name!r} is not finite {when}")
        self.kept = weights

    def restore_random(self) -> None:
        """Set torch's generators to their state in a checkpoint made within an epoch, once."""
        if self.random is not None:
            checkpoint.set_random_state(self.device, self.random)
            self.random = None

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch.

        If there is no score yet, it keeps its own, or gets those kept last if these are not finite.
        """
        if self.best_epoch:
            checkpoint.set_weights(self.model, self.best)
        elif self.kept and not all(
            bool(p.isfinite().all()) for p in self.model.parameters() if p.requires_grad
        ):
            checkpoint.set_weights(self.model, self.kept)

    def goes_on(self, epochs: int, patience: int) -> bool:
        """Is there another epoch to train?

        Yes, if epochs are left, ``after_epoch`` has not stopped the run, and the best score is less
        than ``patience`` epochs old (0: however old).
        """
        stale = bool(patience and self.best_epoch) and self.epoch - self.best_epoch >= patience
        return self.epoch < epochs and not self.stopped and not stale

    def end_epoch(self, row: dict[str, float], monitor: str) -> None:
        """Add the row of an epoch to the history, and stand at the start of the next epoch.

        The weights kept last become the best ones if the score in ``row`` is the best so far.
        Raises ValueError for a score that is not finite.
        """
        goal, name = monitor.split(" ")
        self.epoch, self.batch, self.loss, self.count = self.epoch + 1, 0, 0.0, 0.0
        if name in row:
            value = row[name] if goal == "max" else -row[name]
            if not math.isfinite(value):
                raise ValueError(
                    f"{name} is {row[name]} after epoch {self.epoch}, so no epoch can be the best: "
                    "check the val rows, or monitor another score"
                )
            if self.best_value is None or value > self.best_value:
                self.best_value, self.best_epoch, self.best = value, self.epoch, self.kept
        row["seconds"] = round(self.seconds + time.perf_counter() - self.began, 3)
        self.history.append(row)
        self.seconds, self.began = 0.0, time.perf_counter()

    def ask(
        self,
        after_epoch: Callable[[dict[str, Any], nn.Module], bool | None] | None,
        row: dict[str, Any],
    ) -> None:
        """Ask ``after_epoch``, if there is one, whether to stop; a "yes" in one process counts.

        The weights are kept again, because the function may have changed them.
        """
        if after_epoch is not None:
            self.stopped = any(distributed.gather(bool(after_epoch(dict(row), self.model))))
            self.keep()

    def save(self) -> None:
        """Write the checkpoint, with the weights kept last, then the history.

        All processes must call it together.
        """
        if self.out is None:
            return
        state = (
            self.identity
            | {name: getattr(self, name) for name in POSITION}
            | {
                "stopped": self.stopped,
                "model": self.kept,
                "best": self.best if self.best_epoch else self.kept,
                "optimizer": checkpoint.optimizer_state(self.optimizer),
                "random": distributed.gather(checkpoint.random_state(self.device)),
                "history": list(self.history),
                "seconds": self.seconds + time.perf_counter() - self.began,
            }
        )
        if distributed.rank() == 0:
            checkpoint.save(self.out, state)
            self.history.write(self.out)


def _plain(extra: dict[str, Any] | None) -> dict[str, Any]:
    """``extra`` as JSON gives it back; ValueError if it is not plain data."""
    try:
        return json.loads(json.dumps(extra or {}))
    except TypeError as error:
        raise ValueError(
            "extra must be plain data (dict, list, text, numbers) to be kept in the checkpoint: "
            f"{error}"
        ) from error


def _content(loader: Any) -> Any:
    """What a loader's batches are made of, as plain data; None if that cannot be known.

    A loader of mmlib.data says it (``identity``); of a list of batches a checksum is taken.
    """
    if hasattr(loader, "identity"):
        return _plain(loader.identity())
    if not isinstance(loader, list):
        return None
    checksum = 0
    for batch in loader:
        for name, value in sorted(batch.items()):
            checksum = zlib.crc32(f"{name} {getattr(value, 'shape', '')}".encode(), checksum)
            if isinstance(value, Tensor):
                checksum = zlib.crc32(
                    value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data,
                    checksum,
                )
    return {"batches": len(loader), "checksum": checksum}


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's class and the settings of each group of weights, as plain data."""
    return {"algorithm": type(optimizer).__name__} | {
        f"group {number}": json.loads(
            json.dumps(group | {"params": len(group["params"])}, default=str)
        )
        for number, group in enumerate(optimizer.param_groups)
    }


def _differences(name: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two settings differ, as deep as they do: ('spec, lr', 0.1, 0.2)."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        if name != WORDS and not _same(then, now):
            yield name, then, now
        return
    path = "" if name in ("config", "extra", "data", "optimizer settings") else f"{name}, "
    for key in sorted(then.keys() | now.keys()):
        yield from _differences(path + key, then.get(key), now.get(key))


def _same(then: Any, now: Any) -> bool:
    try:
        return bool(then == now)
    except RuntimeError:  # tensors, in a file that no run has written
        return False


def _brief(value: Any) -> str:
    return text if len(text := repr(value)) <= 80 else text[:77] + "..."
